"""What is measured of one video: the oracle's answers, motion, fidelity and sharpness. The scores of a sweep are made from
this module and what it imports; a change here means that all of them are made anew."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from testbed.oracle import Oracle, displacement

from ..study.score_columns import COLUMNS
from ..study.video_files import load_reference, read_video
from .fidelity import fidelity
from .objects import object_measures
from .optical_flow import pair_scores

# Columns that are rounded, to so many decimals.
DIGITS = {name: column.digits for name, column in COLUMNS.items() if column.digits is not None}


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
        copy = answer_all(Oracle(), np.repeat(reference[None], frames, axis=0), sample["questions"])
        out["still_copy"] = int(not out["adherence"] and out["answers"] == copy["answers"])
        out |= {"displacement_px": displacement(*oracle.parse(video))} | motion(video)
        out |= object_measures(video, reference, sample["questions"]) | fidelity(video, reference)
    return out


def motion(video: np.ndarray) -> dict[str, float]:
    """Optical flow of the whole video and of its quarters, in px / frame, and VBench's temporal flickering: 1 less the mean
    absolute difference of neighbouring frames over 255. uint8 (T, H, W, 3)."""
    flow = pair_scores(video)
    quarters = {f"flow_q{i}": float(part.mean()) for i, part in enumerate(np.array_split(flow, 4), start=1)}
    difference = np.abs(np.diff(video.astype(np.float32), axis=0)).mean()
    return {"flow_px": float(flow.mean())} | quarters | {"temporal_flickering": float(1 - difference / 255)}
