"""The tests that decide claims: an effect, its interval over prompts and its p value. Statistics as in significance.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from ..study.score_columns import is_proportion
from ..study.significance import clear_side, mean_and_p, paired_difference, rank_correlation
from .claim_inputs import NotRun, Study, common
from .claim_schema import ATTENTION, KNOWN, Correlation, Cost, Difference, FirstHalf, Trend

SIGNS = {"higher": 1, "lower": -1}


@dataclass(frozen=True)
class Effect:
    """low, high: 95 % interval over prompts; of a cost, quartiles over rounds, without a p. n: prompts, or tokens. changed:
    prompts whose value differs; detectable: the difference that would have been seen with a power of 80 %."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    p: float = float("nan")
    changed: float = float("nan")
    detectable: float = float("nan")
    caveat: str = ""  # why it is undecided whatever the numbers say


def difference(test: Difference, study: Study, model: str) -> Effect:
    """Of several comparisons the least favourable one: its value, the least of the lower and of the upper ends, and the
    largest p, as all must hold; where some point against the claim, their smallest p times the number of comparisons."""
    sign = SIGNS[test.sign]
    found = [
        _compare([study.values(model, s, test.measure) for s in (test.a, b, *(test.beyond or ()))], test)
        for b in test.against
    ]
    worst = min(found, key=lambda e: sign * e.value)
    low, high = (min(pick(sign * e.low, sign * e.high) for e in found) for pick in (min, max))
    against = [e.p for e in found if sign * e.value <= sign * test.line]
    p = max(e.p for e in found) if not against else min(1.0, min(against) * len(found))
    low, high = sorted((sign * low, sign * high))
    worst = replace(worst, low=low, high=high, p=p, n=min(e.n for e in found))
    return replace(worst, caveat=_harmless(test, study, model, worst)) if test.harmless else worst


def _harmless(test: Difference, study: Study, model: str, effect: Effect) -> str:
    """Why a claim that a method costs little says nothing: it did nothing, or it froze the video, which keeps everything."""
    if effect.changed == 0:
        return "nothing changed"
    copies = [study.values(model, s, "still_copy") for s in (test.a, test.against[0])]
    more = paired_difference(*common(*copies), "value", proportion=True)
    if clear_side(more["low"], more["high"], more["p"]) > 0:
        return f"the videos freeze: still copies {100 * more['difference']:+.0f} points"
    return ""


def _compare(tables, test) -> Effect:
    measure = KNOWN[test.measure]
    a, b, *beyond = common(*tables)
    line = test.line / measure.factor
    if beyond:
        a, b = (x.assign(value=x["value"] - y["value"]) for x, y in ((a, b), beyond))
    elif test.measure in ATTENTION:  # as a ratio
        a, b = (x.assign(value=x["value"].astype(float) / b["value"]) for x in (a, b))
    found = paired_difference(a, b, "value", proportion=is_proportion(test.measure) and not beyond, line=line)
    scaled = (measure.factor * found[k] for k in ("difference", "low", "high"))
    return Effect(
        *scaled, measure.unit, found["n"], found["p"], found["changed"], abs(measure.factor) * found["detectable"]
    )


def trend(test: Trend, study: Study, model: str) -> Effect:
    """Mean over prompts of Spearman's correlation of the measure with the place of the level; 0 where nothing varies."""
    tables = common(*[study.values(model, s, test.measure) for s in test.levels])
    wide = pd.DataFrame({i: t["value"].astype(float) for i, t in enumerate(tables)})
    varies = wide[wide.nunique(axis=1) > 1]
    rho = varies.rank(axis=1).T.corrwith(pd.Series(wide.columns)).reindex(wide.index, fill_value=0.0)
    rho = rho.groupby(tables[0]["sample"]).mean()
    found = mean_and_p(rho, rho.index)
    changed = int((rho != 0).sum())
    return Effect(found["mean"], found["low"], found["high"], "rank correlation", found["n"], found["p"], changed)


def correlation(test: Correlation, study: Study, model: str) -> Effect:
    """Spearman's correlation over prompts, seeds averaged; nan if one of the two does not vary."""
    tables = common(*[study.values(model, s, m) for m in (test.x, test.y) for s in test.settings])
    means = [t.groupby("sample")["value"].mean() for t in tables]
    x, y = means if len(means) == 2 else (means[0] - means[1], means[2] - means[3])
    *ends, p = rank_correlation(x, y)
    return Effect(*ends, "rank correlation", len(x), p)


def first_half(test: FirstHalf, study: Study, model: str) -> Effect:
    """The share and its interval over resampled prompts; p: how likely so many or so few, if as many blocks were
    picked blindly; two-sided."""
    from ..attention.calibrated_blocks import calibrate  # loads torch

    table = study.layers("foreground", model, "ratios")
    found = calibrate(table)
    half, picked = found.picked.size // 2, int(found.picked.sum())
    chance, seen = stats.hypergeom(found.picked.size, half, picked), found.picked[:half].sum()
    p = min(1.0, 2 * min(chance.sf(seen - 1), chance.cdf(seen)))
    return Effect(*(100 * x for x in found.in_first_half()), "% of the list", table["sample"].nunique(), float(p))


def cost(test: Cost, table: pd.DataFrame) -> Effect:
    """What the setting adds to the time of all blocks and steps, in %. table: one results/bench/attention-*.csv."""
    rows = table[(table["setting"] == test.setting) & (table["tokens"] == table["tokens"].max())]
    if len(rows) != 1:
        raise NotRun(f"not timed: {test.setting}")
    row = rows.iloc[0]
    ends = (100 * test.share * (row[k] - 1) for k in ("ratio", "ratio_low", "ratio_high"))
    return Effect(*map(float, ends), "%", int(row["tokens"]))


TESTS = {"difference": difference, "trend": trend, "correlation": correlation, "first-half": first_half}
