"""VideoScore's program: with stand-ins for its packages, and, where its environment is there, with a small random model of its
own class."""

import csv
import hashlib
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from ruamel.yaml import YAML
from test_official_programs import mp4, standin, table
from tiny_scorers import moving, video_of

from analysis.scorers.program import FOLDER
from analysis.scorers.registry import make_scorer

TEXT = 'Scores, please. The text prompt is "{text_prompt}":\n'
REPOSITORY = f"def regression_query_template():\n    return {TEXT!r}\n"
TORCH = """
class no_grad:
    __enter__ = __exit__ = lambda self, *a: None
class cuda:
    is_available = staticmethod(lambda: False)
bfloat16 = "bfloat16"
"""
TRANSFORMERS = """
class Inputs(dict):
    def to(self, device):
        assert device == "cpu"
        return self
class AutoProcessor:
    @classmethod
    def from_pretrained(cls, name):
        return cls()
    def __call__(self, text, images, return_tensors):
        assert return_tensors == "pt" and {image.mode for image in images} == {"RGB"}
        return Inputs(text=text, images=images)
"""
MANTIS = """
class Idefics2ForSequenceClassification:
    device, loads, config = "cpu", 0, None
    @classmethod
    def from_pretrained(cls, name, torch_dtype, use_safetensors):
        assert (name, torch_dtype, use_safetensors) == ("TIGER-Lab/VideoScore", "bfloat16", True)
        cls.loads += 1
        return cls()
    def eval(self):
        return self
    def to(self, device):
        assert device == "cpu"
    def __call__(self, text, images):
        if "1" in text:
            raise RuntimeError("out of memory")
        said, _, places = text.rpartition('":\\n')
        self.logits = [[len(images), places.count("<image> "), images[-1].getpixel((0, 0))[0], 0.12345, self.loads]]
        assert said == 'Scores, please. The text prompt is "a "cat", ' + text[text.index("cat") + 6]
        return self
"""


@pytest.fixture
def manifest(tmp_path):
    """Clips of 9, 40 and 16 frames; webm, unlike mp4, does not say how many."""
    mp4(tmp_path / "v0.mp4", moving())
    mp4(tmp_path / "v1.mp4", moving(seed=1, frames=40))
    clip = moving(seed=2, frames=40)
    clip[:, :8, :8] = (5 * np.arange(40))[:, None, None, None]
    video_of(tmp_path, clip, name="v2.mkv")
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "prompt"))
        writer.writerows((f"v{i}.{suffix}", f'a "cat", {i}') for i, suffix in enumerate(("mp4", "mp4", "mkv")))
    return tmp_path / "manifest.csv"


def repository(tmp_path, monkeypatch):
    (tmp_path / "repository/benchmark").mkdir(parents=True)
    (tmp_path / "repository/benchmark/utils_tools.py").write_text(REPOSITORY)
    monkeypatch.setenv("VIDEOSCORE_REPO", str(tmp_path / "repository"))


def own_copy(tmp_path, **changes):
    """The program's YAML file with other values, and its files beside it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for file in FOLDER.glob("videoscore[._]*"):
        shutil.copy(file, folder)
    yaml = YAML()
    given = yaml.load(folder / "videoscore.yaml")
    given.update(changes)
    yaml.dump(given, folder / "videoscore.yaml")
    return folder


def test_videoscore_shows_sixteen_frames_and_reads_five_outputs(manifest, tmp_path, monkeypatch):
    packages = {"torch": TORCH, "transformers": TRANSFORMERS, "mantis/models/idefics2": MANTIS}
    standin(tmp_path, monkeypatch, "VIDEOSCORE_PYTHON", **packages)
    repository(tmp_path, monkeypatch)
    refused = table(manifest, "videoscore", tmp_path)["v0.mp4", "videoscore_dynamic_degree"]
    assert refused[0] == "failed" and "another text than the released one: check out 8e44973" in refused[1]
    program = own_copy(tmp_path) / "videoscore_program.py"
    released = program.read_text().partition('TEXT = "')[2][:64]
    program.write_text(program.read_text().replace(released, hashlib.sha256(TEXT.encode()).hexdigest()))
    found = table(manifest, str(program.with_name("videoscore.yaml")), tmp_path)
    names = list(make_scorer("videoscore").metrics)
    assert [found["v0.mp4", n] for n in names[:2]] == ["9.0", "9.0"]  # all of nine
    assert [found["v2.mkv", n] for n in names] == [
        "16.0",
        "16.0",
        f"{5 * 37}.0",
        "0.123",
        "1.0",
    ]  # int(15 * 40 / 16) = 37
    assert found["v1.mp4", names[0]] == ("failed", "RuntimeError: out of memory")


TINY = """
import csv, json, sys
import av, numpy as np, torch
from mantis.models.idefics2 import Idefics2ForSequenceClassification
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Idefics2Config, Idefics2ImageProcessor, Idefics2Processor, PreTrainedTokenizerFast
folder, repository = sys.argv[1:3]
words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                                    model_input_names=["input_ids", "attention_mask"])
processor = Idefics2Processor(Idefics2ImageProcessor(do_image_splitting=False, size={"shortest_edge": 28, "longest_edge": 56}),
                              tokenizer, image_seq_len=4)
config = Idefics2Config(
    vision_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14),
    perceiver_config=dict(resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=16, num_key_value_heads=1,
                          hidden_size=32),
    text_config=dict(model_type="mistral", hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=4096),
    image_token_id=tokenizer.convert_tokens_to_ids("<image>"), num_labels=5, pad_token_id=tokenizer.pad_token_id,
    tie_word_embeddings=False,
)
torch.manual_seed(0)
model = Idefics2ForSequenceClassification(config)
with torch.no_grad():
    model.score.weight.mul_(20)
model.save_pretrained(folder)
processor.save_pretrained(folder)
# What examples/run_videoscore.py does with a video, written out.
sys.path.insert(0, repository + "/benchmark")
from utils_tools import regression_query_template
model, found = Idefics2ForSequenceClassification.from_pretrained(folder, torch_dtype=torch.bfloat16).eval(), {}
for row in csv.DictReader(open(sys.argv[3])):
    with av.open(row["video"]) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    total = len(frames)
    indices = np.arange(0, total, total / 16).astype(int) if total > 16 else np.arange(total)
    images = [Image.fromarray(frames[i]) for i in indices]
    text = regression_query_template().format(text_prompt=row["prompt"])
    text += "<image> " * (len(images) - text.count("<image>"))
    with torch.no_grad():
        logits = model(**processor(text=text, images=images, return_tensors="pt")).logits
    found[row["video"]] = [round(logits[0, i].item(), 3) for i in range(logits.shape[-1])]
json.dump(found, open(folder + "/found.json", "w"))
"""


def test_videoscore_on_a_small_random_model_of_its_class(manifest, tmp_path):
    """Needs VIDEOSCORE_PYTHON and VIDEOSCORE_REPO, as the scorer does, and no weights."""
    if why := make_scorer("videoscore").available():
        pytest.skip(why)
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "tiny.py").write_text(TINY)
    made = subprocess.run(
        [os.environ["VIDEOSCORE_PYTHON"], "tiny.py", str(model), os.environ["VIDEOSCORE_REPO"], "manifest.csv"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    command = [*make_scorer("videoscore").command[:-2], str(model), "16"]
    found = table(manifest, str(own_copy(tmp_path, command=command) / "videoscore.yaml"), tmp_path)
    wanted, names = json.loads((model / "found.json").read_text()), list(make_scorer("videoscore").metrics)
    for video, values in wanted.items():
        assert [float(found[video, name]) for name in names] == values
    assert len({tuple(v) for v in wanted.values()}) == 3  # what is shown moves the answer
