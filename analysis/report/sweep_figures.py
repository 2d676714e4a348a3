"""The figures of the method sweeps: one row or column of panels per backbone, drawn from analysis.report.against_unsteered's tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..study.parameters import Parameters
from . import plots
from .against_unsteered import CELL, MEASURES, against_unsteered, change_unit, means, on_common_samples, pareto, varied

# family -> how its methods are called; `scale` is AlignVid everywhere, at every step
FAMILIES = {"alignvid": ("alignvid", "scale"), "dymos": ("dymos",), "alg": ("alg",), "focal": ("focal",)}
# Published settings, by the names that they have in a pair
ALONE = {
    "alignvid": "alignvid",
    "dymos": "dymos-1",
    "alg": "alg",
    "focal": "focal-full",
    "focal-joint": "focal-joint-full",
}
FAR = 3.0  # dB below the unsteered model; what lies further is drawn at the edge
WINDOWS, BLOCKS = ["early", "middle", "late", "all"], ["calibrated", "first_half", "all"]


def cells_of(videos: pd.DataFrame) -> set[tuple[str, float]]:
    """The settings (method, guidance scale) that have videos."""
    return set(videos[CELL].itertuples(index=False, name=None))


def on_common(videos: pd.DataFrame, cells) -> pd.DataFrame:
    """The videos of `cells` (method, guidance scale), on the samples and seeds that all of them have."""
    parts = {cell: part for cell, part in videos.groupby(CELL) if cell in cells}
    return pd.concat(on_common_samples(parts).values(), ignore_index=True)


def side_by_side(videos: pd.DataFrame, measures: list[str], methods: list[str]) -> pd.DataFrame:
    """`against_unsteered` of those of `methods` that have videos without guidance, on the samples and seeds that all of
    them have: only so may two of its rows be held against each other."""
    cells = [(m, 1.0) for m in methods if (m, 1.0) in cells_of(videos)]
    return against_unsteered(on_common(videos, [("none", 1.0), *cells]), measures, cells)


def label(measure: str) -> str:
    """A measure's name with its unit."""
    return f"{MEASURES[measure][0]} ({MEASURES[measure][2]})"


def errorbars(ax, x, table: pd.DataFrame, **style) -> None:
    """Changes with their intervals at positions `x`, and a line at no change."""
    bars = np.abs(table[["low", "high"]].to_numpy().T - table["difference"].to_numpy())
    ax.errorbar(x, table["difference"], yerr=bars, marker="o", capsize=3, **style)
    ax.axhline(0, color="black", lw=0.8)


def published_changes(tables: dict[str, pd.DataFrame]):
    """Change of adherence of each setting of `against_unsteered` tables, a panel per backbone; settings of different
    numbers of prompts say theirs."""
    size = (2.6 + 4.2 * len(tables), 4)
    figure, axes = plt.subplots(1, len(tables), figsize=size, squeeze=False, sharex=True)
    for ax, (backbone, table) in zip(axes[0], tables.items(), strict=True):
        part = table[table["measure"] == "adherence"]
        name = part["method"] + [f", guidance {g:g}" if g != 1 else "" for g in part["guidance_scale"]]
        least, most = part["n"].min(), part["n"].max()
        if least != most:
            name += [f" (n = {n})" for n in part["n"]]
        plots.forest(ax, part.assign(name=name, mean=part["difference"]), "name", line=0.0)
        ax.set(
            xlabel="change of adherence (points)",
            title=f"{backbone}, {least if least == most else f'{least} to {most}'} prompts",
        )
    figure.suptitle("Does the method make the model follow the prompt? Steered minus unsteered", fontweight="bold")
    return figure


def events(videos: dict[str, pd.DataFrame], methods: list[str]):
    """Adherence per event type under each method without guidance, on the samples and seeds that all of them have."""
    figure, axes = plt.subplots(len(videos), 1, figsize=(9.5, 3.4 * len(videos)), squeeze=False)
    for ax, (backbone, own) in zip(axes[:, 0], videos.items(), strict=True):
        own = on_common(own, [(m, 1.0) for m in methods if (m, 1.0) in cells_of(own)])
        parts = {"unsteered" if m == "none" else m: own[own["method"] == m] for m in methods if m in set(own["method"])}
        plots.bars_by_event(ax, parts)
        count = own["sample"].nunique()
        ax.set(ylim=(0, 100), ylabel="all questions right (%)", title=f"{backbone}, {count} prompts")
        ax.set_xlabel("event asked for")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))  # not every backbone has every method
    figure.suptitle("Which events a method helps: adherence per event type", fontweight="bold")
    return figure


def trade_offs(videos: dict[str, pd.DataFrame]):
    """Adherence and motion of every setting against background fidelity, on the samples and seeds that all settings have,
    with the Pareto fronts."""
    x, size = "background_psnr", (5.4 * len(videos) + 1.6, 7)
    figure, axes = plt.subplots(2, len(videos), figsize=size, squeeze=False)
    for column, (backbone, own) in enumerate(videos.items()):
        own = on_common(own, cells_of(own))
        table = means(own, [x, "adherence", "flow_px"])
        plain = table["method"] == "none"
        combined = table["method"].str.contains("+", regex=False) | table["method"].str.startswith("all-")
        groups = {"unsteered": plain & (table["guidance_scale"] == 1), "guidance alone": plain}
        groups["guidance alone"] = plain & ~groups["unsteered"]
        groups |= {f: table["method"].str.startswith(starts) & ~combined for f, starts in FAMILIES.items()}
        groups["combined"] = combined
        edge = table[x][groups["unsteered"]].iloc[0] - FAR
        table[x], beyond = table[x].clip(lower=edge), table[x] < edge
        for ax, y in zip(axes[:, column], ("adherence", "flow_px"), strict=True):
            ax.scatter(table[x][beyond], table[y][beyond], marker="<", color="grey", s=90, label="further left")
            for i, (name, mine) in enumerate(groups.items()):
                style = {"color": "black", "marker": "xP"[i], "s": 60} if i < 2 else {"color": f"C{i - 2}", "s": 22}
                ax.scatter(table[x][mine], table[y][mine], alpha=0.85, label=name, **style)
            front = table[pareto(table, [x, y])].sort_values(x)
            ax.plot(front[x], front[y], color="grey", lw=1, zorder=0, label="Pareto front")
            ax.set(xlabel=label(x), ylabel=label(y), title=f"{backbone}, {own['sample'].nunique()} prompts")
    axes[0, -1].legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.suptitle("What following the prompt and moving cost in fidelity; up and right is better", fontweight="bold")
    return figure


def alignvid_places(parameters: Parameters, videos: dict[str, pd.DataFrame]):
    """AlignVid's strength as a curve, its windows and blocks as a map; two rows per backbone, adherence and fidelity."""
    strength = varied(parameters, "alignvid", ["gamma"])
    places = varied(parameters, "alignvid", ["window", "blocks"])
    measures = ["adherence", "background_psnr"]
    figure, axes = plt.subplots(2 * len(videos), 2, figsize=(10, 5.8 * len(videos)), squeeze=False)
    for rows, (backbone, own) in zip(axes.reshape(-1, 2, 2), videos.items(), strict=True):
        table = side_by_side(own, measures, list(dict.fromkeys([*strength["method"], *places["method"]])))
        prompts = f"{backbone}, {table['n'].min()} prompts"
        for (curve, place), measure in zip(rows, measures, strict=True):
            part = table[table["measure"] == measure]
            line = part.merge(strength, on="method").sort_values("gamma")
            errorbars(curve, line["gamma"], line)
            curve.set(
                xlabel="gamma",
                ylabel=f"change of\n{MEASURES[measure][0]} ({change_unit(measure)})",
                title=f"{prompts}: strength",
            )
            grid = part.merge(places, on="method")
            grid = grid[grid["window"].isin(WINDOWS)].pivot(index="blocks", columns="window", values="difference")
            grid = grid.reindex(index=BLOCKS, columns=WINDOWS)
            plots.change_map(place, grid, f"change ({change_unit(measure)})", digits=MEASURES[measure][3])
            place.set(xlabel="steps", ylabel="blocks", title=f"{prompts}: {MEASURES[measure][0]}")
    figure.suptitle("AlignVid: how strongly, when and where it scales", fontweight="bold")
    return figure


def dymos_strengths(parameters: Parameters, videos: dict[str, pd.DataFrame]):
    """Change of motion over DyMoS's strength, share of steps and schedule, a row of panels per backbone."""
    axis = {
        "gamma": "gamma, first 20 % of the steps",
        "steps": "share of the steps, gamma 1",
        "schedule": "schedule over the frames",
    }
    size = (12.5, 3.2 * len(videos))
    figure, axes = plt.subplots(len(videos), 3, figsize=size, squeeze=False, sharey="row")
    for row, (backbone, own) in zip(axes, videos.items(), strict=True):
        chosen = {field: varied(parameters, "dymos-1", [field]) for field in axis}
        table = side_by_side(own, ["flow_px"], list(dict.fromkeys(pd.concat(chosen.values())["method"])))
        for ax, (field, name) in zip(row, axis.items(), strict=True):
            part = table.merge(chosen[field], on="method").sort_values(field)
            errorbars(ax, part[field].to_numpy(), part, ls="none" if field == "schedule" else "-")
            ax.set(xlabel=name, title=f"{backbone}, {table['n'].min()} prompts")
        row[0].set_ylabel("change of motion (px/frame)")
    figure.suptitle("DyMoS: motion against strength, share of steps and schedule", fontweight="bold")
    return figure


def pairs_against_sums(videos: dict[str, pd.DataFrame]):
    """Change of adherence of each pair of methods against the sum of the two changes alone."""
    size = (5.4 * len(videos) + 1, 4.2)
    figure, axes = plt.subplots(1, len(videos), figsize=size, squeeze=False)
    for ax, (backbone, own) in zip(axes[0], videos.items(), strict=True):
        pairs = sorted(m for m, g in cells_of(own) if "+" in m and g == 1)
        table = side_by_side(own, ["adherence"], [*ALONE.values(), *pairs]).set_index("method")
        for i, pair in enumerate(pairs):
            total = sum(table.loc[ALONE[part], "difference"] for part in pair.split("+"))
            y, low, high = table.loc[pair, ["difference", "low", "high"]]
            total += 0.4 * (i - (len(pairs) - 1) / 2)  # pairs with equal sums are drawn side by side
            ax.errorbar(total, y, yerr=[[y - low], [high - y]], marker="o", capsize=3, color=f"C{i}", label=pair)
        ax.axline((0, 0), slope=1, color="grey", lw=1)
        ax.set(xlabel="sum of the two changes (points)", ylabel="change of the pair (points)")
        ax.set_title(f"{backbone}, {table['n'].min()} prompts")
        ax.legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.suptitle("Adherence of each pair of methods against the sum of its parts", fontweight="bold")
    return figure
