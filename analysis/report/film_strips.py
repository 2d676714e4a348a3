"""Film strips: frames of videos side by side with gaps and frame numbers, each video marked by what became of its prompt."""

from __future__ import annotations

import textwrap
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from ..scoring.blind_controls import benchmark, scores_of_copy
from . import labels

COLOURS = {"followed": "#009E73", "still copy": "#56B4E9", "wrong": "#D55E00", None: "#bbbbbb"}
GAP, EDGE, ZOOM = 6, 5, 2  # pixels between frames and of the coloured edge, after enlarging each frame's pixels


def outcomes(scores: pd.DataFrame, seed: int) -> pd.Series:
    """What became of each video: "followed" (all questions right), "still copy" (answers as a still copy of the reference
    would be answered) or "wrong", in the order of `scores`, whose samples are those of the benchmark drawn from `seed`."""
    place = {sample: i for i, sample in enumerate(_prompts(seed))}
    copies = {sample: _answers_of_copy(seed, place[sample]) for sample in scores["sample"].unique()}
    same = scores["answers"].to_numpy() == scores["sample"].map(copies).to_numpy()
    found = np.where(scores["adherence"] == 1, "followed", np.where(same, "still copy", "wrong"))
    return pd.Series(found, index=scores.index)


@lru_cache(maxsize=4096)
def _answers_of_copy(seed: int, index: int) -> str:
    return scores_of_copy(*benchmark(seed)[index])["answers"]


@lru_cache(maxsize=2)
def _prompts(seed: int) -> dict[str, str]:
    return {record["id"]: record["prompt"] for record, _, _ in benchmark(seed)}


def framed(strip: np.ndarray, outcome: str | None = None) -> np.ndarray:
    """A strip (H, n W, 3) of square frames with gaps between them and a coloured edge that tells the outcome."""
    side = strip.shape[0]
    frames = strip.reshape(side, -1, side, 3).transpose(1, 0, 2, 3).repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
    count, size = len(frames), side * ZOOM
    sheet = np.full((size + 2 * EDGE, count * size + (count - 1) * GAP + 2 * EDGE, 3), 255, np.uint8)
    colour = np.array([int(COLOURS[outcome][i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    sheet[:EDGE], sheet[-EDGE:], sheet[:, :EDGE], sheet[:, -EDGE:] = colour, colour, colour, colour
    for i, frame in enumerate(frames):
        left = EDGE + i * (size + GAP)
        sheet[EDGE:-EDGE, left : left + size] = frame
    return sheet


def by_setting(rows: dict[str, tuple[np.ndarray, pd.DataFrame]], samples: list[str], seed: int, pick=(0, 2, 4)):
    """(strips, marks) for `film_figure`: a row per setting, a column per sample, named by its prompt.

    rows: {words: (strips (n, H, 5 W, 3), scores of the same n videos)}; samples: ids of the benchmark drawn from `seed`;
    pick: which of the five frames are shown. Raises KeyError for a sample that a setting has not.
    """
    prompts, strips, marks = _prompts(seed), {}, {}
    for words, (films, scores) in rows.items():
        place = {sample: i for i, sample in enumerate(scores["sample"])}
        ends = outcomes(scores, seed)
        for sample in samples:
            film, key = films[place[sample]], (words, prompts[sample])
            side = film.shape[0]
            strips[key] = np.concatenate([film[:, i * side : (i + 1) * side] for i in pick], axis=1)
            marks[key] = ends.iloc[place[sample]]
    return strips, marks


def film_figure(
    strips: dict[tuple[str, str], np.ndarray],
    marks: dict[tuple[str, str], str] | None,
    title: str,
    frames: list[int],
    *,
    width: int = 26,
):
    """Figure of film strips: `strips[row, column]` is (H, n W, 3) uint8; a missing one stays empty. Rows and columns are
    texts in the order of their first use. marks: the outcome of each, which colours its edge; frames: the numbers of the
    n frames shown."""
    rows, columns = (list(dict.fromkeys(key[i] for key in strips)) for i in (0, 1))
    heads = {column: textwrap.fill(column, 12 * len(frames) // 2) for column in columns}
    height = 0.76 * len(rows) + 0.8 + 0.16 * max(head.count("\n") for head in heads.values())
    size = (0.62 * len(frames) * len(columns) + 2.2, height)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
    for (i, row), (j, column) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        ax = axes[i, j]
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        if (row, column) in strips:
            sheet = framed(strips[row, column], marks.get((row, column)) if marks else None)
            ax.imshow(sheet, interpolation="lanczos")
            side = strips[row, column].shape[0] * ZOOM
            if i == len(rows) - 1:
                ax.set_xticks([EDGE + k * (side + GAP) + side / 2 for k in range(len(frames))], frames, fontsize=7)
                ax.tick_params(length=0)
        if i == 0 and column:
            ax.set_title(heads[column], fontsize=9, fontweight="normal")
        if j == 0:
            ax.set_ylabel(textwrap.fill(row, width), rotation=0, ha="right", va="center", fontsize=8)
    if marks:
        used = [o for o in labels.OUTCOMES if o in set(marks.values())]
        figure.legend(
            handles=[Patch(color=COLOURS[o], label=o) for o in used], ncols=len(used), loc="outside lower right",
            fontsize=8,
        )  # fmt: skip
    figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure
