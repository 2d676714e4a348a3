"""The cells of the papers' tables that can be compared, one line per setting and metric, measured on every backbone.

A setting that stands in several tables is one line. On a backbone that stands in for the paper's, the line takes the cell
with most prompts; on another one the same setting is measured against the same baseline there.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..report import labels
from ..report.findings import interval, number
from ..study.parameters import Parameters
from ..study.results_layout import lineage_of
from .paper_tables import SIGNS, give_directions, measure, pick
from .table_pages import AGREEMENT
from .table_schema import Paper, Row

MARKS = {"agrees": "✔", "disagrees": "✘", "undecided": "○"}
COLOURS = {"agrees": "C2", "disagrees": "C1", "undecided": "0.6"}
KEY = ["paper", "setting", "metric"]
NOTHING = {"change": np.nan, "low": np.nan, "high": np.nan, "n": 0, "direction": ""}


def compared_changes(
    papers: dict[str, Paper], cells: pd.DataFrame, scores: pd.DataFrame, stand_ins: dict[str, dict[str, str]],
    backbones: list[str], parameters: Parameters,
) -> pd.DataFrame:  # fmt: skip
    """One row per comparison and backbone: paper, setting, metric, tables, published, sign (of the published change),
    estimator, backbone, change, low, high, n, digits, direction ("" where nothing was measured).

    stand_ins: per backbone, what a method of params.yaml is called there, as in papers/claims.yaml. Where a backbone is not
    the table's, p is corrected over what is measured there in the place of the cells of one table.
    """
    own = cells[(cells["direction"] != "") & (cells["beside"] == "")]
    own = own.assign(setting=[_words(cell, parameters) for _, cell in own.iterrows()])
    lines, elsewhere = [], []
    for (_, setting, metric), group in own.groupby(KEY, sort=False):
        first = group.loc[group["n"].astype(float).idxmax()]
        paper = papers[first["paper"]]
        line = {
            "paper": paper.title, "setting": setting, "metric": metric,
            "tables": ", ".join(t.replace("table", "table ").replace("figure", "figure ") for t in group["table"].unique()),
            "published": ", ".join(v.replace("-", "−") for v in dict.fromkeys(group["published_change"])),
            "sign": _sign(first["published_change"]), "estimator": first["estimator"],
            "digits": paper.metrics[metric].digits,
        }  # fmt: skip
        for backbone in backbones:
            here = group[[lineage_of(b) == lineage_of(backbone) for b in group["measured_on"]]]
            lines.append(line | {"backbone": backbone} | NOTHING)
            if len(here):
                cell = here.loc[here["n"].astype(float).idxmax()]
                lines[-1] |= {"sign": _sign(cell["published_change"])} | _shown_of(cell)
            else:
                names = _names(stand_ins, backbone)
                found = _elsewhere(paper, first, scores, names, backbone, parameters)
                elsewhere.append((lines[-1], found | {"sign": line["sign"], "family": (first["table"], backbone)}))
    for family in dict.fromkeys((line["paper"], found["family"]) for line, found in elsewhere):
        give_directions([found for line, found in elsewhere if (line["paper"], found["family"]) == family])
    for line, found in elsewhere:
        if "direction" in found:
            line |= _shown_of(found)
    return pd.DataFrame(lines)


def _names(stand_ins: dict[str, dict[str, str]], backbone: str) -> dict[str, str]:
    """What every method that has another name on some backbone is called on this one."""
    own = stand_ins.get(backbone, {})
    return own | {new: own.get(old, old) for names in stand_ins.values() for old, new in names.items()}


def _shown_of(cell) -> dict:
    ends = {"change": cell["change"], "low": cell["change_low"], "high": cell["change_high"]}
    return ends | {"n": int(cell["n"]), "direction": cell["direction"]}


def _sign(change: str) -> int:
    return SIGNS.get(change) or int(np.sign(float(change)))


def _words(cell: pd.Series, parameters: Parameters) -> str:
    words = labels.setting(cell["method"], cell["guidance_scale"], parameters)
    kind = cell["measured_on"].removeprefix(f"{lineage_of(cell['measured_on'])}-").removeprefix("i2v").removeprefix("-")
    if kind == "control":
        return "Post-training alone"
    return (
        f"{words}, post-trained" if kind.startswith("tuned") else f"{words}, text to video" if kind == "t2v" else words
    )


def _elsewhere(paper, cell, scores, names, backbone, parameters) -> dict:
    """The cell's change on another backbone; {} if its videos or its baseline's are not there."""
    rows = {r.row: r for r in paper.tables[cell["table"]].rows}
    row, metric = rows[cell["row"]], paper.metrics[cell["metric"]]
    steered, plain = (_scores_of(r, paper, scores, names, backbone, parameters) for r in (row, rows[row.against]))
    return {} if steered.empty or plain.empty else measure(steered, plain, metric)


def _scores_of(row: Row, paper: Paper, scores, names, backbone: str, parameters: Parameters) -> pd.DataFrame:
    model = paper.backbones[row.backbone]
    kind = model.stand_in.removeprefix(lineage_of(model.stand_in))
    elsewhere = model.model_copy(update={"stand_in": lineage_of(backbone) + kind})
    method = names.get(row.method, row.method)
    sweep = f"{lineage_of(backbone)}-{row.sweep}" if row.sweep else None
    known = (
        sweep if sweep in parameters.sweeps else row.sweep and row.sweep.removeprefix(f"{lineage_of(model.stand_in)}-")
    )
    return pick(scores, row.model_copy(update={"method": method, "sweep": known}), elsewhere, parameters)


def compact_table(changes: pd.DataFrame) -> str:
    """Markdown of `compared_changes`: a line per comparison, what was published beside what each backbone shows."""
    backbones = list(dict.fromkeys(changes["backbone"]))
    head = ["paper", "setting", "metric", "where", "published change", "measured here as"]
    head += [labels.backbone(b) for b in backbones]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for names, rows in changes.groupby(["paper", "setting", "metric", "tables", "published", "estimator"], sort=False):
        shown = [_shown(rows[rows["backbone"] == b].iloc[0]) for b in backbones]
        lines.append(f"| {' | '.join(str(n).replace('|', '/') for n in (*names, *shown))} |")
    return "\n".join(lines) + "\n"


def _shown(row: pd.Series) -> str:
    if not row["direction"]:
        return "not run"
    change = f"{number(row['change'], row['digits'], sign=True)} ({interval(row['low'], row['high'], row['digits'])})"
    return f"{MARKS[row['direction']]} {change}, n = {row['n']}"


def counts(changes: pd.DataFrame) -> pd.DataFrame:
    """Comparisons per paper and backbone: paper, backbone, comparisons, and one column per word of AGREEMENT."""
    made = changes[changes["direction"] != ""]
    rows = []
    for (paper, backbone), part in made.groupby(["paper", "backbone"], sort=False):
        words = {word: int((part["direction"] == word).sum()) for word in AGREEMENT.values()}
        rows.append({"paper": paper, "backbone": backbone, "comparisons": len(part)} | words)
    return pd.DataFrame(rows)


def found(changes: pd.DataFrame) -> list[str]:
    """Sentences: per paper, how many comparisons agree, disagree and are undecided on each backbone."""
    sentences = []
    for paper, part in counts(changes).groupby("paper", sort=False):
        words = [
            f"on the {labels.backbone(r['backbone'])} {r['agrees']} of {r['comparisons']} agree, {r['disagrees']} disagree and "
            f"{r['undecided']} are undecided"
            for _, r in part.iterrows()
        ]
        sentences.append(f"**{paper}**: of the comparisons with a published direction, {'; '.join(words)}.")
    return sentences


def directions(changes: pd.DataFrame, paper: str):
    """Every comparison of one paper, a panel per backbone: the measured change in half-widths of its interval, counted
    towards the published direction. Beyond 1 the interval is clear of zero on the published side, beyond -1 on the other."""
    own = changes[changes["paper"] == paper]
    backbones = list(dict.fromkeys(own["backbone"]))
    names = own[["setting", "metric", "tables"]].drop_duplicates().reset_index(drop=True)
    size = (5.6 + 3.2 * len(backbones), 0.24 * len(names) + 1.6)
    figure, axes = plt.subplots(1, len(backbones), figsize=size, squeeze=False, sharey=True, sharex=True)
    for ax, backbone in zip(axes[0], backbones, strict=True):
        part = names.merge(own[own["backbone"] == backbone], on=list(names), how="left")
        ax.axvspan(-1, 1, color="0.93", zorder=0)
        ax.axvline(0, color="black", lw=0.8)
        for word, colour in COLOURS.items():
            mine = (part["direction"] == word).to_numpy()
            x = [_clear(row) for _, row in part[mine].iterrows()]
            ax.scatter(x, np.flatnonzero(mine), color=colour, s=26, zorder=3, label=word)
        least, most = part.loc[part["n"] > 0, "n"].agg(["min", "max"])
        ax.set(
            xlim=(-LIMIT - 0.5, LIMIT + 0.5),
            xlabel="change towards the published direction\n(half-widths of its interval)",
        )
        ax.set_title(f"{labels.backbone(backbone)}, n = {least:.0f} to {most:.0f}", fontsize=10)
    axes[0, 0].set_yticks(
        range(len(names)), [f"{r.setting}: {r.metric} ({r.tables})" for r in names.itertuples()], fontsize=8
    )
    axes[0, 0].invert_yaxis()
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=3, loc="outside lower right", fontsize=8)
    figure.suptitle(f"{paper}: measured changes against published directions", fontweight="bold", x=0.01, ha="left")
    return figure


LIMIT = 5  # half-widths; what is clearer still is drawn here


def _clear(row: pd.Series) -> float:
    """The change in half-widths of its interval on the side of zero, signed towards the published direction."""
    change = row["change"]
    half = change - row["low"] if change > 0 else row["high"] - change
    return float(np.clip(row["sign"] * (change / half if half > 0 else np.sign(change) * LIMIT), -LIMIT, LIMIT))
