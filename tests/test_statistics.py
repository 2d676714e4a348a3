import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.study.score_columns import COLUMNS, is_proportion
from analysis.study.significance import (
    EXACT,
    decide,
    holm,
    mean_and_p,
    mean_interval,
    paired_difference,
    proportion_interval,
    rank_correlation,
    sign_flip_p,
)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_equals_statsmodels(p):
    assert np.allclose(holm(p), multipletests(p, method="holm")[1])


@given(st.integers(0, 50), st.integers(0, 50))
def test_wilson_equals_statsmodels(successes, failures):
    if successes + failures:
        expected = proportion_confint(successes, successes + failures, method="wilson")
        assert np.allclose(proportion_interval(successes, successes + failures), expected, atol=1e-12)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        effect = rng.normal(0, 1, 40)  # prompts
        values = (effect[:, None] + rng.normal(0, 0.3, (40, 4))).ravel()  # four seeds each
        _, low, high = mean_interval(values, np.repeat(np.arange(40), 4))
        covered += low <= 0 <= high
    assert covered >= 52


def test_nothing_is_dropped():
    with pytest.raises(ValueError, match="1 of 2"):
        mean_interval([1.0, np.nan], ["a", "b"])


def frame(values, seeds=None):
    return pd.DataFrame({"sample": range(len(values)), "seed": seeds or 0, "y": values})


def test_binary_pairs_equal_statsmodels_mcnemar():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    result = paired_difference(frame(a), frame(b), "y")
    table = [[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)]
    assert result["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert result["difference"] == pytest.approx(a.mean() - b.mean())
    assert (result["gained"], result["lost"]) == (table[1][0], table[0][1])
    assert result["changed"] == np.sum(a != b)


@given(
    st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=2, max_size=9).filter(any),
    st.sampled_from([0, -0.5]),
)
def test_the_sign_flip_test_equals_scipys_permutation_test(values, line):
    d = np.array(values)
    expected = stats.permutation_test((d - line,), np.mean, permutation_type="samples", n_resamples=np.inf)
    changed = d[d != line]  # zeros have no sign: all ways to flip them give the same mean
    assert sign_flip_p(d, line) == pytest.approx(expected.pvalue if len(changed) else 1.0)


def test_the_sign_flip_test_by_drawn_signs_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    for n in (EXACT + 1, 18):
        d = rng.normal(0.4, 1, n)
        exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip_p(d) == pytest.approx(exact, abs=0.006)
    assert sign_flip_p(rng.normal(2, 0.1, 300)) < 1e-4


def test_interval_and_p_are_of_the_same_mean():
    """Signed ranks gave p 0.28 for a mean whose interval was clear of zero."""
    d = np.r_[np.zeros(300), -np.abs(np.random.default_rng(0).lognormal(-4, 1, 90)), np.full(60, 0.0004)]
    found = paired_difference(frame(d), frame(0 * d), "y")
    assert found["high"] < 0 and found["p"] < 0.001
    assert stats.wilcoxon(d, zero_method="pratt").pvalue > found["p"]


def test_the_detectable_difference_is_seen_four_times_in_five():
    rng, seen, least = np.random.default_rng(0), 0, []
    for _ in range(200):
        d = rng.normal(0.5, 1, 32)
        found = paired_difference(frame(d), frame(0 * d), "y")
        seen, least = seen + (found["p"] < 0.05), [*least, found["detectable"]]
    assert seen / 200 == pytest.approx(0.8, abs=0.07) and np.mean(least) == pytest.approx(0.5, abs=0.03)


def test_unpaired_tables_are_refused():
    with pytest.raises(ValueError, match="no partner"):
        paired_difference(frame([0, 1, 1]), frame([0, 1]), "y")


def test_no_change_is_not_proof_of_no_effect():
    result = paired_difference(frame([0, 1, 1]), frame([0, 1, 1]), "y", proportion=True)
    assert result["difference"] == 0 and result["p"] == 1 and result["changed"] == 0
    assert result["low"] == -result["high"] == -proportion_interval(0, 3)[1]


def test_the_interval_of_a_proportion_is_for_proportions_alone():
    """Flow that is exactly 0 in every video was given an interval of 0.324 px."""
    zeros = frame([0.0] * 8)
    assert mean_interval(zeros["y"], zeros["sample"]) == (0, 0, 0)
    found = paired_difference(zeros.rename(columns={"y": "flow_px"}), zeros.rename(columns={"y": "flow_px"}), "flow_px")
    assert (found["low"], found["high"]) == (0, 0)
    assert mean_interval(zeros["y"], zeros["sample"], proportion=True)[2] > 0.3
    assert {c for c in COLUMNS if is_proportion(c)} == {"adherence", "still_copy", "returned"}


@given(st.integers(5, 40), st.integers(0, 2**31))
def test_rank_correlation_is_scipys_with_an_interval_around_it(n, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n)).round(1)  # with ties
    rho, low, high, p = rank_correlation(a, b)
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic) and low <= high and low >= -1 and high <= 1
    if n >= 20:
        assert p == pytest.approx(stats.spearmanr(a, b).pvalue, abs=0.04)
    assert rank_correlation(a, a)[0] == pytest.approx(1)
    assert np.isnan(rank_correlation(a, np.ones(n))).all()


def test_verdicts_need_the_interval_and_p():
    ends = [(0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)]
    assert [decide(*e, 0.01, 1) for e in ends] == ["supported", "contradicted", "inconclusive"]
    assert {decide(*e, 0.06, 1) for e in ends} == {"inconclusive"}
    assert decide(-0.2, -0.1, 0.01, -1) == "supported" and decide(0.9, 0.95, 0.01, -1, line=1) == "supported"
    assert decide(float("nan"), float("nan"), 1.0, 1) == "inconclusive"
    assert decide(0.1, 0.2, float("nan"), 1) == "supported"  # quartiles of timings have no p


def test_a_margin_is_tested_as_such():
    d = np.random.default_rng(0).normal(-0.2, 0.5, 60)
    at_zero, at_margin = mean_and_p(d, np.arange(60)), mean_and_p(d, np.arange(60), line=-1.0)
    assert at_margin["p"] < 1e-3 < at_zero["p"]
    assert (at_zero["low"], at_zero["high"]) == (at_margin["low"], at_margin["high"])


def test_seeds_that_cancel_within_every_prompt_are_no_change():
    rows = [(f"s{i}", seed) for i in range(12) for seed in (0, 1)]
    a = pd.DataFrame(rows, columns=["sample", "seed"]).assign(right=lambda t: t["seed"])
    b = a.assign(right=1 - a["right"])
    found = paired_difference(a, b, "right", proportion=True)
    assert (found["difference"], found["p"], found["gained"], found["lost"]) == (0, 1, 12, 12)
    assert found["low"] == -found["high"] < 0
