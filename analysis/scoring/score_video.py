"""What is measured of one video: the oracle's answers, motion, fidelity and sharpness. The scores of a sweep are made from
this module and what it imports; a change here means that all of them are made anew."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from testbed.oracle import Oracle, displacement

from ..study.video_files import load_reference, read_video
from .fidelity import fidelity
from .optical_flow import pair_scores

# Columns that are rounded, to so many decimals.
DIGITS = {
    "macro": 4,
    "displacement_px": 2,
    "flow_px": 2,
    "first_psnr": 1,
    "background_psnr": 1,
    "sharpness_retention": 3,
}


def answer_all(evaluator, video: np.ndarray | None, questions: list[dict]) -> dict:
    """Answers in the questions' order, joined by "|", and what follows from them; no video answers "unknown".

    macro: share of right answers. adherence: 1 if all are right.
    """
    answers = [evaluator.answer(video, q["question"]).value if video is not None else "unknown" for q in questions]
    right = [a == q["expected_answer"] for a, q in zip(answers, questions, strict=True)]
    return {"answers": "|".join(answers), "macro": float(np.mean(right)), "adherence": int(all(right))}


def load_video(row: dict, folder: Path, frames: int) -> tuple[np.ndarray | None, dict]:
    """(the video of a manifest's row, {}), or (None, its status and reason) where there is none to read."""
    path = folder / f"{row['key']}.mkv"
    if row["status"] != "ok":
        return None, {}
    if not path.is_file():
        return None, {"status": "missing", "reason": f"no file {path.name}"}
    try:
        return read_video(path, frames), {}
    except ValueError as error:
        return None, {"status": "corrupt", "reason": str(error).removeprefix(f"{folder}/")}


def score_video(row: dict, sample: dict, *, folder: Path, frames: int) -> dict:
    """The row of the manifest with its scores; `row["status"]` becomes "missing" or "corrupt" if the file is."""
    cv2.setNumThreads(1)
    oracle = Oracle()
    video, problem = load_video(row, folder, frames)
    out = row | problem | {k: sample[k] for k in ("main-category", "sub-category", "domain")}
    out |= answer_all(oracle, video, sample["questions"])
    if video is not None:
        reference = np.asarray(load_reference(Path(row["reference"])))
        out |= {"displacement_px": displacement(*oracle.parse(video)), "flow_px": float(pair_scores(video).mean())}
        out |= fidelity(video, reference)
    return out
