"""Figures of the grids over one method's settings: where AlignVid scales, how strongly DyMoS biases, what pairs add up to."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..study.cells import canonical
from ..study.parameters import Parameters
from . import labels
from .against_unsteered import MEASURES, against_unsteered, cells_of, change_unit, on_common, varied
from .findings import interval, number

WINDOWS, BLOCKS = ["early", "middle", "late", "all"], ["calibrated", "first_half", "all"]


def side_by_side(videos: pd.DataFrame, measures: list[str], methods: list[str]) -> pd.DataFrame:
    """`against_unsteered` of those of `methods` that have videos without guidance, on the samples and seeds that all of
    them have: only so may two of its rows be held against each other."""
    cells = [(m, 1.0) for m in methods if (m, 1.0) in cells_of(videos)]
    return against_unsteered(on_common(videos, [("none", 1.0), *cells]), measures, cells)


def errorbars(ax, x, table: pd.DataFrame, **style) -> None:
    """Changes with their intervals at positions `x`, and a line at no change."""
    bars = np.abs(table[["low", "high"]].to_numpy().T - table["difference"].to_numpy())
    ax.errorbar(x, table["difference"], yerr=bars, marker="o", capsize=3, **style)
    ax.axhline(0, color="black", lw=0.8)


def _ylabel(measure: str) -> str:
    return f"change of:\n{MEASURES[measure][0]} ({change_unit(measure)})"


def _changes_map(ax, table: pd.DataFrame, measure: str) -> None:
    """Changes over windows (x) and blocks (y), each cell with its interval; colours are centred on no change."""
    grids = {k: table.pivot(index="blocks", columns="window", values=k) for k in ("difference", "low", "high")}
    grids = {k: g.reindex(index=BLOCKS, columns=WINDOWS).to_numpy(float) for k, g in grids.items()}
    limit = max(np.nanmax(np.abs(grids["difference"])), 1e-9)
    image = ax.imshow(grids["difference"], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label=f"change ({change_unit(measure)})")
    digits = MEASURES[measure][3]
    for (i, j), value in np.ndenumerate(grids["difference"]):
        if np.isfinite(value):
            text = f"{number(value, digits, sign=True)}\n({interval(grids['low'][i, j], grids['high'][i, j], digits)})"
            ax.text(
                j, i, text, ha="center", va="center", color="white" if abs(value) > 0.6 * limit else "black", fontsize=7
            )
    ax.set_xticks(range(len(WINDOWS)), WINDOWS)
    ax.set_yticks(range(len(BLOCKS)), [b.replace("_", " ") for b in BLOCKS])
    ax.set(xlabel="steps", ylabel="blocks")
    ax.grid(False)


def alignvid_places(parameters: Parameters, own: pd.DataFrame, backbone: str):
    """AlignVid's strength as a curve, its windows and blocks as a map; above adherence, below fidelity."""
    strength = varied(parameters, "alignvid", ["gamma"])
    places = varied(parameters, "alignvid", ["window", "blocks"])
    measures = ["adherence", "background_psnr"]
    figure, axes = plt.subplots(2, 2, figsize=(11.5, 6), width_ratios=[1, 1.5])
    table = side_by_side(own, measures, list(dict.fromkeys([*strength["method"], *places["method"]])))
    count = f"n = {table['n'].min()}"
    for (curve, place), measure in zip(axes, measures, strict=True):
        part = table[table["measure"] == measure]
        line = part.merge(strength, on="method").sort_values("gamma")
        errorbars(curve, line["gamma"], line)
        curve.axvline(1, color="0.6", lw=0.8, ls=":")
        curve.set(xlabel="γ (dotted: no scaling)", ylabel=_ylabel(measure), title=f"strength, {count}")
        grid = part.merge(places, on="method")
        named = grid["window"].isin(WINDOWS) & grid["blocks"].isin(BLOCKS)
        _changes_map(place, grid[named], measure)
        place.set_title(f"{MEASURES[measure][0]}: when and where, {count}")
    title = f"{labels.backbone(backbone)}: how strongly, when and where AlignVid scales"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def dymos_strengths(parameters: Parameters, own: pd.DataFrame, backbone: str):
    """Change of motion and of fidelity over DyMoS's strength, share of steps and schedule."""
    (base,) = parameters.methods["dymos-1"]
    axis = {
        "gamma": f"γ, in {100 * base['window'][1]:g} % of the steps",
        "window": f"share of the steps, γ {base['gamma']:g}",
        "schedule": "schedule over the frames",
    }
    measures = ["flow_px", "background_psnr"]
    figure, axes = plt.subplots(len(measures), len(axis), figsize=(12, 5.6), squeeze=False, sharey="row", sharex="col")
    chosen = {field: varied(parameters, "dymos-1", [field]) for field in axis}
    chosen["window"]["window"] = [to for _, to in chosen["window"]["window"]]  # all begin with the first step
    table = side_by_side(own, measures, list(dict.fromkeys(pd.concat(chosen.values())["method"])))
    for row, measure in zip(axes, measures, strict=True):
        for ax, (field, name) in zip(row, axis.items(), strict=True):
            part = table[table["measure"] == measure].merge(chosen[field], on="method")
            if field != "schedule":  # without a bias it is the unsteered model
                nothing = dict.fromkeys(["difference", "low", "high", field], 0.0)
                part = pd.concat([part, pd.DataFrame([nothing])], ignore_index=True).sort_values(field)
            errorbars(ax, part[field].to_numpy(), part, ls="none" if field == "schedule" else "-", color="C1")
            ax.set_xlabel(name if measure == measures[-1] else "")
            ax.set_title(f"n = {table['n'].min()}", fontsize=9)
        row[0].set_ylabel(_ylabel(measure))
    title = f"{labels.backbone(backbone)}: motion and fidelity over DyMoS's settings"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def pairs_of(parameters: Parameters) -> dict[str, tuple[str, str]]:
    """Settings of two methods whose parts are settings of their own: {pair: the names of both}."""
    alone = {canonical(parts): name for name, parts in reversed(parameters.methods.items()) if len(parts) == 1}
    pairs = {}
    for name, parts in parameters.methods.items():
        found = [alone.get(canonical([part])) for part in parts]
        if len(found) == 2 and all(found):
            pairs[name] = tuple(found)
    return pairs


def pairs_against_sums(parameters: Parameters, videos: dict[str, pd.DataFrame]):
    """Change of adherence of each pair of methods beside the sum of the two changes alone, a panel per backbone."""
    known = pairs_of(parameters)
    figure, axes = plt.subplots(1, len(videos), figsize=(6.2 * len(videos), 3.6), squeeze=False, sharex=True)
    for ax, (backbone, own) in zip(axes[0], videos.items(), strict=True):
        made = {method for method, scale in cells_of(own) if scale == 1}
        pairs = {name: parts for name, parts in known.items() if {name, *parts} <= made}
        methods = list(dict.fromkeys([*pairs, *(part for parts in pairs.values() for part in parts)]))
        table = side_by_side(own, ["adherence"], methods).set_index("method")
        y, rows = np.arange(len(pairs))[::-1], table.loc[list(pairs)]
        bars = np.abs(rows[["low", "high"]].to_numpy().T - rows["difference"].to_numpy())
        ax.errorbar(rows["difference"], y, xerr=bars, fmt="o", capsize=3, color="black", label="both together")
        sums = [sum(table.loc[part, "difference"] for part in parts) for parts in pairs.values()]
        ax.scatter(sums, y, marker="|", s=160, color="C1", lw=2.5, label="sum of the two alone", zorder=3)
        ax.set_yticks(y, [labels.setting(name, 1.0, parameters) for name in pairs])
        ax.axvline(0, color="black", lw=0.8)
        ax.set(xlabel="change of: all questions right (points)")
        ax.set_title(f"{labels.backbone(backbone)}, n = {table['n'].min()}")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    figure.suptitle("Do two methods add up?", fontweight="bold", x=0.01, ha="left")
    return figure
