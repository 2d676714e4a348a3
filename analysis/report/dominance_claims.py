"""Notebook 04: what the pairs of twins say about DyMoS's observations, as sentences and as verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..attention.recording_summaries import dominance
from ..study.significance import sign_flip_p
from . import labels
from .dominance_figures import DISTANCE, DOMINANCE, FIDELITY, FLOW, MOVED, MOVED_ASKED, Twins, change_interval
from .findings import decided, effect, side


def gaps(own: Twins) -> dict[str, pd.Series]:
    """How many points more of their attention later frames pay to frame 0 than the twin's do, per pair: in early steps,
    and in early steps more than in all."""
    gap = {}
    for name, (steered, twin) in {"early": own.early, "all": own.whole}.items():
        values = [100 * (dominance(steered[0.0, s]) - dominance(twin[0.0, s])) for s in own.samples]
        gap[name] = pd.Series(values, own.samples)
    return {"early": gap["early"], "more in early steps": gap["early"] - gap["all"]}


def nearest(pairs: pd.DataFrame) -> float:
    """The gamma above 0 whose attention is nearest to the twin's, of those that were tried."""
    return pairs.groupby("gamma")[DISTANCE].mean().loc[lambda x: x.index > 0].idxmin()


def slopes(pairs: pd.DataFrame, measure: str) -> pd.Series:
    """Slope of a line through each pair's values against gamma, per unit of gamma."""
    wide = pairs.pivot(index="sample", columns="gamma", values=measure).dropna()
    return pd.Series(np.polyfit(wide.columns.to_numpy(float), wide.to_numpy().T, 1)[0].round(12), wide.index)


def claims(twins: dict[str, Twins], pairs: pd.DataFrame) -> pd.DataFrame:
    """DyMoS's observations, each decided on each backbone by one rule: columns backbone, claim, effect, n, p (Holm),
    verdict."""
    rows = []
    for b, own in twins.items():
        mine, gap = pairs[pairs["backbone"] == b], gaps(own)
        best = nearest(mine)
        wide = mine.pivot(index="sample", columns="gamma", values=DISTANCE)
        tested = [
            ("later frames look more at frame 0 than in the twin (3.1)", gap["early"], 1, "points"),
            ("most so in early steps (3.1)", gap["more in early steps"], 1, "points"),
            ("attention to frame 0 falls with γ (3.2)", slopes(mine, DOMINANCE), -1, "points per unit of γ"),
            ("displacement grows with γ (3.2)", slopes(mine, MOVED), 1, "px per unit of γ"),
            ("flow grows with γ (3.2)", slopes(mine, FLOW), 1, "px / frame per unit of γ"),
            (f"attention is nearer to the twin's at γ {best:g} than at 0 (3.2)", wide[best] - wide[0.0], -1, "nats"),
            ("fidelity to the background falls with γ (4)", slopes(mine, FIDELITY), -1, "dB per unit of γ"),
        ]
        for claim, values, sign, unit in tested:
            mean, low, high = change_interval(values)
            row = {"backbone": labels.backbone(b), "claim": claim, "effect": effect(mean, low, high, unit, digits=3)}
            row |= {"n": len(values), "low": low, "high": high, "p": sign_flip_p(values), "sign": sign}
            rows.append(row)
    return decided(rows, "backbone")


def findings(twins: dict[str, Twins], pairs: pd.DataFrame, changes: pd.DataFrame, shown: float) -> list[str]:
    """Sentences: the reference's dominance, what the twins are worth, what DyMoS changes in attention, and in motion."""
    more, worth, closest, moves, poor = [], [], [], [], True
    for b, own in twins.items():
        name, n = labels.backbone(b), len(own.samples)
        more.append(f"{effect(*change_interval(gaps(own)['early']), 'points', n)} on the {name}")
        right = int(own.twin_scores["adherence"].sum())
        poor &= right < n / 2
        worth.append(f"{right} of {n} ({name})")
        found = changes[changes["backbone"] == b].set_index(["measure", "gamma"])
        best = nearest(pairs[pairs["backbone"] == b])
        nearer = found.loc[(DISTANCE, best)]
        change = effect(nearer["mean"], nearer["low"], nearer["high"], "nats against γ 0", digits=4)
        closest.append(f"γ {best:g} on the {name}, {change}")
        moved = found.loc[(MOVED_ASKED, shown)]
        change = effect(moved["mean"], moved["low"], moved["high"], "px", int(moved["n"]))
        unclear = side(moved["low"], moved["high"]) == "not clear of"
        moves.append(f"{change}{', which may be chance,' if unclear else ''} on the {name}")
    return [
        "In early steps, later frames of the image-to-video model pay the reference frame more (+) or less (−) of their "
        f"attention than those of its text-to-video twin do: {' and '.join(more)}.",
        f"The twins' own videos follow {' and '.join(worth)} prompts"
        + (", so they are no standard of good motion." if poor else "."),
        f"Of the strengths above 0, attention between frames is nearest to the twin's at {', and at '.join(closest)}.",
        f"On prompts that ask for a move, γ {shown:g} changes how far the shapes travel by {' and by '.join(moves)}.",
    ]
