"""What the methods do to motion, measured on the prompts that ask for a move alone: how far the named object goes, when it
sets off, and what that costs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..study.parameters import Parameters
from ..study.score_columns import COLUMNS
from ..study.significance import LEVEL, clear_side, holm, paired_difference
from . import labels
from .findings import effect, interval, number
from .score_tables import gather

# Which columns are shown, the asked motion first; what stands in for a paper's dynamic degree last.
SHOWN = ("asked_px", "onset", "still_copy", "adherence", "object_integrity", "flow_px")
UNSTEERED = "unsteered"


def motion_changes(parameters: Parameters, backbones: list[str], results=None) -> pd.DataFrame:
    """A row per backbone, guidance scale, method and column of SHOWN: the unsteered mean, the paired change with its interval
    (in the column's unit), n prompts, changed, detectable, p and p (Holm) over the methods of a scale and column.

    From the sweeps that are confined to prompts of motion. Raises ValueError if there are none.
    """
    scores = gather(parameters, results)
    scores = scores[scores["categories"] == "motion"]
    rows = []
    for backbone in backbones:
        own = scores[scores["backbone"] == backbone]
        if own.empty:
            raise ValueError(f"no sweep of motion prompts of {backbone}: run `python -m analysis score motion`")
        for (scale, column), part in ((k, own[own["guidance_scale"] == k[0]]) for k in _pairs(own)):
            plain = part[part["method"] == "none"]
            for method in [m for m in part["method"].unique() if m != "none"]:
                steered = part[part["method"] == method]
                both = [t.dropna(subset=column) for t in (steered, plain)]
                found, unit = paired_difference(*both, column), COLUMNS[column]
                row = {"backbone": backbone, "guidance_scale": scale, "method": method, "measure": column}
                row |= {"unsteered": unit.factor * both[1][column].mean()}
                row |= {k: unit.factor * found[k] for k in ("difference", "low", "high", "detectable")}
                rows.append(row | {k: found[k] for k in ("n", "changed", "p")})
    table = pd.DataFrame(rows)
    family = ["backbone", "guidance_scale", "measure"]
    return table.assign(**{"p (Holm)": table.groupby(family)["p"].transform(lambda p: holm(p))})


def _pairs(own: pd.DataFrame) -> list[tuple[float, str]]:
    return [(scale, column) for scale in sorted(own["guidance_scale"].unique()) for column in SHOWN]


def motion_figure(changes: pd.DataFrame, parameters: Parameters):
    """Change of the named object's displacement, a panel per backbone; filled marks hold after the correction."""
    part = changes[changes["measure"] == "asked_px"]
    backbones = list(part["backbone"].unique())
    rows = list(
        dict.fromkeys(
            part.sort_values("guidance_scale", kind="stable")[["guidance_scale", "method"]].itertuples(
                index=False, name=None
            )
        )
    )
    places = dict(zip(rows, range(len(rows))[::-1], strict=True))
    size = (3.6 + 3.4 * len(backbones), 0.3 * len(rows) + 1.7)
    figure, axes = plt.subplots(1, len(backbones), figsize=size, sharex=True, sharey=True)
    for ax, backbone in zip(np.atleast_1d(axes), backbones, strict=True):
        own = part[part["backbone"] == backbone]
        for row in own.to_dict("records"):
            colour = labels.colour(labels.family(row["method"], parameters, row["guidance_scale"]))
            bars = np.abs([[row["difference"] - row["low"]], [row["high"] - row["difference"]]])
            fill = colour if row["p (Holm)"] < LEVEL else "white"
            y = places[row["guidance_scale"], row["method"]]
            ax.errorbar(row["difference"], y, xerr=bars, fmt="o", capsize=3, color=colour, markerfacecolor=fill)
        ax.axvline(0, color="black", linewidth=0.8)
        levels = own.groupby("guidance_scale")["unsteered"].first().items()
        told = ", ".join(f"{number(u)} px" + (f" at guidance {g:g}" if g != 1 else "") for g, u in levels)
        ax.set_title(f"{labels.backbone(backbone)}, n = {own['n'].min()}\nunsteered {told}", fontsize=9)
        ax.set_xlabel("change of displacement (px)")
    names = {place: labels.setting(method, scale, parameters) for (scale, method), place in places.items()}
    np.atleast_1d(axes)[0].set_yticks(list(names), list(names.values()))
    title = "How far the named object goes on prompts that ask for a move"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def motion_table(changes: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    """One line per backbone and setting, a column per measure of SHOWN: the change with its interval, * where it holds
    after the correction."""
    lines = []
    for (backbone, scale, method), part in changes.groupby(["backbone", "guidance_scale", "method"], sort=False):
        line = {"backbone": labels.backbone(backbone), "setting": labels.setting(method, scale, parameters)}
        for row in part.to_dict("records"):
            unit, digits = COLUMNS[row["measure"]], 3 if row["measure"] == "flow_px" else 1
            star = "*" if row["p (Holm)"] < LEVEL else ""
            told = f"{number(row['difference'], digits, sign=True)} ({interval(row['low'], row['high'], digits)}){star}"
            line[f"{unit.label} ({unit.unit})"] = told
        lines.append(line)
    return pd.DataFrame(lines)


def motion_found(changes: pd.DataFrame, parameters: Parameters) -> list[str]:
    """A sentence per backbone on the displacement of the named object under each method, at each guidance scale."""
    sentences = []
    for backbone, own in changes[changes["measure"] == "asked_px"].groupby("backbone", sort=False):
        parts = []
        for scale, rows in own.groupby("guidance_scale"):
            sides = [clear_side(*ends) for ends in rows[["low", "high", "p (Holm)"]].to_numpy()]
            clear = rows[np.array(sides) != 0]
            told = [
                f"{effect(r['difference'], r['low'], r['high'], 'px')} under {labels.setting(r['method'], 1.0, parameters)}"
                for r in clear.to_dict("records")
            ]
            where = "Without guidance" if scale == 1 else f"At guidance {scale:g}"
            start = f"{where} ({number(rows['unsteered'].iloc[0])} px unsteered, {rows['n'].min()} prompts)"
            more = f", not clearly under {len(rows) - len(clear)} more" if len(clear) < len(rows) else ""
            parts.append(
                f"{start} it changes by {'; '.join(told)}{more}." if told else f"{start} no setting changes it clearly."
            )
        sentences.append(
            f"**Asked motion, {labels.backbone(backbone)}**: how far the named object goes. {' '.join(parts)}"
        )
    return sentences
