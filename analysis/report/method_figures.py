"""Figures of the methods side by side: their effects, what these cost, which events they help, and how videos fail.

Every figure takes the settings to show as (method, guidance scale); a new setting needs no change here.
"""

from __future__ import annotations

from contextlib import suppress

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..study.benchmark_samples import load_samples
from ..study.parameters import Parameters
from . import film_strips, labels, plots
from .against_unsteered import CELL, MEASURES, change_unit, on_common

Cells = list[tuple[str, float]]
MARKERS = "osD^vP*Xh<>p"
APART = 0.07  # of an axis; marks closer to the unsteered model or to a named one are in the legend alone


def effects(changes: dict[str, pd.DataFrame], parameters: Parameters, measure: str = "adherence"):
    """Forest plot of the change of one measure, a panel per backbone: `against_unsteered` tables by backbone. Rows are
    coloured by method; every row says its number of prompts."""
    rows = max(table[CELL].drop_duplicates().shape[0] for table in changes.values())
    size = (1.5 + 5.2 * len(changes), 0.29 * rows + 1.5)
    figure, axes = plt.subplots(1, len(changes), figsize=size, squeeze=False, sharex=True)
    for ax, (backbone, table) in zip(axes[0], changes.items(), strict=True):
        part = table[table["measure"] == measure].reset_index(drop=True)
        y = np.arange(len(part))[::-1]
        for i, row in part.iterrows():
            colour = labels.colour(labels.family(row["method"], parameters, row["guidance_scale"]))
            bars = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
            ax.errorbar(row["difference"], y[i], xerr=np.abs(bars), fmt="o", capsize=3, color=colour)
        names = [f"{labels.setting(r.method, r.guidance_scale, parameters)} (n = {r.n})" for r in part.itertuples()]
        ax.set_yticks(y, names)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(xlabel=f"change of: {MEASURES[measure][0]} ({change_unit(measure)})", title=labels.backbone(backbone))
    figure.suptitle(
        "What each method changes: steered minus unsteered at the same guidance; guidance alone against none",
        fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    return figure


def trade_off(changes: dict[str, pd.DataFrame], named: dict[str, Cells], parameters: Parameters):
    """Change of adherence against change of background fidelity, both with intervals, a panel per backbone.

    changes: `against_unsteered` of every setting, by backbone. Settings of `named` are drawn as crosses of their intervals
    and listed; all others are faint dots. Panels show the named ones; how many dots lie outside is said.
    """
    x, y = "background_psnr", "adherence"
    figure, axes = plt.subplots(len(changes), 1, figsize=(9.6, 4.6 * len(changes)), squeeze=False, sharex=True)
    tables = {
        b: table.pivot(index=CELL, columns="measure", values=["difference", "low", "high", "n"])
        for b, table in changes.items()
    }
    chosen = [tables[b].loc[cells] for b, cells in named.items()]
    limits = [_limits(chosen, measure) for measure in (x, y)]
    for ax, (backbone, table) in zip(axes[:, 0], tables.items(), strict=True):
        rest = table.drop(index=named[backbone])
        dots = rest["difference"][[x, y]]
        inside = np.logical_and(*(dots[m].between(*limits[i]) for i, m in enumerate((x, y))))
        ax.scatter(dots[x], dots[y], color="0.75", s=14, zorder=1, label=f"other settings ({len(dots)})")
        taken = [_place(0, 0, limits)]
        for i, cell in enumerate(named[backbone]):
            row = table.loc[cell]
            point, colour = row["difference"], labels.colour(labels.family(cell[0], parameters, cell[1]))
            words, marker = labels.setting(*cell, parameters), MARKERS[i % len(MARKERS)]
            ax.hlines(point[y], row["low", x], row["high", x], color=colour, lw=1.2, zorder=3)
            ax.vlines(point[x], row["low", y], row["high", y], color=colour, lw=1.2, zorder=3)
            ax.scatter(
                point[x],
                point[y],
                marker=marker,
                color=colour,
                s=34,
                zorder=4,
                label=f"{words} (n = {row['n', y]:.0f})",
            )
            place = _place(point[x], point[y], limits)
            if min(np.hypot(*(place - other)) for other in taken) > APART:
                taken.append(place)
                side = {"xytext": (5, 5)} if place[0] < 0.7 else {"xytext": (-5, 5), "ha": "right"}
                ax.annotate(words, (point[x], point[y]), textcoords="offset points", fontsize=8, **side)
        ax.plot(0, 0, "+", color="black", ms=14, mew=2, zorder=2, label="unsteered", ls="none")
        ax.axhline(0, color="black", lw=0.6)
        ax.axvline(0, color="black", lw=0.6)
        outside = int((~inside).sum())
        note = f"; {outside} of {len(dots)} grey dots lie outside" if outside else ""
        ax.set(xlim=limits[0], ylim=limits[1], title=f"{labels.backbone(backbone)}{note}")
        ax.set_ylabel(f"change of: {MEASURES[y][0]} ({change_unit(y)})")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    axes[-1, 0].set_xlabel(f"change of: {MEASURES[x][0]} ({change_unit(x)})")
    figure.suptitle("Adherence gained against background fidelity lost", fontweight="bold", x=0.01, ha="left")
    return figure


def _place(x: float, y: float, limits) -> np.ndarray:
    """A point in shares of the two axes."""
    return np.array([(v - low) / (high - low) for v, (low, high) in zip((x, y), limits, strict=True)])


def _limits(tables: list[pd.DataFrame], measure: str) -> tuple[float, float]:
    """Room for all intervals and the origin, with a margin."""
    low = min([0, *(t["low", measure].min() for t in tables)])
    high = max([0, *(t["high", measure].max() for t in tables)])
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def events(videos: dict[str, pd.DataFrame], shown: dict[str, Cells], parameters: Parameters):
    """Adherence per event type under each of `shown`, on the samples and seeds that all of them have; rows are backbones."""
    figure, axes = plt.subplots(len(videos), 1, figsize=(9.5, 3.4 * len(videos)), squeeze=False)
    for ax, (backbone, own) in zip(axes[:, 0], videos.items(), strict=True):
        own = on_common(own, shown[backbone])
        parts = dict(iter(own.groupby(CELL)))
        groups = {labels.setting(*cell, parameters): parts[cell] for cell in shown[backbone]}
        colours = [labels.colour(labels.family(m, parameters, g)) for m, g in shown[backbone]]
        plots.bars_by_event(ax, groups, colours=colours)
        count, seeds = own["sample"].nunique(), own["seed"].nunique()
        counts = own.drop_duplicates("sample")["main_category"].value_counts()
        names = [*plots.EVENT_NAMES, "all"]
        ticks = [f"{plots.EVENT_NAMES.get(k, k)}\nn = {counts.get(k, count)}" for k in names]
        ax.set_xticks(range(len(names)), ticks)
        ax.set(ylim=(0, 100), ylabel="all questions right (%)", xlabel="event asked for")
        ax.set_title(f"{labels.backbone(backbone)}, {count} prompts, {seeds} seed{'s' if seeds > 1 else ''}")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.suptitle("Which events a method helps: adherence per event type", fontweight="bold", x=0.01, ha="left")
    return figure


def outcome_shares(videos: pd.DataFrame, cells: Cells) -> pd.DataFrame:
    """Share of videos per setting and event that follow the prompt, copy the reference or are wrong otherwise: columns
    method, guidance_scale, main_category (or "all"), n (prompts) and one per outcome, in percent. `videos` has `outcome`,
    as of film_strips.outcomes."""
    rows = []
    for cell in cells:
        own = videos[(videos["method"] == cell[0]) & (videos["guidance_scale"] == cell[1])]
        for kind in [*labels.EVENTS, "all"]:
            part = own if kind == "all" else own[own["main_category"] == kind]
            shares = part["outcome"].value_counts(normalize=True) * 100
            row = dict(zip(CELL, cell, strict=True)) | {"main_category": kind, "n": part["sample"].nunique()}
            rows.append(row | {o: float(shares.get(o, 0.0)) for o in labels.OUTCOMES})
    return pd.DataFrame(rows)


def outcomes(shares: pd.DataFrame, backbone: str, parameters: Parameters):
    """Stacked bars of `outcome_shares`: a row per setting, a panel per event."""
    kinds = list(dict.fromkeys(shares["main_category"]))
    cells = list(shares[CELL].drop_duplicates().itertuples(index=False, name=None))
    size = (2.2 * len(kinds) + 2.4, 0.32 * len(cells) + 1.5)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False, sharey=True, sharex=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        part = shares[shares["main_category"] == kind]
        left = np.zeros(len(part))
        for outcome in labels.OUTCOMES:
            ax.barh(range(len(part)), part[outcome], left=left, color=film_strips.COLOURS[outcome], label=outcome)
            left += part[outcome].to_numpy()
        least, most = part["n"].min(), part["n"].max()
        count = f"n = {least}" if least == most else f"n = {least} to {most}"
        ax.set_title(f"{labels.EVENTS.get(kind, 'all events')}, {count}", fontsize=9)
        ax.set(xlim=(0, 100), xlabel="% of videos")
        ax.grid(axis="y", visible=False)
    totals = shares[shares["main_category"] == "all"]
    axes[0, 0].set_yticks(
        range(len(cells)),
        [f"{labels.setting(*c, parameters)} (n = {n})" for c, n in zip(cells, totals["n"], strict=True)],
    )
    axes[0, 0].invert_yaxis()
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=len(names), loc="outside lower right", fontsize=8)
    figure.suptitle(f"{labels.backbone(backbone)}: what becomes of a prompt", fontweight="bold", x=0.01, ha="left")
    return figure


def method_strips(videos: pd.DataFrame, cells: Cells, samples: list[str], backbone: str, parameters: Parameters):
    """Film strips of `samples`, a row per setting and a column per sample, of the first seed; edges tell the outcome, a column
    of `videos`. A setting whose strip of a sample the small run did not keep leaves its place empty."""
    prompts = {s["id"]: s["prompt"] for s in load_samples(parameters.benchmark.folder)}
    first = videos[videos["seed"] == videos["seed"].min()].set_index([*CELL, "sample"])["outcome"]
    strips, marks = {}, {}
    for cell in cells:
        for sample in samples:
            with suppress(FileNotFoundError, ValueError, IndexError):
                place = labels.setting(*cell, parameters), prompts[sample]
                strips[place] = plots.strips_of(videos, *cell, [sample])[0]
                marks[place] = first[(*cell, sample)]
    last = parameters.backbones[backbone].frames - 1
    frames = np.linspace(0, last, 5).astype(int).tolist()  # as analysis.scoring.score keeps them
    title = f"{labels.backbone(backbone)}: same prompt, same reference, same noise under each method"
    return film_strips.film_figure(strips, marks, title, frames)
