"""Run VideoScore2's released inference on a manifest's videos: `videoscore2_program.py MANIFEST OUT`.

It runs in VideoScore2's environment (videoscore2.txt) and calls `main` of the repository's own vs2_inference.py (read
at e6abe26), whose folder VIDEOSCORE2_REPO names; VIDEOSCORE2_MODEL is the model, TIGER-Lab/VideoScore2 by default. That
script loads the model for each video and samples at temperature 0.7 without a seed; here the model is loaded once, and
torch is seeded with 0 for each video. Its values are read from what it prints; None, where it could not read its own
reply, is no value.
"""

import contextlib
import csv
import functools
import importlib.util
import io
import os
import re
import sys
from pathlib import Path

PRINTED = {
    "videoscore2_visual_quality": "Visual Quality",
    "videoscore2_text_alignment": "Text-to-Video Alignment",
    "videoscore2_physical_consistency": "Physical Consistency",
}


def main(manifest: str, out: str) -> None:
    """Score the videos of `manifest` and write the table `out`; a video that fails has a row that says why."""
    script = released()
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "metric", "value", "status", "reason"))
        for row in rows:
            for metric, value in score(script, row).items():
                writer.writerow((row["video"], metric, *value))


def released():
    """The repository's vs2_inference as a module, whose models and processors are loaded once."""
    spec = importlib.util.spec_from_file_location(
        "vs2_inference", Path(os.environ["VIDEOSCORE2_REPO"], "vs2_inference.py")
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in ("AutoModelForVision2Seq", "AutoProcessor"):
        setattr(script, name, Once(getattr(script, name)))
    return script


class Once:
    """A class of transformers whose from_pretrained returns the same object again; so does `to` of what it returns."""

    def __init__(self, kind):
        self.from_pretrained = functools.lru_cache(maxsize=None)(kind.from_pretrained)


def score(script, row) -> dict:
    """metric -> (value, status, reason)."""
    import torch

    torch.manual_seed(0)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            script.main(os.environ.get("VIDEOSCORE2_MODEL", "TIGER-Lab/VideoScore2"), row["video"], row["prompt"])
    except Exception as error:
        return dict.fromkeys(PRINTED, ("", "failed", f"{type(error).__name__}: {error}"[:200]))
    return {metric: read(said.getvalue(), label) for metric, label in PRINTED.items()}


def read(said: str, label: str) -> tuple:
    """The value after the label in the block that the script prints last."""
    block = said.rpartition("====== Inference Result ======")[2]
    found = re.search(rf"^{re.escape(label)}: (\S+)", block, re.MULTILINE)
    if found and found[1] != "None":
        return repr(float(found[1])), "ok", ""
    return "", "undefined", f"VideoScore2 could not read {label} in its own reply"


if __name__ == "__main__":
    main(*sys.argv[1:])
