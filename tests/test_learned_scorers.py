"""Learned scorers with tiny random models of the same classes: what reaches the model, and what becomes of its
features."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from scipy import ndimage
from tiny_scorers import moving, tiny_clip, tiny_vit, video_of
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from analysis.scorers import frame_features as frame
from analysis.scorers import weights
from analysis.scorers.aesthetic import AestheticLaion
from analysis.scorers.clip import ClipFrames, ClipText
from analysis.scorers.dino import Dino, DinoReference
from analysis.scorers.dreamsim import PARTS, DreamSim, as_square
from analysis.scorers.registry import make_scorer
from analysis.scorers.scorer import Sample, check_values
from analysis.scorers.video import NotScored

ROOT = Path(__file__).parents[1]
LEARNED = ("aesthetic_laion_hf", "background_consistency_clip_hf", "clip_text", "dynamic_degree_raft_torchvision",
           "i2v_background_dreamsim", "i2v_subject_dino_hf", "qwen_judge", "server_judge", "subject_consistency_dino_hf")  # fmt: skip


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return str(tiny_vit(tmp_path_factory.mktemp("vit")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(tiny_clip(tmp_path_factory.mktemp("clip")))


def scored(scorer, video, **sample):
    assert scorer.available() is None
    values = scorer.score(video, Sample(**sample))
    check_values(scorer, values)
    return values


def photograph(folder, frame):
    Image.fromarray(frame).save(folder / "reference.png")
    return folder / "reference.png"


# What each says of itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_each_says_what_it_needs_and_why_it_cannot_run_here(name):
    scorer = make_scorer(name)
    assert scorer.requires.weights and scorer.requires.licence
    why = scorer.available()
    assert why and any(word in why for word in ("hf download", "pip install", "url=", "safetensors", "unpacked"))
    for metric in scorer.metrics.values():
        assert not metric.published  # none was compared with the published program's own run
        assert metric.what


def test_what_they_fill_are_columns_of_the_papers_tables():
    stand_ins = YAML(typ="safe", pure=True).load((ROOT / "papers/stand_ins.yaml").read_text())["metrics"]
    known = {f"{paper}: {column}" for paper, columns in stand_ins.items() for column in columns}
    for name in (*LEARNED, "vbench", "vbench_i2v", "viclip", "musiq", "videoscore", "videoscore2", "visionreward"):
        for metric in make_scorer(name).metrics.values():
            assert set(metric.fills) <= known, (name, metric.fills)


def test_a_name_says_the_estimator_where_a_published_metric_is_imitated():
    for name in LEARNED:
        for metric, said in make_scorer(name).metrics.items():
            if said.imitates.startswith("VBench "):
                assert metric != said.imitates.split()[-1] and any(
                    w in metric for w in ("dino", "clip", "laion", "dreamsim", "raft")
                )


# Preparation of frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(480, 832, (224, 388)), (832, 480, (388, 224)), (64, 64, (224, 224)), (225, 224, (225, 224))],
)
def test_frames_are_resized_without_antialiasing(height, width, size):
    frames = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    ours = frame.resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), 224, "bilinear")[0, 0].numpy()
    assert ours.shape == size
    y, x = (
        np.clip((np.arange(n) + 0.5) * full / n - 0.5, 0, full - 1)
        for n, full in zip(size, (height, width), strict=True)
    )
    there = ndimage.map_coordinates(
        frames[0, ..., 0].astype(float), np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest"
    )
    assert np.abs(ours - there).max() < 0.05  # of 255; float32 against float64


def test_clip_sees_the_middle_square_and_dino_everything():
    frames = np.zeros((1, 100, 300, 3), np.uint8)
    frames[:, :, 100:200] = 255
    mean, std = (torch.tensor(v)[:, None, None] for v in frame.CLIP)
    middle = frame.as_clip(frames)[0] * std + mean
    assert middle.shape == (3, 224, 224) and middle[:, :, 20:-20].min() > 0.99
    whole = frame.as_dino(frames)[0]
    assert whole.shape == (3, 224, 672) and float((whole > 0).float().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert frame.as_dino_reference(frames).shape == (1, 3, 224, 224)
    square = as_square(frames)[0]
    assert square.shape == (3, 224, 224) and float((square > 0.5).float().mean()) == pytest.approx(1 / 3, abs=0.01)


# Formulas ------------------------------------------------------------------------------------------------------------------


def vbench_consistency(vectors):
    """VBench's loop, written out."""
    total = 0.0
    for i in range(1, len(vectors)):
        cosine = [float(torch.cosine_similarity(vectors[k], vectors[i], dim=0)) for k in (i - 1, 0)]
        total += (max(0.0, cosine[0]) + max(0.0, cosine[1])) / 2
    return total / (len(vectors) - 1)


def test_consistency_is_vbenchs():
    for seed in range(5):
        vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        unit = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        assert frame.consistency(unit).mean() == pytest.approx(vbench_consistency(vectors), abs=1e-12)
    assert frame.consistency(np.tile(unit[:1], (4, 1))).mean() == pytest.approx(1)


def test_vbenchs_reference_score_does_not_see_a_drift_and_what_is_kept_beside_it_does():
    angle = np.linspace(0, np.pi / 2, 81)
    found = frame.to_reference(np.array([1.0, 0.0]), np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert found["i2v"] == pytest.approx(0.9999, abs=5e-5)
    assert found["mean"] == pytest.approx(0.635, abs=2e-3) and found["last_quarter"] == pytest.approx(0.184, abs=1e-3)
    assert found["least"] == pytest.approx(0, abs=1e-9)


def test_features_do_not_depend_on_the_batch(vit):
    frames = moving(frames=frame.BATCH + 3)
    scorer = Dino(model=vit, device="cpu")
    whole = scorer.features(frames, frame.as_dino)
    alone = np.concatenate([scorer.features(frames[i : i + 1], frame.as_dino) for i in (0, 5, frame.BATCH + 2)])
    assert np.allclose(whole[[0, 5, frame.BATCH + 2]], alone, atol=1e-5) and np.allclose(
        np.linalg.norm(whole, axis=1), 1
    )


# DINO and CLIP -------------------------------------------------------------------------------------------------------------


def test_dino_scores_the_class_tokens_of_every_frame(vit, tmp_path):
    frames = moving()
    scorer, model = Dino(model=vit, device="cpu"), ViTModel.from_pretrained(vit, add_pooling_layer=False).eval()
    value = scored(scorer, video_of(tmp_path, frames))["subject_consistency_dino_hf"]
    with torch.no_grad():
        vectors = [
            model(pixel_values=p[None], interpolate_pos_encoding=True).last_hidden_state[0, 0]
            for p in frame.as_dino(frames)
        ]
    assert value == pytest.approx(vbench_consistency(vectors), abs=1e-5)
    still = scored(scorer, video_of(tmp_path, np.repeat(frames[:1], 5, axis=0), name="still.mkv"))
    assert still["subject_consistency_dino_hf"] == pytest.approx(1) and value < 1
    with pytest.raises(NotScored, match="1 frames"):
        scorer.score(video_of(tmp_path, frames[:1], name="one.mkv"), Sample())


def test_dino_compares_with_the_reference(vit, tmp_path):
    frames = moving()
    scorer, reference = DinoReference(model=vit, device="cpu"), photograph(tmp_path, frames[0])
    own = scored(scorer, video_of(tmp_path, frames), image=reference)
    other = scored(scorer, video_of(tmp_path, moving(seed=5), name="other.mkv"), image=reference)
    assert own["reference_dino_mean"] > other["reference_dino_mean"]
    assert own["reference_dino_least"] <= own["reference_dino_last_quarter"] <= 1
    still = scored(scorer, video_of(tmp_path, np.repeat(frames[:1], 5, axis=0), name="still.mkv"), image=reference)
    assert all(v == pytest.approx(1) for v in still.values())


def test_clip_scores_projected_features(clip, tmp_path):
    frames = moving()
    value = scored(ClipFrames(model=clip, device="cpu"), video_of(tmp_path, frames))["background_consistency_clip_hf"]
    model = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        output = model.get_image_features(pixel_values=frame.as_clip(frames))
        vectors = getattr(output, "pooler_output", output)
    assert vectors.shape == (9, 24) and value == pytest.approx(vbench_consistency(vectors), abs=1e-5)


def test_clip_compares_prompt_and_frames(clip, tmp_path):
    frames, prompt = moving(), "a cat jumps"
    values = scored(ClipText(model=clip, device="cpu"), video_of(tmp_path, frames), prompt=prompt)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    with torch.no_grad():
        out = model(**tokenizer(prompt, return_tensors="pt"), pixel_values=frame.as_clip(frames))
    cosines = (out.image_embeds @ out.text_embeds[0]) / out.image_embeds.norm(dim=-1) / out.text_embeds[0].norm()
    assert values["clip_text"] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert values["clip_text_last_quarter"] == pytest.approx(float(cosines[-2:].mean()), abs=1e-5)


def test_a_prompt_that_clip_cannot_read_whole_has_no_value_unless_it_may_end(clip, tmp_path):
    video, long = video_of(tmp_path, moving()), "cat " * 60
    with pytest.raises(NotScored, match=r"tokens, CLIP reads 77.*truncate=true"):
        ClipText(model=clip, device="cpu").score(video, Sample(prompt=long))
    assert "clip_text" in scored(make_scorer(f"clip_text:model={clip},device=cpu,truncate=true"), video, prompt=long)


def test_the_aesthetic_head_is_linear_on_unit_features(clip, tmp_path):
    head, frames = {"weight": torch.randn(1, 24), "bias": torch.tensor([5.0])}, moving()
    save_file(head, tmp_path / "head.safetensors")
    scorer = AestheticLaion(model=clip, head=str(tmp_path / "head.safetensors"), device="cpu")
    value = scored(scorer, video_of(tmp_path, frames))["aesthetic_laion_hf"]
    unit = torch.from_numpy(scorer.features(frames)).float()
    layer = torch.nn.Linear(24, 1)
    layer.load_state_dict(head)
    with torch.no_grad():
        assert value == pytest.approx(float((layer(unit).squeeze(-1) / 10).mean()), abs=1e-5)
    first = scorer.fingerprint()
    save_file({"weight": torch.zeros(1, 24), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    assert AestheticLaion(model=clip, head=str(tmp_path / "head.safetensors")).fingerprint() != first
    save_file({"weight": torch.zeros(1, 23), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=r"weight \(1, 24\)"):
        _ = AestheticLaion(model=clip, head=str(tmp_path / "head.safetensors"), device="cpu").linear


def test_pickled_weights_are_refused_with_the_way_to_convert_them(clip, tmp_path):
    why = AestheticLaion(model=clip, head=str(tmp_path / "head.pth")).available()
    assert "pickled" in why and "weights_only=True" in why and "head.safetensors" in why
    assert "no file" in AestheticLaion(model=clip, head=str(tmp_path / "gone.safetensors")).available()
    torch.save({"weight": torch.ones(1, 2)}, tmp_path / "head.pth")  # the advice works
    code = why.partition('-c "')[2].rpartition('"')[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(code, {})
    assert (tmp_path / "head.safetensors").is_file()


# DreamSim: the package is a stand-in here; what is tested is what reaches it ------------------------------------------------


@pytest.fixture
def dreamsim(monkeypatch, tmp_path):
    class Model:
        def embed(self, pixels):
            assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.shape[1:] == (3, 224, 224)
            return (
                torch.nn.functional.avg_pool2d(pixels, 32).flatten(1).squeeze()
            )  # as the package, one frame loses its axis

    calls, package = [], ModuleType("dreamsim")
    package.dreamsim = lambda **settings: (calls.append(settings), (Model(), None))[1]
    package.__spec__ = torch.__spec__
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    torchvision = ModuleType("torchvision")
    torchvision.__spec__ = torch.__spec__
    monkeypatch.setitem(sys.modules, "torchvision", sys.modules.get("torchvision", torchvision))
    folder = tmp_path / "weights"
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "adapter_model.safetensors").write_bytes(part.encode())
    return folder, calls


def test_dreamsim_compares_with_the_reference(dreamsim, tmp_path):
    folder, calls = dreamsim
    frames = moving()
    scorer, reference = DreamSim(folder=str(folder), device="cpu"), photograph(tmp_path, frames[0])
    values = scored(scorer, video_of(tmp_path, frames), image=reference)
    assert calls == [{"pretrained": True, "device": "cpu", "cache_dir": str(folder)}]
    pooled = torch.nn.functional.avg_pool2d(as_square(frames), 32).flatten(1).double()
    unit = (pooled / pooled.norm(dim=-1, keepdim=True)).numpy()
    assert values["i2v_background_dreamsim"] == pytest.approx(frame.to_reference(unit[0], unit)["i2v"], abs=1e-6)
    assert values["reference_dreamsim_mean"] == pytest.approx((unit @ unit[0]).mean(), abs=1e-6)


def test_dreamsim_never_downloads(dreamsim, tmp_path):
    folder, _ = dreamsim
    first = DreamSim(folder=str(folder)).fingerprint()
    (folder / PARTS[0] / "adapter_model.safetensors").write_bytes(b"other")
    assert DreamSim(folder=str(folder)).fingerprint() != first
    (folder / PARTS[0] / "adapter_model.safetensors").unlink()
    (folder / PARTS[0]).rmdir()
    assert "unpacked" in DreamSim(folder=str(folder)).available() and "unpacked" in DreamSim().available()


# Weights on this machine ---------------------------------------------------------------------------------------------------


def test_a_model_in_the_hubs_cache_is_found_and_known_by_its_blob(tmp_path, monkeypatch):
    digest = "ab" * 32
    repository = tmp_path / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / digest).write_bytes(b"never read")
    snapshot = repository / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / digest)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    import huggingface_hub

    real = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: real(*a, cache_dir=tmp_path, **k))
    assert weights.model_folder("org/name") == snapshot == weights.model_folder("org/name", "abc")
    assert weights.model_folder("org/other") is None and weights.model_folder("not a name") is None
    first = weights.weights_digest(snapshot)
    (snapshot / "model.safetensors").unlink()
    assert weights.model_folder("org/name") is None and "hf download org/name" in weights.missing_model("x", "org/name")
    (snapshot / "model.safetensors").write_bytes(b"other")
    assert weights.weights_digest(snapshot) != first


def test_a_sharded_model_that_is_not_whole_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (tmp_path / "1.safetensors").touch()
    assert weights.model_folder(str(tmp_path)) is None
    (tmp_path / "2.safetensors").touch()
    assert weights.model_folder(str(tmp_path)) == tmp_path


def test_a_model_that_is_pickled_is_saved_anew_as_the_message_says(vit, tmp_path, monkeypatch):
    model = ViTModel.from_pretrained(vit, add_pooling_layer=False)
    old = tmp_path / "old"
    old.mkdir()
    model.config.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    why = Dino(model=str(old)).available()
    assert "pytorch_model.bin alone" in why and "subject_consistency_dino_hf:model=FOLDER" in why
    monkeypatch.chdir(tmp_path)
    exec(why.partition('python -c "')[2].partition('"')[0], {})
    frames = moving(frames=2)
    ours, theirs = (Dino(model=m, device="cpu").features(frames, frame.as_dino) for m in ("FOLDER", vit))
    assert np.array_equal(ours, theirs)


def test_devices_that_are_not_there_are_refused():
    assert str(weights.device_of("cpu")) == "cpu" and weights.device_of("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="xpu:7"):
        weights.device_of("xpu:7")
