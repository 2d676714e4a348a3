"""The README's picture: neglected prompts, what each method makes of them, and how often prompts are followed in all."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from testbed.benchmark import draw_benchmark

from ..study.files import write_atomically
from ..study.parameters import Parameters, load_parameters
from ..study.significance import paired_difference
from . import film_strips, labels, plots
from .against_unsteered import comparison
from .film_strips import COLOURS
from .notebook_page import png

UNSTEERED, GUIDED = ("none", 1.0), ("none", 3.0)
# Row -> the setting of each lineage: guidance alone, then each method as it was published or released for its family.
ROWS = {
    "unsteered": {"wan": UNSTEERED, "cogvideox": UNSTEERED},
    "guidance 3": {"wan": GUIDED, "cogvideox": GUIDED},
    "AlignVid": {"wan": ("alignvid", 1.0), "cogvideox": ("alignvid", 1.0)},
    "DyMoS": {"wan": ("dymos-1", 1.0), "cogvideox": ("dymos-0.8", 1.0)},
    "Focal Guidance": {"wan": ("focal-full", 1.0), "cogvideox": ("focal-joint-full", 1.0)},
    "Low-pass guidance": {"wan": ("alg", 1.0), "cogvideox": ("alg-first-step", 1.0)},
}
PICK, FRAMES = (0, 2, 4), (0, 8, 16)  # of the five frames that a strip keeps
DPI = 200  # twice what a page of 900 pixels shows
# Inches: the column of names, a strip, a panel of bars, gaps, a row, and what is above and below the rows
NAMES, STRIP, BARS, GAP, ROW, HEAD, FOOT = 1.18, 1.27, 1.22, 0.07, 0.5, 0.82, 0.55
APART = 0.16  # between the panels of bars


def neglected(scores: pd.DataFrame, settings: list[tuple[str, float]]) -> list[str] | None:
    """The first sample of each event, in the benchmark's order, whose unsteered video does not follow its prompt, of those
    that have a film strip under all `settings`; None if an event has none. `scores` are the small run's, of one backbone."""
    first = scores[scores["seed"] == 0]
    parts = [first[(first["method"] == m) & (first["guidance_scale"] == g)] for m, g in settings]
    kept = set.intersection(*(set(part["sample"].head(plots.KEPT_STRIPS)) for part in parts))
    plain = parts[settings.index(UNSTEERED)]
    failed = plain[plain["sample"].isin(kept) & (plain["adherence"] < 1)]
    found = failed.drop_duplicates("main_category").set_index("main_category")["sample"]
    return [found[event] for event in labels.EVENTS] if set(labels.EVENTS) <= set(found.index) else None


def strips_and_marks(parameters: Parameters, backbones: list[str]):
    """(backbone, samples, strips, marks) of the first backbone that neglects a sample of every event. Raises ValueError if
    none does."""
    for b in backbones:
        settings = {row: own[b.split("-")[0]] for row, own in ROWS.items()}
        scores = comparison(parameters, b)
        if samples := neglected(scores, list(settings.values())):
            rows = {}
            for row, (method, scale) in settings.items():
                own = scores[(scores["method"] == method) & (scores["guidance_scale"] == scale) & (scores["seed"] == 0)]
                own = own[own["sample"].isin(samples)].set_index("sample").loc[samples].reset_index()
                rows[row] = (plots.strips_of(scores, method, scale, samples), own)
            return b, samples, *film_strips.by_setting(rows, samples, parameters.benchmark.seed, PICK)
    raise ValueError(f"among the film strips, none of {', '.join(backbones)} neglects a prompt of every event")


def shares(parameters: Parameters, backbone: str) -> pd.DataFrame:
    """A row per entry of ROWS at full size: percent of each outcome, `unsteered` on the same prompts and seeds, the paired
    change against it in points with its interval, and n prompts."""
    scores, rows = comparison(parameters, backbone), []
    plain = scores[(scores["method"] == "none") & (scores["guidance_scale"] == 1)]
    for name, own in ROWS.items():
        method, scale = own[backbone.split("-")[0]]
        part = scores[(scores["method"] == method) & (scores["guidance_scale"] == scale)]
        same = part[["sample", "seed"]].merge(plain, on=["sample", "seed"], validate="one_to_one")
        ends = film_strips.outcomes(part, parameters.benchmark.seed)
        row = {"setting": name, "n": part["sample"].nunique(), "unsteered": _percent(same["adherence"], same)}
        change = paired_difference(part, same, "adherence")
        row |= {o: _percent(ends == o, part) for o in labels.OUTCOMES}
        rows.append(row | {k: 100 * change[k] for k in ("difference", "low", "high")})
    return pd.DataFrame(rows)


def _percent(values: pd.Series, videos: pd.DataFrame) -> float:
    """Mean over prompts of the mean over a prompt's seeds, as intervals and changes are made."""
    return 100 * values.astype(float).groupby(videos["sample"].to_numpy()).mean().mean()


def draw(backbone: str, samples: list[str], strips: dict, marks: dict, bars: dict[str, pd.DataFrame], seed: int):
    """The figure: a row per entry of ROWS with a film strip per sample, and to the right its bar for each backbone."""
    records = {record["id"]: record for record, _, _ in draw_benchmark(seed)}
    width = NAMES + len(samples) * (STRIP + GAP) + len(bars) * (BARS + APART) + 0.25
    height = HEAD + len(ROWS) * ROW + FOOT
    figure = plt.figure(figsize=(width, height), layout="none")

    def place(left: float, top: float, wide: float, high: float):
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    def say(x: float, y: float, text: str, **style):
        figure.text(x / width, 1 - y / height, text, **{"va": "top", "fontsize": 8} | style)

    for i, row in enumerate(ROWS):
        say(NAMES - 0.08, HEAD + (i + 0.45) * ROW, row, ha="right", va="center", fontsize=9)
        for j, sample in enumerate(samples):
            key = (row, records[sample]["prompt"])
            ax = place(NAMES + j * (STRIP + GAP), HEAD + i * ROW, STRIP, ROW - 0.05)
            ax.imshow(film_strips.framed(strips[key], marks[key]), interpolation="lanczos")
            ax.set_axis_off()
    for j, sample in enumerate(samples):
        left, record = NAMES + j * (STRIP + GAP), records[sample]
        say(left, HEAD - 0.06, textwrap.fill(record["prompt"], 23), fontsize=7, va="bottom")
        say(left, 0.06, labels.EVENTS[record["main-category"]], fontsize=9, fontweight="bold")
        for k, frame in enumerate(FRAMES):
            x = left + STRIP * (k + 0.5) / len(FRAMES)
            say(x, HEAD + len(ROWS) * ROW, f"{'frame ' if k == 0 else ''}{frame}", ha="center", fontsize=7)
    for j, (b, table) in enumerate(bars.items()):
        left = NAMES + len(samples) * (STRIP + GAP) + 0.12 + j * (BARS + APART)
        ax = place(left, HEAD, BARS, len(ROWS) * ROW - 0.05)
        say(left, 0.06, labels.backbone(b), fontsize=8.5, fontweight="bold")
        say(left, HEAD - 0.06, "all prompts, videos (%)", fontsize=7, va="bottom")
        _bars(ax, table)
    handles = [Patch(color=COLOURS[o], label=o) for o in labels.OUTCOMES]
    figure.legend(handles=handles, ncols=3, loc="lower left", fontsize=8, bbox_to_anchor=(NAMES / width, 0))
    note = "◆ unsteered, same prompts;   ├┤ 95 % interval of the change"
    say(width - 0.12, height - 0.1, note, ha="right", va="bottom", fontsize=7)
    words = f"The strips: {labels.backbone(backbone)}"
    say(NAMES - 0.08, HEAD - 0.06, textwrap.fill(words, 18), ha="right", va="bottom", fontsize=7)
    return figure


def _bars(ax, table: pd.DataFrame) -> None:
    y = np.arange(len(table))
    left = np.zeros(len(table))
    for outcome in labels.OUTCOMES:
        ax.barh(y, table[outcome], 0.62, left, color=COLOURS[outcome])
        left = left + table[outcome].to_numpy()
    ends = table["unsteered"] + table["difference"]
    spread = np.abs((table["unsteered"] + table[["low", "high"]].T).to_numpy() - ends.to_numpy())
    steered = y[1:]  # the unsteered model has no change against itself
    ax.errorbar(ends[1:], steered, xerr=spread[:, 1:], fmt="none", ecolor="black", elinewidth=1, capsize=2.5)
    ax.plot(table["unsteered"][1:], steered, "D", color="black", markersize=3)
    for row, (share, n) in enumerate(zip(table["followed"], table["n"], strict=True)):
        ax.text(2, row, f"{share:.0f}", color="white", fontsize=8, fontweight="bold", va="center")
        ax.text(100, row + 0.33, f"n = {n}", fontsize=6, va="top", ha="right", color="0.35")
    ax.set(xlim=(0, 100), ylim=(len(table) - 0.5, -0.5), yticks=[], xticks=[0, 50, 100])
    ax.tick_params(axis="x", labelsize=7)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)


def write_readme_picture(path: Path, backbones: list[str]) -> None:
    """Write the picture to `path`: strips of the small run, bars of the full-size one."""
    matplotlib.rc_file("matplotlibrc")
    small, full = load_parameters(), load_parameters(full=True)
    backbone, samples, strips, marks = strips_and_marks(small, backbones)
    bars = {b: shares(full, b) for b in backbones}
    figure = draw(backbone, samples, strips, marks, bars, small.benchmark.seed)
    write_atomically(path, lambda temporary: temporary.write_bytes(png(figure, DPI)))
    plt.close(figure)
