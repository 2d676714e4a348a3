"""Figures: each takes tidy data and axes, and returns the axes; saving goes through one function."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from ..study.parameters import load_parameters
from ..study.results_layout import SCORES, SMALL, STRIPS, sweep_folder
from ..study.score_columns import is_proportion
from ..study.significance import mean_interval
from . import labels
from .score_tables import sweep_table

EVENT_NAMES = {"addition": "appear", "deletion": "disappear", "modification": "recolour", "motion": "move"}
SETTINGS = ["method", "guidance_scale", "blur", "seed"]  # what tells the cells of a sweep apart
KEPT_STRIPS = 8  # samples of a cell whose film strips are kept, see analysis.scoring.score
PNG_METADATA = {"Software": None}  # no version in the file: equal figures are equal bytes


def summarise(scores: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean, 95 % bootstrap interval over prompts and number of prompts of `column` for each group."""
    rows = []
    for keys, group in scores.groupby(by, sort=False):
        mean, low, high = mean_interval(group[column], group["sample"], proportion=is_proportion(column))
        rows.append(
            {**dict(zip(by, keys, strict=True)), "mean": mean, "low": low, "high": high, "n": group["sample"].nunique()}
        )
    return pd.DataFrame(rows)


def intervals(ax, x, summary: pd.DataFrame, *, label: str | None = None, percent: bool = True, **style):
    """Points with interval bars at positions `x` for the rows of `summarise`."""
    factor = 100 if percent else 1
    mean = summary["mean"].to_numpy() * factor
    bars = np.abs(summary[["low", "high"]].to_numpy().T * factor - mean)
    ax.errorbar(x, mean, yerr=bars, fmt=style.pop("fmt", "o"), capsize=3, label=label, **style)
    return ax


def by_level(ax, tables: dict[str, pd.DataFrame], levels: list[float], *, percent: bool = True, fmt: str = "o-"):
    """A line per entry of `tables`, the rows of `summarise` in the order of `levels`, drawn side by side at equal steps."""
    for i, (label, table) in enumerate(tables.items()):
        x = np.arange(len(levels)) + 0.08 * (i - (len(tables) - 1) / 2)
        intervals(ax, x, table, percent=percent, label=label, fmt=fmt)
    ax.set_xticks(range(len(levels)), [f"{v:g}" for v in levels])
    return ax


def bars_by_event(ax, groups: dict[str, pd.DataFrame], column: str = "adherence", colours: list[str] | None = None):
    """Share of `column` per event type and overall, one colour per entry of `groups`, with intervals, in percent."""
    kinds = [*EVENT_NAMES, "all"]
    width = 0.8 / len(groups)
    for i, (label, scores) in enumerate(groups.items()):
        both = pd.concat([scores, scores.assign(main_category="all")])
        s = summarise(both, ["main_category"], column).set_index("main_category").loc[kinds]
        x = np.arange(len(kinds)) + (i - (len(groups) - 1) / 2) * width
        ax.bar(x, 100 * s["mean"], width * 0.92, color=colours[i] if colours else f"C{i}", alpha=0.85, label=label)
        intervals(ax, x, s, fmt="none", ecolor="black", elinewidth=1)
    ax.set_xticks(range(len(kinds)), [EVENT_NAMES.get(k, k) for k in kinds])
    ax.grid(axis="x", visible=False)
    return ax


@lru_cache(maxsize=16)
def _kept(folder: Path, changed: int) -> tuple[np.ndarray, pd.DataFrame]:
    # A figure asks for one strip after the other, and to decode the sheet takes a tenth of a second.
    return np.asarray(Image.open(folder / STRIPS)), pd.read_csv(folder / SCORES)


def load_strips(sweep: str, **settings) -> np.ndarray:
    """The film strips of a sweep's cell in the small run, (n, H, 5 W, 3), in the benchmark's order; `settings` picks the
    cell. Raises ValueError if they do not pick one."""
    folder = sweep_folder(load_parameters(), sweep, SMALL)  # the small run's, also in figures of the full-size one
    sheet, scores = _kept(folder, (folder / STRIPS).stat().st_mtime_ns)
    side = sheet.shape[1] // 5
    strips = sheet.reshape(-1, side, sheet.shape[1], 3)
    cells = scores.groupby(SETTINGS, sort=False).ngroups
    keys = scores[SETTINGS].drop_duplicates().reset_index(drop=True)
    wanted = np.flatnonzero((keys[list(settings)] == pd.Series(settings)).all(axis=1)) if settings else np.array([0])
    if len(wanted) != 1:
        raise ValueError(f"{settings} picks {len(wanted)} cells of sweep {sweep}; it must pick one")
    return strips.reshape(cells, -1, *strips.shape[1:])[wanted[0]]


def strips_of(videos: pd.DataFrame, method: str, guidance_scale: float, samples: list[str]) -> np.ndarray:
    """The film strips (n, H, 5 W, 3) of some of the first samples under one setting and its first seed, from the sheet of
    the first sweep that made them all. Raises ValueError if none did."""
    mine = videos[(videos["method"] == method) & (videos["guidance_scale"] == guidance_scale)]
    for sweep, seed in mine[["sweep", "seed"]].drop_duplicates("sweep").itertuples(index=False):
        order = list(dict.fromkeys(sweep_table(load_parameters(), sweep, results=SMALL)["sample"]))
        if set(samples) <= set(order):
            strips = load_strips(sweep, method=method, guidance_scale=guidance_scale, seed=seed)
            return strips[[order.index(sample) for sample in samples]]
    raise ValueError(
        f"no sweep of the small run has film strips of {', '.join(samples)} under {method} at {guidance_scale:g}"
    )


def forest(ax, table: pd.DataFrame, names: str, *, line: float = 1.0, **style):
    """One row per entry of `table` with columns mean, low, high: a point, its interval, and a line of no effect."""
    y = np.arange(len(table))[::-1]
    bars = np.abs(table[["low", "high"]].to_numpy().T - table["mean"].to_numpy())
    ax.errorbar(table["mean"], y, xerr=bars, fmt="o", capsize=3, **style)
    ax.axvline(line, color="black", linewidth=0.8)
    ax.set_yticks(y, table[names])
    return ax


def ratio_forests(ratios: pd.DataFrame, xlabel: str, title: str):
    """The ratios of measures, each with its interval and a line at no change, a panel per backbone that says its n."""
    backbones = ratios["backbone"].unique()
    figure, axes = plt.subplots(1, len(backbones), figsize=(6.5 * len(backbones), 3.6), squeeze=False, sharex=True)
    for i, (ax, b) in enumerate(zip(axes[0], backbones, strict=True)):
        part = ratios[ratios["backbone"] == b]
        forest(ax, part, "measure", color=f"C{i}")
        ax.set(xlabel=xlabel, title=f"{labels.backbone(b)}, n = {part['n'].min()}")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
