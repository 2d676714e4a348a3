"""Notebook 03: what the recordings say about AlignVid's reading of entropy, as sentences and as verdicts."""

from __future__ import annotations

import pandas as pd

from ..study.significance import paired_difference
from . import labels
from .entropy_figures import PANELS, Scaled
from .findings import decided, effect, interval, number, side

INNER, REFERENCE = PANELS["entropy within the conditions"], PANELS["share of the reference"]


def _lifted(own: Scaled, gamma: float) -> dict[str, float]:
    parts = (own.scores[own.scores["gamma"] == g] for g in (gamma, 1.0))
    return paired_difference(*parts, "adherence")


def claims(studies: dict[str, Scaled], ratios: pd.DataFrame, correlations: pd.DataFrame, gamma: float) -> pd.DataFrame:
    """AlignVid's claims on each backbone by one rule: columns backbone, claim, effect, n, p (Holm), verdict."""
    rows = []
    for b, own in studies.items():
        ratio = ratios[(ratios["backbone"] == b) & (ratios["gamma"] == gamma)].set_index("measure")
        tested = []
        for name in [n for n in own.names if n.startswith(("entropy", "largest"))]:
            word, sign = ("lowers", -1) if name.startswith("entropy") else ("raises", 1)
            claim = f"scaling {word}: {name} (section 4, figure 3)"
            tested.append((claim, *ratio.loc[name, ["mean", "low", "high", "p"]], sign, 1, "ratio"))
        name = own.measure(REFERENCE)
        claim = "scaling takes attention off the reference (figure 3)"
        tested.append((claim, *ratio.loc[name, ["mean", "low", "high", "p"]], -1, 1, "ratio"))
        own_rows = correlations[correlations["backbone"] == b].set_index("measure")
        row = own_rows.loc[own.measure(INNER)]
        claim = "between samples, lower entropy goes with prompts followed"
        tested.append((claim, *row[["between: ρ", "low", "high", "p"]], -1, 0, "ρ"))
        claim = "within samples, falling entropy goes with prompts gained"
        tested.append((claim, *row[["within: ρ", "within low", "within high", "within p"]], -1, 0, "ρ"))
        change = _lifted(own, gamma)
        values = [100 * change[k] for k in ("difference", "low", "high")]
        tested.append(("scaling everywhere raises adherence", *values, change["p"], 1, 0, "points"))
        for claim, value, low, high, p, sign, line, unit in tested:
            words = effect(value, low, high, unit)
            if unit != "points":
                words = f"{unit} {number(value, 3)} ({interval(low, high, 3)})"
            row = {"backbone": labels.backbone(b), "claim": claim, "effect": words, "n": len(own.plain)}
            rows.append(row | {"low": low, "high": high, "p": p, "sign": sign, "line": line})
    return decided(rows, "backbone")


def findings(studies: dict[str, Scaled], ratios: pd.DataFrame, correlations: pd.DataFrame, gamma: float) -> list[str]:
    """Sentences: entropy, the share of the reference, whether entropy tells which prompts are followed, and adherence."""
    entropy, reference, sides, told, tells, lifts = [], [], [], [], [], []
    for b, own in studies.items():
        name = labels.backbone(b)
        ratio = ratios[(ratios["backbone"] == b) & (ratios["gamma"] == gamma)].set_index("measure")
        for words, pair in ((entropy, INNER), (reference, REFERENCE)):
            row = ratio.loc[own.measure(pair)]
            n = f"{row['n']:.0f} prompts"
            words.append(f"{number(row['mean'], 3)} ({interval(row['low'], row['high'], 3)}; {n}) on the {name}")
        sides.append(side(row["low"], row["high"], 1.0))
        row = correlations[correlations["backbone"] == b].set_index("measure").loc[own.measure(INNER)]
        told.append(f"ρ {number(row['between: ρ'], 2)} ({interval(row['low'], row['high'], 2)}) on the {name}")
        tells.append(side(row["low"], row["high"]))
        change = _lifted(own, gamma)
        values = [100 * change[k] for k in ("difference", "low", "high")]
        lifts.append(f"{effect(*values, 'points', change['n'])} on the {name}")
    opposite = ", where AlignVid's figure 3 describes less" if set(sides) == {"above"} else ""
    blind = " On neither model does it tell which prompts are followed." if set(tells) == {"not clear of"} else ""
    return [
        f"Under γ {gamma:g} in every block and step, entropy within the conditions is {' and '.join(entropy)} times the "
        "plain model's.",
        f"Attention to the reference frame is {' and '.join(reference)} times the plain model's{opposite}.",
        f"Between the plain model's videos, the rank correlation of that entropy with adherence is {' and '.join(told)}."
        + blind,
        f"Adherence changes by {' and '.join(lifts)}.",
    ]
