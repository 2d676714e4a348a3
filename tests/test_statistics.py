import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.study.significance import (
    holm,
    mean_interval,
    paired_difference,
    proportion_interval,
    rank_correlation,
    signed_rank_p,
    verdict,
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


def test_continuous_pairs_equal_scipy_wilcoxon():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    result = paired_difference(frame(a), frame(b), "y")
    assert result["p"] == pytest.approx(stats.wilcoxon(a - b, zero_method="pratt").pvalue)
    assert result["low"] < result["difference"] < result["high"]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8).filter(any))
def test_the_signed_rank_test_equals_scipys_with_ties_and_without_change(halves):
    d = np.array(halves) / 2
    assert signed_rank_p(d) == pytest.approx(stats.wilcoxon(d, zero_method="pratt").pvalue)
    long = np.concatenate([d] * 20)
    assert signed_rank_p(long) == pytest.approx(stats.wilcoxon(long, zero_method="pratt").pvalue)
    assert signed_rank_p(0 * d) == signed_rank_p(0 * long) == 1.0
    assert signed_rank_p(d * (1 + 1e-15 * np.arange(len(d)))) == signed_rank_p(d)


def test_unpaired_tables_are_refused():
    with pytest.raises(ValueError, match="no partner"):
        paired_difference(frame([0, 1, 1]), frame([0, 1]), "y")


def test_no_change_is_not_proof_of_no_effect():
    result = paired_difference(frame([0, 1, 1]), frame([0, 1, 1]), "y")
    assert result["difference"] == 0 and result["p"] == 1
    assert result["low"] == -result["high"] == -proportion_interval(0, 3)[1]


@given(st.integers(5, 40), st.integers(0, 2**31))
def test_rank_correlation_is_scipys_with_an_interval_around_it(n, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n)).round(1)  # with ties
    rho, low, high = rank_correlation(a, b)
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic) and low <= high and low >= -1 and high <= 1
    assert rank_correlation(a, a)[0] == pytest.approx(1)
    assert np.isnan(rank_correlation(a, np.ones(n))).all()


def test_verdicts_follow_the_interval():
    assert [verdict(0.1, 0.2, 1), verdict(-0.2, -0.1, 1), verdict(-0.1, 0.1, 1)] == [
        "supported", "contradicted", "inconclusive",
    ]  # fmt: skip
    assert verdict(-0.2, -0.1, -1) == "supported" and verdict(0.9, 0.95, -1, line=1) == "supported"
    assert verdict(float("nan"), float("nan"), 1) == "inconclusive"


def test_seeds_that_cancel_within_every_prompt_are_no_change():
    rows = [(f"s{i}", seed) for i in range(12) for seed in (0, 1)]
    a = pd.DataFrame(rows, columns=["sample", "seed"]).assign(right=lambda t: t["seed"])
    b = a.assign(right=1 - a["right"])
    found = paired_difference(a, b, "right")
    assert (found["difference"], found["p"], found["gained"], found["lost"]) == (0, 1, 12, 12)
    assert found["low"] == -found["high"] < 0
