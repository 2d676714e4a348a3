"""Run VisionReward's released video scorer on a manifest's videos: `visionreward_program.py MANIFEST OUT`.

It runs in VisionReward's environment (visionreward.txt) and calls `score` of the repository's own inference-video.py
(read at 2db9d4f), whose folder VISIONREWARD_REPO names. That module reads its questions and weights from the folder and
loads the model when it is imported.
"""

import csv
import importlib.util
import os
import sys
from pathlib import Path


def main(manifest: str, out: str) -> None:
    """Score the videos of `manifest` and write the table `out`; a video that fails has a row that says why."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    repository = Path(os.environ["VISIONREWARD_REPO"]).resolve()
    out = os.path.abspath(out)
    os.chdir(repository)
    spec = importlib.util.spec_from_file_location("inference_video", repository / "inference-video.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "metric", "value", "status", "reason"))
        for row in rows:
            try:
                value = (repr(float(script.score(row["video"], row["prompt"]))), "ok", "")
            except Exception as error:
                value = ("", "failed", f"{type(error).__name__}: {error}"[:200])
            writer.writerow((row["video"], "visionreward", *value))


if __name__ == "__main__":
    main(*sys.argv[1:])
