"""A benchmark in OmitI2V's format with photographs (noise and gradients) of five sizes, one of them turned by EXIF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(96, 64), (64, 96), (70, 70), (150, 60), (101, 77)]
TURNED = 2  # the sample whose image is stored lying on its side
PROMPTS = [
    "a cat dances",
    "a blurry cat",
    "a cat",
    "cat dances a",
    "blurry cat dances",
    "dances",
]  # words of the tiny tokenizers
KINDS = ["modification", "addition", "deletion"]


def make_omiti2v(folder: Path, samples: int = 6) -> Path:
    """Write the folder; `samples` of the three kinds in turn."""
    rng, found = np.random.default_rng(0), []
    for i in range(samples):
        kind, (width, height) = KINDS[i % 3], SIZES[i % len(SIZES)]
        name = f"{kind}/pose/sample_{i}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.linspace(0, 160, width)[None, :, None] + rng.integers(0, 95, (height, width, 3))
        image, exif = Image.fromarray(pixels.astype(np.uint8)), Image.Exif()
        if i == TURNED:
            image, exif[0x0112] = image.rotate(90, expand=True), 6
        image.save(folder / name, exif=exif)
        questions = [{"id": f"q{n}", "question": f"Is there a {thing}?", "expected_answer": answer, "category": "object_presence"}
                     for n, (thing, answer) in enumerate([("cat", "yes"), ("dance", "yes"), ("dog", "no")])]  # fmt: skip
        found.append({"id": f"sample_{i}", "image-path": name, "prompt": PROMPTS[i], "main-category": kind,
                      "sub-category": "pose", "domain": "real", "expected-change": "it dances",
                      "resolution": [width, height], "questions": questions})  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(found))
    return folder


JUDGE = '''"""A simulated judge: truth by the brightness of a video's last frame, and an error rate of its own."""
import csv, hashlib, json, sys
import av

out = csv.writer(sys.stdout, lineterminator="\\n")
out.writerow(["video", "metric", "value"])
for row in csv.DictReader(open(sys.argv[1])):
    with av.open(row["video"]) as container:
        last = [f.to_ndarray(format="gray").mean() for f in container.decode(video=0)][-1]
    right = []
    for q in json.loads(row["questions"]):
        seen = (last * 7919 + len(q["question"])) % 2 < 1
        text = hashlib.sha256(f"{last:.3f} {q['question']} {row['id']}".encode()).digest()
        answer = "yes" if seen != (text[0] < 26) else "no"  # one in ten is wrong
        right.append(answer == q["expected_answer"])
    out.writerow([row["video"], "macro", sum(right) / len(right)])
    out.writerow([row["video"], "adherence", float(all(right))])
'''
SCORER = """\
name: simulated_judge_of_photographs
version: "1"
command: ["{env:JUDGE_PYTHON}", "{folder}/judge.py", "{manifest}"]
per: manifest
output: csv
inputs: [questions, id]
files: [judge.py]
metrics:
  macro: {unit: share, low: 0, high: 1, what: share of questions answered as expected, better: higher}
  adherence: {unit: "", low: 0, high: 1, what: all of them, better: higher, proportion: true}
"""


def make_judge(folder: Path) -> Path:
    """Write the judge and its scorer's file; the latter's path. It needs JUDGE_PYTHON in the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judge.py").write_text(JUDGE)
    (folder / "judge.yaml").write_text(SCORER)
    return folder / "judge.yaml"
