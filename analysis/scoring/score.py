"""Score a sweep: one tidy row per video, with every answer; a video that is missing or failed is a row that is wrong."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..study.benchmark_samples import load_samples
from ..study.few_colours import in_few_colours
from ..study.files import check_writable, write_atomically, write_table
from ..study.parameters import Parameters
from ..study.progress import track
from ..study.results_layout import SCORES, runs_folder, sweep_folder
from ..study.results_layout import STRIPS as STRIPS_FILE
from ..study.score_columns import COLUMNS
from .score_video import DIGITS, load_video, score_video

SETTINGS = ["sweep", "backbone", "method", "guidance_scale", "blur", "prompts", "seed", "sample"]
COLOURS = 96  # of film strips: two grey levels off on average
STRIPS = 8  # film strips are shown of the first samples, two of each event type: a rule, not a choice


def score(parameters: Parameters, sweep: str, executor: Executor) -> pd.DataFrame:
    """Score the videos of a sweep and write scores.csv into its folder, a row per (setting, seed, sample), and, from the
    small run, the film strips of the first samples, strips.webp."""
    folder, out = runs_folder(parameters, sweep), sweep_folder(parameters, sweep)
    if not (folder / "manifest.csv").is_file():
        raise ValueError(f"no manifest in {folder}: run `python -m analysis generate {sweep}` first")
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False).to_dict("records")
    check_writable(out)
    samples = {s["id"]: s for s in load_samples(parameters.benchmark_of(sweep).folder)}
    if silent := [name for name in dict.fromkeys(r["sample"] for r in manifest) if not samples[name]["questions"]]:
        raise ValueError(
            f"{len(silent)} samples have no questions, such as {silent[0]}; `python -m analysis evaluate` scores these"
        )
    backbone = parameters.backbones[parameters.sweeps[sweep].backbone]
    one = partial(score_or_say_why, folder=folder, frames=backbone.frames)
    results = executor.map(one, manifest, [samples[r["sample"]] for r in manifest], chunksize=8)
    rows = list(track(results, len(manifest), f"score {sweep}"))
    table = score_table(rows, sweep)
    if not parameters.full_size:  # their first videos are the same
        first = list(dict.fromkeys(r["sample"] for r in manifest))[:STRIPS]
        size = (backbone.height, backbone.width)
        sheet = film_sheet([r for r in manifest if r["sample"] in first], folder, backbone.frames, size)
        write_atomically(out / STRIPS_FILE, lambda path: write_sheet(sheet, path))
    write_table(table, out / SCORES)
    for (status, reason), rows in table[table["status"] != "ok"].groupby(["status", "reason"], sort=False):
        print(f"{sweep}: {len(rows)} {status}, counted as wrong: {reason}", file=sys.stderr)
    return table


def score_or_say_why(row: dict, sample: dict, *, folder: Path, frames: int) -> dict:
    """`score_video`, and for a video that cannot be scored, such as one of another size, the row of a wrong answer with the
    file's name and the reason: one video does not end the score of a sweep."""
    try:
        return score_video(row, sample, folder=folder, frames=frames)
    except Exception as error:
        said = " ".join(f"{row['key']}.mkv: {type(error).__name__}: {error}".split())
        return score_video(row | {"status": "unscored", "reason": said[:300]}, sample, folder=folder, frames=frames)


def score_table(rows: list[dict], sweep: str) -> pd.DataFrame:
    """The rows of `score_video` as the table of a sweep: rounded, and with its columns in order."""
    table = pd.DataFrame(rows).round(DIGITS).assign(sweep=sweep)
    table.columns = [c.replace("-", "_") for c in table.columns]
    kinds = ["main_category", "sub_category", "domain"]
    return table.reindex(columns=[*SETTINGS, *kinds, "status", "reason", "answers", *COLUMNS])


def write_sheet(sheet: np.ndarray, path: Path) -> None:
    """Write a sheet of film strips (uint8, H, W, 3) as WebP of COLOURS colours, a seventh of the bytes."""
    in_few_colours(Image.fromarray(sheet), COLOURS).convert("RGB").save(path, lossless=True, quality=100, method=4)


def film_sheet(rows: list[dict], folder: Path, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Five frames of each video side by side, the videos below each other in the order of `rows`; grey where there is none of
    `size` (height, width). Notebooks cut film strips out of it, so that they need no videos."""
    picked, strips = np.linspace(0, frames - 1, 5).round().astype(int), []
    for row in rows:
        video, _ = load_video(row, folder, frames)
        if video is not None and video.shape[1:3] == size:
            strips.append(np.concatenate(video[picked], axis=1))
        else:
            strips.append(np.full((size[0], len(picked) * size[1], 3), 128, np.uint8))
    return np.concatenate(strips)
