"""Intervals and paired tests: the unit is the prompt, methods are compared on the same prompts and noise.

One rule decides everywhere (`decide`): the 95 % interval of a mean lies wholly on one side, and the p value of *the same
mean*, corrected by Holm within a stated family, is below 5 %. The p value is that of the sign-flip permutation test: under
no effect, each prompt's difference may as well have the other sign. The interval is the hull of Student's and of the
studentised bootstrap's: the former holds for few prompts and few distinct values, the latter for skewed ones with many
zeros, as videos that a method leaves unchanged bring about (tests/test_coverage.py).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

from .score_columns import is_proportion

RESAMPLES = 4000
FLIPS = 20000  # of signs, where all of them are too many
EXACT = 14  # changed prompts up to which all signs are gone through
LEVEL = 0.05
POWER = 0.8  # at which a difference counts as one that would have been seen


def prompt_means(values, prompts) -> np.ndarray:
    """Mean per prompt, in the prompts' order: seeds are averaged first, so that prompts are resampled, not videos.
    Raises ValueError where a prompt has no value."""
    means = pd.Series(np.asarray(values, float)).groupby(np.asarray(prompts)).mean().to_numpy()
    if len(means) == 0 or np.isnan(means).any():
        raise ValueError(f"{int(np.isnan(means).sum())} of {len(means)} prompts have no value; nothing may be dropped")
    return means


def mean_interval(values, prompts, *, proportion: bool = False, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) over prompts. Of a proportion with one 0 or 1 per prompt, or the same one for all, Wilson's
    interval; of anything else the hull of Student's and the studentised bootstrap's."""
    means = prompt_means(values, prompts)
    if proportion and (np.isin(means, (0, 1)).all()):
        return float(means.mean()), *proportion_interval(int(means.sum()), len(means), confidence)
    low, high = _interval(means, confidence)
    if proportion:
        low, high = max(0.0, low), min(1.0, high)
    return float(means.mean()), low, high


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=16)
def _resamples(n: int) -> np.ndarray:
    """How often each of n prompts is drawn in each bootstrap sample, (RESAMPLES, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


@lru_cache(maxsize=64)
def _signs(n: int) -> np.ndarray:
    """Every way to give n differences signs, or FLIPS random ones, (ways, n) of -1 and 1, int8; the first is all 1."""
    if n <= EXACT:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        flips = np.random.default_rng(0).integers(0, 2, (FLIPS, n))
        flips[0] = 0
    return (1 - 2 * flips).astype(np.int8)


def _interval(means: np.ndarray, confidence: float) -> tuple[float, float]:
    n, centre = len(means), float(means.mean())
    if n == 1 or np.ptp(means) == 0:
        return centre, centre
    error = means.std(ddof=1) / np.sqrt(n)
    tail = (1 - confidence) / 2
    student = stats.t.ppf(1 - tail, n - 1) * error
    counts, deviations = _resamples(n), means - centre
    shift = counts @ deviations / n
    spread = np.sqrt(np.maximum(counts @ deviations**2 / n - shift**2, 0) / (n - 1))
    # A resample that lost the few prompts that differ has hardly any spread, and would make the interval endless.
    low, high = np.quantile(shift / np.maximum(spread, 0.25 * error), [tail, 1 - tail])
    return float(centre - max(student, high * error)), float(centre + max(student, -low * error))


def sign_flip_p(differences, line: float = 0.0) -> float:
    """Two-sided p that the mean of the differences is `line`: the share of ways to give the deviations from the line signs
    that bring about a mean as far from it. Exact up to EXACT deviations, else from FLIPS random ways; 1 if nothing deviates.
    """
    d = (np.asarray(differences, float) - line).round(12)
    d = d[d != 0]
    if len(d) == 0:
        return 1.0
    if np.ptp(np.abs(d)) == 0:  # the sign test, McNemar's for a column of 0 and 1
        return float(stats.binomtest(int((d > 0).sum()), len(d)).pvalue)
    sums = np.abs(_signs(len(d)).astype(float) @ d)
    return float((sums >= abs(d.sum()) - 1e-9 * np.abs(d).sum()).mean())


def mean_and_p(values, prompts, *, line: float = 0.0) -> dict[str, float]:
    """mean, low, high and n (prompts) of values that are no proportion, and p of the sign-flip test that the mean is
    `line`."""
    means = prompt_means(values, prompts)
    low, high = _interval(means, 0.95)
    return {"mean": float(means.mean()), "low": low, "high": high, "n": len(means), "p": sign_flip_p(means, line)}


def paired(a: pd.DataFrame, b: pd.DataFrame, column: str) -> tuple[pd.Series, np.ndarray]:
    """(`a` minus `b` in `column` by (sample, seed), the samples). Raises ValueError when the two tables do not hold the
    same samples and seeds."""
    pairs = ["sample", "seed"]
    x, y = (pd.Series(t[column].to_numpy(float), pd.MultiIndex.from_frame(t[pairs])) for t in (a, b))
    same = x.index.equals(y.index)  # as most tables come; to look for partners takes longer than all else
    alone = () if same else x.index.symmetric_difference(y.index)
    if len(alone) or x.index.has_duplicates or y.index.has_duplicates:
        raise ValueError(f"not paired: {len(alone)} videos have no partner, or one is there twice")
    return x - (y if same else y.reindex(x.index)), x.index.get_level_values("sample")


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, *, proportion: bool | None = None, line: float = 0.0
) -> dict[str, float]:
    """`a` minus `b` in `column`, paired by (sample, seed), over prompts.

    difference, low, high: the mean and its interval. p: of the sign-flip test that the mean is `line`. n: prompts; changed:
    those whose mean over seeds differs; gained, lost: videos in which it rose and fell. detectable: the difference that a
    test at 5 % would have seen with a power of 80 %, given this spread. proportion: whether the column is one; by default
    as declared in `score_columns`. Raises ValueError when the two tables do not hold the same samples and seeds.
    """
    d, prompts = paired(a, b, column)
    means = prompt_means(d, prompts)
    n, changed = len(means), int((means.round(12) != 0).sum())
    proportion = is_proportion(column) if proportion is None else proportion
    low, high = _interval(means, 0.95)
    detectable = detectable_difference(means, n)
    if proportion and changed == 0:  # what so many unchanged prompts cannot rule out, either way
        high = detectable = proportion_interval(0, n)[1]
        low = -high
    elif proportion:
        low, high = max(-1.0, low), min(1.0, high)
    return {
        "difference": float(means.mean()), "low": low, "high": high, "n": n, "changed": changed,
        "gained": int((d > 0).sum()), "lost": int((d < 0).sum()), "p": sign_flip_p(means, line), "detectable": detectable,
    }  # fmt: skip


def detectable_difference(differences, n: int) -> float:
    """The mean difference that a test of `n` prompts at 5 % sees with a power of 80 %, given the spread of these differences
    per prompt, which may be of other prompts; nan for one prompt or one difference."""
    differences = np.asarray(differences, float)
    if n < 2 or len(differences) < 2:
        return float("nan")
    steps = stats.t.ppf(1 - LEVEL / 2, n - 1) + stats.norm.ppf(POWER)
    return float(steps * differences.std(ddof=1) / np.sqrt(n))


def rank_correlation(a, b, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """(Spearman's rho, low, high, p): percentile bootstrap over pairs, one pair per prompt, and permutation of the pairing;
    nan if one of the two does not vary."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return (float("nan"),) * 4

    def rho(x, y, axis=-1):  # of all resamples at once; 0 where one of the two does not vary
        x, y = (r - r.mean(axis, keepdims=True) for r in (stats.rankdata(v, axis=axis) for v in (x, y)))
        scale = np.sqrt(np.square(x).sum(axis) * np.square(y).sum(axis))
        return np.divide((x * y).sum(axis), scale, out=np.zeros_like(scale), where=scale > 0)

    result = stats.bootstrap(
        (a, b), rho, paired=True, vectorized=True, n_resamples=RESAMPLES // 4, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    found = float(rho(a, b))
    x, y = (stats.rankdata(v) - (len(v) + 1) / 2 for v in (a, b))
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.broadcast_to(y, (RESAMPLES, len(y))), axis=1) @ x
    p = (1 + (np.abs(shuffled) >= abs(x @ y) - 1e-9).sum()) / (1 + RESAMPLES)
    return found, *map(float, result.confidence_interval), float(p)


def holm(p_values) -> np.ndarray:
    """Holm's adjusted p values, in the order given; nan where there was no test, which does not count."""
    p = np.asarray(p_values, float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    out = np.full_like(p, np.nan)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def clear_side(low: float, high: float, p: float, line: float = 0.0) -> int:
    """1 or -1 if the interval lies wholly above or below `line` and `p`, corrected for its family, is below 5 %, else 0. A p
    of nan is for what has none (quartiles of timings): the interval decides."""
    return 0 if p >= LEVEL else int(low > line) - int(high < line)


def decide(low: float, high: float, p: float, sign: int, line: float = 0.0) -> str:
    """The rule of every verdict: "supported" if `clear_side` is the claimed one (`sign` 1 above `line`, -1 below),
    "contradicted" if the other, else "inconclusive"."""
    return {sign: "supported", -sign: "contradicted", 0: "inconclusive"}[clear_side(low, high, p, line)]
