"""How well a judge tells right from wrong, measured on clips whose truth is known, and what its errors did to a result.

A judge with sensitivity `se` (it says right where a thing is right) and specificity `sp` (it says wrong where it is
wrong) turns a true rate p into q = se p + (1 - sp) (1 - p). So a true difference appears multiplied by
J = se + sp - 1, Youden's index: a judge that errs once in ten each way shows 8 points where there are 10. Rogan and
Gladen (1978) invert this: p = (q + sp - 1) / J.

Everything is counted per prompt, as elsewhere (`significance`). Intervals of sums and ratios are made from the
intervals of their parts (MOVER: Zou and Donner 2008; Donner and Zou 2012), so a corrected value carries the uncertainty
of its calibration as well as that of the study. What no interval carries: that the judge errs on the study's videos as
it does on the testbed's, and equally under all compared settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ..study.significance import mean_interval, paired_difference

COLUMNS = ("judge", "video", "sample", "question", "expected", "truth", "answer")
LEVELS = ("question", "video")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the limits of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Calibration:
    """How a judge does on clips whose truth is known.

    judge: its name and version. level: "question", or "video" where a video is right if all its questions are. stratum:
    "all", or the expected answers "yes" or "no" alone. prompts, clips: how many were judged. right, wrong: units that
    are truly so. undecided: share of units for which the judge gave neither yes nor no; it counts as wrong, as in the
    scores. sensitivity, specificity and youden (their sum less 1): shares in [0, 1], in [-1, 1] for youden. covariance:
    of the errors of sensitivity and specificity, which come from the same prompts.
    """

    judge: str
    level: str
    stratum: str
    prompts: int
    clips: int
    right: int
    wrong: int
    undecided: float
    sensitivity: Estimate
    specificity: Estimate
    youden: Estimate
    covariance: float


def units(answers: pd.DataFrame, level: str = "question", stratum: str = "all") -> pd.DataFrame:
    """One row per judged unit: `video`, `sample`, `truly` and `judged` (bool: right or not), `undecided` (bool).

    answers: a table with `COLUMNS`; expected is "yes" or "no", truth and answer may be "unknown", too. A question whose
    truth is unknown is left out, and a video that has one, from the videos. Raises ValueError for other values, a
    missing column or an unknown level or stratum.
    """
    if missing := [c for c in COLUMNS if c not in answers]:
        raise ValueError(f"a table of judged answers has the columns {', '.join(COLUMNS)}; {missing} are missing")
    allowed = {"expected": ("yes", "no"), "truth": ("yes", "no", "unknown"), "answer": ("yes", "no", "unknown")}
    for column, values in allowed.items():
        if len(odd := answers.loc[~answers[column].isin(values), column]):
            raise ValueError(f"{column} is one of {', '.join(values)}, not {odd.iloc[0]!r}")
    if level not in LEVELS or stratum not in ("all", "yes", "no"):
        raise ValueError(f"no level {level!r} with stratum {stratum!r}; levels: {LEVELS}, strata: all, yes, no")
    if stratum != "all" and level == "video":
        raise ValueError("a video has questions of either expected answer; strata are of single questions")
    unknown = answers["truth"] == "unknown"
    if level == "video":
        unknown = unknown.groupby([answers["video"], answers["sample"]]).transform("any")
    table = answers[~unknown & answers["expected"].isin(("yes", "no") if stratum == "all" else (stratum,))]
    table = pd.DataFrame({
        "video": table["video"], "sample": table["sample"], "truly": table["truth"] == table["expected"],
        "judged": table["answer"] == table["expected"], "undecided": table["answer"] == "unknown",
    })  # fmt: skip
    if level == "question":
        return table
    groups = table.groupby(["video", "sample"], sort=False)
    return groups.agg(truly=("truly", "all"), judged=("judged", "all"), undecided=("undecided", "any")).reset_index()


def calibrate(answers: pd.DataFrame, level: str = "question", stratum: str = "all") -> Calibration:
    """What a table of judged answers says of one judge (see `units` for the table). Raises ValueError where it has no
    unit that is truly right or none that is wrong, or more than one judge."""
    names = answers["judge"].unique() if "judge" in answers else []
    if len(names) > 1:
        raise ValueError(f"a calibration is of one judge, not of {len(names)}: {', '.join(map(str, names))}")
    table = units(answers, level, stratum)
    right, wrong = table[table["truly"]], table[~table["truly"]]
    if right.empty or wrong.empty:
        raise ValueError(
            f"{len(right)} units are truly right and {len(wrong)} wrong; a judge is calibrated on some of each"
        )
    hits, rejections = right["judged"].astype(float), 1.0 - wrong["judged"].astype(float)
    sensitivity = Estimate(*mean_interval(hits, right["sample"], proportion=True, confidence=CONFIDENCE))
    specificity = Estimate(*mean_interval(rejections, wrong["sample"], proportion=True, confidence=CONFIDENCE))
    covariance = _covariance(hits.groupby(right["sample"]).mean(), rejections.groupby(wrong["sample"]).mean())
    index = sensitivity.value + specificity.value - 1
    shared = 2 * _quantile(table["sample"].nunique()) ** 2 * covariance
    below, above = (
        math.sqrt(max(0.0, a * a + b * b + shared))
        for a, b in (
            (sensitivity.value - sensitivity.low, specificity.value - specificity.low),
            (sensitivity.high - sensitivity.value, specificity.high - specificity.value),
        )
    )
    return Calibration(
        str(names[0]), level, stratum, table["sample"].nunique(), len(table[["video", "sample"]].drop_duplicates()),
        len(right), len(wrong), float(table["undecided"].mean()), sensitivity, specificity,
        Estimate(index, max(-1.0, index - below), min(1.0, index + above)), covariance,
    )  # fmt: skip


def _quantile(prompts: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, max(1, prompts - 1)))


def _covariance(a: pd.Series, b: pd.Series) -> float:
    """Of the means of two series of prompt means, from the prompts that have both."""
    both = a.index.intersection(b.index)
    if len(both) < 2:
        return 0.0
    product = (a[both] - a.mean()) * (b[both] - b.mean())
    return float(product.sum() / (len(a) * len(b)) * len(both) / (len(both) - 1))


def corrected_rate(values, prompts, calibration: Calibration) -> dict[str, float]:
    """The true rate behind a judged one.

    values: per video 0 or 1, or a share of right answers in [0, 1], judged by the calibrated judge; prompts: the prompt
    of each. Returns observed, observed_low, observed_high; corrected, low, high, all in [0, 1]; n prompts. Where the
    judge can hardly tell right from wrong, low and high are 0 and 1. Raises ValueError if Youden's index is not above
    0, or a value lies outside [0, 1].
    """
    _can_tell(calibration)
    values = np.asarray(values, float)
    if len(values) and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"a rate is made of values in [0, 1], not of {values.min():g} to {values.max():g}")
    q = Estimate(*mean_interval(values, prompts, proportion=True, confidence=CONFIDENCE))
    se, sp, j = calibration.sensitivity, calibration.specificity, calibration.youden
    shared = _quantile(calibration.prompts) ** 2 * calibration.covariance

    def distance(rate: float, side: int) -> float:
        """How far q + sp - 1 - rate J, whose truth is 0 at the true rate, is from its limit; for rates in [0, 1]."""
        own = q.value - q.low if side > 0 else q.high - q.value
        of_sp = sp.value - sp.low if side > 0 else sp.high - sp.value
        of_se = se.high - se.value if side > 0 else se.value - se.low
        error = own**2 + ((1 - rate) * of_sp) ** 2 + (rate * of_se) ** 2 - 2 * rate * (1 - rate) * shared
        return q.value + sp.value - 1 - rate * j.value - side * math.sqrt(max(0.0, error))

    return {
        "observed": q.value, "observed_low": q.low, "observed_high": q.high,
        "corrected": float(np.clip((q.value + sp.value - 1) / j.value, 0, 1)),
        "low": _root(lambda r: distance(r, 1), 0.0, 1.0), "high": _root(lambda r: distance(r, -1), 0.0, 1.0),
        "n": len(pd.unique(pd.Series(prompts))),
    }  # fmt: skip


def corrected_difference(a: pd.DataFrame, b: pd.DataFrame, column: str, calibration: Calibration) -> dict[str, float]:
    """The true difference behind `a` minus `b` in `column`, both judged by the calibrated judge and paired by (sample,
    seed).

    Returns what `significance.paired_difference` says of the judged values under observed, observed_low, observed_high,
    p and n, and corrected, low, high in [-1, 1]. The p value needs no correction: a judge that errs equally on both
    sides makes a difference smaller, and none out of nothing. Raises ValueError as `corrected_rate` and
    `paired_difference`.
    """
    _can_tell(calibration)
    judged = paired_difference(a, b, column, proportion=True)
    d, j = Estimate(*(judged[k] for k in ("difference", "low", "high"))), calibration.youden

    def distance(change: float, side: int) -> float:
        own = d.value - d.low if side > 0 else d.high - d.value
        of_j = j.high - j.value if (change > 0) == (side > 0) else j.value - j.low
        return d.value - change * j.value - side * math.hypot(own, change * of_j)

    return {
        "observed": d.value, "observed_low": d.low, "observed_high": d.high,
        "corrected": float(np.clip(d.value / j.value, -1, 1)),
        "low": _root(lambda r: distance(r, 1), -1.0, 1.0), "high": _root(lambda r: distance(r, -1), -1.0, 1.0),
        "p": judged["p"], "n": judged["n"],
    }  # fmt: skip


def _can_tell(calibration: Calibration) -> None:
    if calibration.youden.value <= 0:
        raise ValueError(
            f"{calibration.judge} says right as often where a thing is wrong (sensitivity {calibration.sensitivity}, "
            f"specificity {calibration.specificity}): nothing can be corrected"
        )


def _root(excess, low: float, high: float) -> float:
    """Where a decreasing function is 0; the nearer end of [low, high] where it is not 0 within."""
    if excess(low) <= 0:
        return low
    if excess(high) >= 0:
        return high
    return float(optimize.brentq(excess, low, high, xtol=1e-12))


def table_of(answers: pd.DataFrame) -> pd.DataFrame:
    """The calibration as a table: one row per level and stratum, and one per kind of clip; what cannot be estimated (a
    kind of clip on which everything is right has no specificity) is empty."""
    parts = [("all", answers, "question", "all"), ("all", answers, "question", "yes"), ("all", answers, "question", "no"),
             ("all", answers, "video", "all")]  # fmt: skip
    parts += [(kind, part, level, "all") for kind, part in answers.groupby("video", sort=True) for level in LEVELS]
    return pd.DataFrame([_row(kind, part, level, stratum) for kind, part, level, stratum in parts])


def _row(kind: str, answers: pd.DataFrame, level: str, stratum: str) -> dict:
    table = units(answers, level, stratum)
    row = {"judge": answers["judge"].iloc[0], "clips": kind, "level": level, "expected": stratum,
           "prompts": table["sample"].nunique(), "right": int(table["truly"].sum()), "wrong": int((~table["truly"]).sum()),
           "undecided": round(float(table["undecided"].mean()), 4)}  # fmt: skip
    for name, part, judged in (("sensitivity", table[table["truly"]], 1), ("specificity", table[~table["truly"]], 0)):
        if len(part):
            hits = (part["judged"] == bool(judged)).astype(float)
            value = Estimate(*mean_interval(hits, part["sample"], proportion=True, confidence=CONFIDENCE))
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    if row["right"] and row["wrong"]:
        youden = calibrate(answers, level, stratum).youden
        row |= {"youden": youden.value, "youden_low": youden.low, "youden_high": youden.high}
    return row


def judged_by(judge: str, calibration: Calibration | None) -> str:
    """The line under every table that a judge made: how often it errs, and what that does to an effect."""
    if calibration is None:
        spelled = judge.partition(" (version ")[0]
        asked = "JUDGE" if spelled.endswith("_import") else spelled  # the answers of an import were given elsewhere
        return (
            f"Judged by {judge}; judge not calibrated: run `python -m analysis calibrate-judge {asked} -o judges/NAME`. How "
            "often it errs is not known, and true effects may be larger than they look by any factor."
        )
    if judge != calibration.judge:
        raise ValueError(f"the table is judged by {judge}, the calibration is of {calibration.judge}")
    c, factor = calibration, calibration.youden
    unit = "questions" if c.level == "question" else "videos"
    of = "" if c.stratum == "all" else f" whose expected answer is {c.stratum}"
    return (
        f"Judged by {judge}. On {c.clips} testbed clips of {c.prompts} prompts, whose truth is known, it finds "
        f"{_percent(c.sensitivity)} of the {unit}{of} that are right and rejects {_percent(c.specificity)} of those that are "
        f"wrong; {100 * c.undecided:.1f} % were undecided. So 10 points of a true effect appear as {10 * factor.value:.1f} "
        f"({10 * factor.low:.1f} to {10 * factor.high:.1f}), if it errs on these videos as it does on those."
    )


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % ({100 * e.low:.1f} to {100 * e.high:.1f})"
