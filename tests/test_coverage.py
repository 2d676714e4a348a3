"""How often the intervals cover the truth and the test errs, on differences such as videos bring about: skewed, and zero
for the many videos that a method leaves unchanged."""

import numpy as np
import pytest

from analysis.study.significance import mean_and_p, mean_interval, sign_flip_p

ROUNDS = 400


def one_sided(rng, size):  # a quarter change, by log-normal amounts
    return (rng.random(size) < 0.25) * np.exp(rng.standard_normal(size))


def gained_and_lost(rng, size):  # adherence of one video: 10 % gained, 4 % lost
    return rng.choice([-1.0, 0.0, 1.0], p=[0.04, 0.86, 0.10], size=size)


def both_ways(rng, size):
    return (rng.random(size) < 0.5) * rng.standard_normal(size)


def skewed(rng, size):
    return np.exp(rng.standard_normal(size))


@pytest.mark.parametrize(
    ("draw", "n", "least"),
    [(one_sided, 24, 0.86), (one_sided, 48, 0.89), (one_sided, 120, 0.91), (gained_and_lost, 24, 0.9),
     (gained_and_lost, 120, 0.92), (both_ways, 24, 0.92), (both_ways, 120, 0.92), (skewed, 48, 0.88), (skewed, 120, 0.9)],
)  # fmt: skip
def test_intervals_cover_the_mean(draw, n, least):
    rng = np.random.default_rng(3)
    mean, covered = draw(rng, 2_000_000).mean(), 0
    for _ in range(ROUNDS):
        _, low, high = mean_interval(draw(rng, n), np.arange(n))
        covered += low <= mean <= high
    assert covered / ROUNDS >= least


@pytest.mark.parametrize("n", [8, 24, 120])
def test_the_test_errs_no_more_often_than_it_says(n):
    rng = np.random.default_rng(4)
    errors = np.mean([sign_flip_p(both_ways(rng, n)) < 0.05 for _ in range(ROUNDS)])
    assert errors <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / ROUNDS)


def test_interval_and_p_seldom_part():
    rng, apart = np.random.default_rng(5), 0
    for _ in range(ROUNDS):
        found = mean_and_p(one_sided(rng, 48) - 0.25, np.arange(48))
        apart += (found["p"] < 0.05) != (found["low"] > 0 or found["high"] < 0)
    assert apart / ROUNDS < 0.1
