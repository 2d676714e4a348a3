"""VideoScore, the first version, on a manifest's videos: `videoscore_program.py MANIFEST OUT REPOSITORY MODEL FRAMES`.

It runs in VideoScore's environment (videoscore.txt). What the model is asked is the released text, read from
benchmark/utils_tools.py of its repository (at 8e44973) and refused if it is another. Frames and answer are as in
examples/run_videoscore.py, which is a script for one video: every (count / FRAMES)-th frame, one image for each behind
the text, in bfloat16, and the five outputs of the regression to three decimals. That script believes the container's
number of frames, which webm and mkv do not state; here they are counted.
"""

import csv
import hashlib
import importlib.util
import sys
from pathlib import Path

import av
import torch
from mantis.models.idefics2 import Idefics2ForSequenceClassification
from transformers import AutoProcessor

TEXT = "49b386d9ea3003760c983cc258cf4211faf858d58191f95fcfacdf68a8fed2c0"  # SHA-256 of the released text
METRICS = (
    "videoscore_visual_quality",
    "videoscore_temporal_consistency",
    "videoscore_dynamic_degree",
    "videoscore_text_alignment",
    "videoscore_factual_consistency",
)


def main(manifest: str, out: str, repository: str, model_name: str, frames: str) -> None:
    """Write `out`, a CSV with a row for each video and metric."""
    text = released_text(Path(repository, "benchmark/utils_tools.py"))
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    processor = AutoProcessor.from_pretrained(model_name)
    model = Idefics2ForSequenceClassification.from_pretrained(
        model_name, torch_dtype=torch.bfloat16, use_safetensors=True
    ).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "metric", "value", "status", "reason"))
        for row in rows:
            try:
                values = [(repr(v), "ok", "") for v in score(model, processor, text, row, int(frames))]
            except Exception as error:
                values = [("", "failed", f"{type(error).__name__}: {error}"[:200])] * len(METRICS)
            writer.writerows((row["video"], name, *value) for name, value in zip(METRICS, values, strict=True))


def released_text(path: Path) -> str:
    """What the model is asked, with the place of the prompt. Ends the program if it is not what was released."""
    spec = importlib.util.spec_from_file_location("utils_tools", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.regression_query_template()
    if hashlib.sha256(text.encode()).hexdigest() != TEXT:
        sys.exit(f"{path} has another text than the released one: check out 8e44973")
    return text


def score(model, processor, text: str, row, most: int) -> list[float]:
    """The five outputs for one video."""
    images = shown(row["video"], most)
    asked = text.format(text_prompt=row["prompt"])
    asked += "<image> " * (len(images) - asked.count("<image>"))
    inputs = processor(text=asked, images=images, return_tensors="pt").to(model.device)
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    if len(logits) != len(METRICS):
        raise ValueError(f"the model has {len(logits)} outputs, VideoScore {len(METRICS)}")
    return [round(float(v), 3) for v in logits]


def shown(path: str, most: int) -> list:
    """At most `most` frames as PIL images: all, or the int(k * count / most)-th ones."""
    with av.open(path) as container:
        count = sum(1 for _ in container.decode(video=0))
    wanted = range(count) if count <= most else {int(k * count / most) for k in range(most)}
    with av.open(path) as container:
        return [frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i in wanted]


if __name__ == "__main__":
    main(*sys.argv[1:])
