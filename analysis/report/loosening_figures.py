"""What notebook 14 shows of the remedies' curves: figures, tables and sentences."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..study.results_layout import lineage_of
from ..study.score_columns import COLUMNS
from ..study.significance import LEVEL, clear_side, mean_interval
from . import labels
from .findings import effect, interval, number, p_words
from .loosening_curves import GAINS, KEPT, UNSTEERED, Remedy, curve, of_prompts, point_of

KINDS = {"reference": "the reference", "guidance": "guidance", "attention": "attention"}
PALETTE = ("C0", "C1", "C2", "C3", "C4", "C5", "#8B4513", "#6A3D9A", "#00A0A0", "#B0B000")
TOLD = {"adherence": "adherence (%)", "asked_px": "displacement of the named object (px)"}


def curves_figure(scores: pd.DataFrame, remedies: list[Remedy], base: float, backbone: str, order: list[str]):
    """One curve per remedy: fidelity of what must not change (x) against adherence (above) and displacement (below), a column
    per kind of remedy. A star is what the makers publish; the black mark is the unsteered model, with its intervals."""
    lineage = lineage_of(backbone)
    figure, axes = plt.subplots(len(GAINS), len(KINDS), figsize=(12.5, 7.4), sharex="row", sharey="row")
    for row, (column, which) in zip(axes, GAINS.items(), strict=True):
        own = of_prompts(scores, which, order)
        plain = own[(own["setting"] == UNSTEERED) & (own["guidance_scale"] == base)]
        factor = COLUMNS[column].factor
        (x, *ends), (y, *heights) = (_level(plain, c, f) for c, f in ((KEPT, 1.0), (column, factor)))
        for ax, kind in zip(row, KINDS, strict=True):
            mine = [r for r in remedies if r.kind == kind]
            for colour, remedy in zip(PALETTE[: len(mine)], mine, strict=True):  # more remedies need more colours
                points = curve(own, remedy, base, column)
                if not points:
                    continue
                xs, ys = ([start + getattr(p, axis).mean() for p in points] for start, axis in ((x, "x"), (y, "y")))
                ax.plot(xs, ys, "o-", color=colour, markersize=3.5, linewidth=1.2, label=remedy.label)
                default = remedy.default_of(lineage)
                for px, py, p in zip(xs, ys, points, strict=True):
                    if default is not None and (p.setting, p.scale) == point_of(default, base):
                        ax.plot(px, py, "*", color=colour, markersize=13, markeredgecolor="black", zorder=5)
            bars = [np.abs(np.array([[low], [high]]) - m) for m, (low, high) in ((x, ends), (y, heights))]
            ax.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="s", color="black", capsize=3, markersize=5, zorder=4)
            ax.set_title(f"{KINDS[kind]}, n = {plain['sample'].nunique()}", fontsize=10)
            ax.set_xlabel("fidelity of what must not change (dB)")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=7, loc="best")
        row[0].set_ylabel(TOLD[column])
    where = "without guidance" if base == 1 else f"at guidance {base:g}"
    title = f"{labels.backbone(backbone)}, {where}: what each remedy buys, and the fidelity that it costs; up and right is better"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _level(rows: pd.DataFrame, column: str, factor: float) -> tuple[float, float, float]:
    found = mean_interval(rows[column], rows["sample"], proportion=column in COLUMNS and COLUMNS[column].proportion)
    return tuple(factor * v for v in found)


def matched_figure(tables: dict[str, pd.DataFrame], remedies: list[Remedy], loss: float):
    """What each remedy changes where it has lost `loss` dB, with intervals: a column per gain and guidance scale, a colour per
    backbone; filled marks hold after the correction. Remedies that never lose so much are hollow diamonds at their
    strongest setting."""
    names = {r.name: r.label for r in remedies}
    rows = pd.concat([t.assign(backbone=b) for b, t in tables.items()])
    rows = rows[rows["loss"] == loss]
    panels = list(rows[["gain", "guidance_scale"]].drop_duplicates().itertuples(index=False, name=None))
    places = {name: i for i, name in enumerate(reversed([n for n in names if n in set(rows["remedy"])]))}
    size = (2.2 + 2.6 * len(panels), 0.3 * len(places) + 1.8)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (gain, base) in zip(axes[0], panels, strict=True):
        for i, (_, own) in enumerate(rows.groupby("backbone", sort=False)):
            for row in own[(own["gain"] == gain) & (own["guidance_scale"] == base)].to_dict("records"):
                colour, y = f"C{i}", places[row["remedy"]] + 0.2 * (0.5 * (len(tables) - 1) - i)
                bars = [[row["change"] - row["change low"]], [row["change high"] - row["change"]]]
                fill = colour if row["reached"] and row["change p (Holm)"] < LEVEL else "white"
                style = dict(fmt="o" if row["reached"] else "D", markersize=5 if row["reached"] else 4, capsize=2)
                ax.errorbar(row["change"], y, xerr=bars, color=colour, markerfacecolor=fill, **style)
        ax.axvline(0, color="black", linewidth=0.8)
        where = "without guidance" if base == 1 else f"guidance {base:g}"
        ax.set_title(f"{COLUMNS[gain].label.replace(' of the named object', '')}, {where}", fontsize=9)
        ax.set_xlabel(f"change ({COLUMNS[gain].unit})")
    axes[0][0].set_yticks(list(places.values()), [names[n] for n in places])
    for i, backbone in enumerate(tables):
        axes[0][-1].plot([], [], "o", color=f"C{i}", label=labels.backbone(backbone))
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(f"Read off where {number(loss)} dB of fidelity are lost", x=0.01, ha="left", fontweight="bold")
    return figure


def matched_table(table: pd.DataFrame, remedies: list[Remedy], loss: float) -> pd.DataFrame:
    """One line per guidance scale and remedy: both gains at a loss with intervals, * where they hold after the correction, and
    where on the curve they were read."""
    names, lines = {r.name: r.label for r in remedies}, {}
    for row in table[table["loss"] == loss].to_dict("records"):
        key = (row["guidance_scale"], row["remedy"])
        line = lines.setdefault(key, {"guidance": row["guidance_scale"], "remedy": names[row["remedy"]]})
        star = "*" if row["reached"] and row["change p (Holm)"] < LEVEL else ""
        told = f"{number(row['change'], sign=True)} ({interval(row['change low'], row['change high'])}){star}"
        if not row["reached"]:
            told += f", at most {number(row['lost'])} dB lost"
        unit = COLUMNS[row["gain"]]
        line[f"{unit.label} ({unit.unit})"] = told
        if "against guidance" in row and row["against guidance"] == row["against guidance"]:
            ends = interval(row["against guidance low"], row["against guidance high"])
            line[f"{unit.label}, less that of more guidance"] = f"{number(row['against guidance'], sign=True)} ({ends})"
        line[f"read at ({unit.unit})"] = _where(row)
    return pd.DataFrame(list(lines.values())).fillna("–")


def _where(row: dict) -> str:
    """Between which settings a curve was read, in the names of params.yaml."""
    ends = [f"{row[k]}" + (f"@{row[f'{k} scale']:g}" if row[k] == UNSTEERED else "") for k in ("from", "to")]
    return ends[1] if row["share"] == 1 else f"{ends[0]} → {ends[1]}, {number(row['share'], 2)}"


def cost_table(table: pd.DataFrame, remedies: list[Remedy]) -> pd.DataFrame:
    """`matched_cost` in words, grouped by passes: of each gain and cost the remedies from the best on."""
    names = {r.name: r.label for r in remedies}
    return pd.DataFrame(
        [
            {
                "passes per video": f"{row['passes']:g}", "gain": COLUMNS[row["gain"]].label,
                "remedy": names[row["remedy"]] + ("" if row["guidance_scale"] == 1 else f", guidance {row['guidance_scale']:g}"),
                "change": f"{number(row['change'], sign=True)} {COLUMNS[row['gain']].unit} "
                f"({interval(row['change low'], row['change high'])})",
                "p": p_words(row["change p"]),
            }
            for row in table.to_dict("records")
        ]
    )  # fmt: skip


def refused_table(reasons: dict[str, dict[str, str]], remedies: list[Remedy]) -> pd.DataFrame:
    """Which remedy has no curve on which backbone, and why."""
    names = {r.name: r.label for r in remedies}
    return pd.DataFrame(
        [
            {"backbone": labels.backbone(b), "remedy": names[name], "why": why}
            for b, own in reasons.items()
            for name, why in own.items()
        ]
    )


def defaults_table(remedies: list[Remedy], backbones: list[str]) -> pd.DataFrame:
    """What the makers publish, and where it stands."""
    lines = []
    for remedy in remedies:
        line = {"remedy": remedy.label, "settings by strength": ", ".join(f"`{s}`" for s in remedy.settings)}
        for b in backbones:
            default = remedy.default_of(lineage_of(b))
            line[f"published, {labels.backbone(b)}"] = f"`{default}`" if default else "–"
        lines.append(line | {"source": remedy.source})
    return pd.DataFrame(lines)


def loosening_found(backbone: str, table: pd.DataFrame, remedies: list[Remedy], loss: float) -> str:
    """Sentences: which remedies raise adherence and displacement at this loss beyond doubt, at each guidance scale, and which
    do better than more guidance does."""
    names, sentences = {r.name: r.label for r in remedies}, []
    own = table[(table["loss"] == loss) & table["reached"]]
    for (base, gain), rows in own.groupby(["guidance_scale", "gain"], sort=False):
        where = "Without guidance" if base == 1 else f"At guidance {base:g}"
        unit = COLUMNS[gain]
        sides = [clear_side(*e) for e in rows[["change low", "change high", "change p (Holm)"]].to_numpy()]
        clear = rows[np.array(sides) > 0].sort_values("change", ascending=False)
        told = [
            f"{names[r['remedy']]} {effect(r['change'], r['change low'], r['change high'], unit.unit)}"
            for r in clear.to_dict("records")
        ]
        said = "; ".join(told) if told else "no remedy clearly"
        better = ""
        if "against guidance p (Holm)" in rows:
            ends = ["against guidance low", "against guidance high", "against guidance p (Holm)"]
            beyond = [n for n, e in zip(rows["remedy"], rows[ends].to_numpy(), strict=True) if clear_side(*e) > 0]
            better = f" Better than more guidance: {', '.join(names[n] for n in beyond) or 'none clearly'}."
        sentences.append(f"{where}, {unit.label} rises with {said} ({rows['n'].max()} prompts).{better}")
    lost = f"Where {number(loss)} dB of the fidelity of what must not change are lost:"
    return f"**{labels.backbone(backbone)}.** {lost} " + (" ".join(sentences) or "no curve is long enough.")
