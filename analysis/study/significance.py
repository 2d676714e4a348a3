"""Intervals and paired tests: the unit is the prompt, methods are compared on the same prompts and noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 4000


def _by_prompt(values, prompts) -> np.ndarray:
    """Mean per prompt, in the prompts' order: seeds are averaged first, so that prompts are resampled, not videos."""
    means = pd.Series(np.asarray(values, float)).groupby(np.asarray(prompts)).mean().to_numpy()
    if len(means) == 0 or np.isnan(means).any():
        raise ValueError(f"{int(np.isnan(means).sum())} of {len(means)} prompts have no value; nothing may be dropped")
    return means


def mean_interval(values, prompts, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): percentile bootstrap over prompts. Wilson's interval when every prompt has the same 0 or 1."""
    means = _by_prompt(values, prompts)
    if np.all(means == means[0]):
        if means[0] in (0.0, 1.0):
            low, high = proportion_interval(int(means.sum()), len(means), confidence)
            return float(means[0]), low, high
        return float(means[0]), float(means[0]), float(means[0])
    result = stats.bootstrap(
        (means,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(means.mean()), *map(float, result.confidence_interval)


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> dict[str, float]:
    """`a` minus `b` in `column`, paired by (sample, seed): mean, interval over prompts, n, p, and for 0/1 the counts.

    p is exact McNemar's for a column of 0 and 1 with one video a prompt, else Wilcoxon's signed rank (Pratt). Raises ValueError
    when the two tables do not hold the same samples and seeds.
    """
    x, y = (t.set_index(["sample", "seed"])[column].astype(float) for t in (a, b))
    alone = x.index.symmetric_difference(y.index)
    if len(alone) or x.index.has_duplicates or y.index.has_duplicates:
        raise ValueError(f"not paired: {len(alone)} videos have no partner, or one is there twice")
    y = y.reindex(x.index)
    d, prompts = x - y, x.index.get_level_values("sample")
    mean, low, high = mean_interval(d, prompts)
    gained, lost, n = int((d > 0).sum()), int((d < 0).sum()), prompts.nunique()
    binary, per_prompt = np.isin([x, y], (0, 1)).all(), _by_prompt(d, prompts)
    if not per_prompt.any():
        # No prompt changed, on the mean of its seeds: for 0 and 1 the interval is what that many unchanged prompts cannot
        # rule out, either way.
        high = proportion_interval(0, n)[1] if binary else 0.0
        low, p = -high, 1.0
    elif binary and n == len(d):
        p = float(stats.binomtest(gained, gained + lost, 0.5).pvalue)
    else:
        p = signed_rank_p(per_prompt)
    return {"difference": mean, "low": low, "high": high, "n": n, "gained": gained, "lost": lost, "p": p}


def signed_rank_p(differences) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, unchanged pairs by Pratt's rule; 1 if nothing changed.

    As `scipy.stats.wilcoxon`, only that up to 13 pairs, where SciPy takes seconds to go through all signs if there are
    ties, they are gone through at once.
    """
    d = np.asarray(differences, float).round(12)  # means of the same values in another order are ties
    if not d.any():
        return 1.0
    if len(d) > 13:
        return float(stats.wilcoxon(d, zero_method="pratt").pvalue)
    ranks = np.where(d == 0, 0, stats.rankdata(np.abs(d)))
    positive = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1  # every way to give the differences signs
    possible, found = positive @ ranks, (d > 0) @ ranks  # multiples of 1/2: exact
    return float(min(1.0, 2 * min((possible <= found).mean(), (possible >= found).mean())))


def rank_correlation(a, b, confidence: float = 0.95) -> tuple[float, float, float]:
    """(Spearman's rho, low, high): percentile bootstrap over pairs, one pair per prompt; nan if one does not vary."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return (float("nan"),) * 3

    def rho(x, y, axis=-1):  # of all resamples at once; 0 where one of the two does not vary
        x, y = (r - r.mean(axis, keepdims=True) for r in (stats.rankdata(v, axis=axis) for v in (x, y)))
        scale = np.sqrt(np.square(x).sum(axis) * np.square(y).sum(axis))
        return np.divide((x * y).sum(axis), scale, out=np.zeros_like(scale), where=scale > 0)

    result = stats.bootstrap(
        (a, b), rho, paired=True, vectorized=True, n_resamples=RESAMPLES // 4, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(rho(a, b)), *map(float, result.confidence_interval)


def holm(p_values) -> np.ndarray:
    """Holm's adjusted p values, in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def verdict(low: float, high: float, sign: int, line: float = 0.0) -> str:
    """The rule of every claim: "supported" if the interval lies wholly on the claimed side (`sign` 1 above, -1 below) of
    `line`, "contradicted" if wholly on the other, else "inconclusive"."""
    side = 1 if low > line else -1 if high < line else 0
    return {sign: "supported", -sign: "contradicted", 0: "inconclusive"}[side]


LEVEL = 0.05  # of a corrected p


def decide(low: float, high: float, p_corrected: float, sign: int, line: float = 0.0) -> str:
    """The rule of every verdict, of claims and of tables' cells: that of `verdict`, and "inconclusive" unless p, corrected
    by Holm within its family, is below LEVEL. A p that is nan, of what has no test, does not count."""
    return "inconclusive" if p_corrected >= LEVEL else verdict(low, high, sign, line)
