"""Krippendorff's alpha: how far people agree beyond chance, with any number of them and with answers that are missing."""

from __future__ import annotations

import numpy as np

LEVELS = ("nominal", "ordinal", "interval")
RESAMPLES = 1000


def krippendorff_alpha(answers: np.ndarray, level: str) -> float:
    """Alpha of answers, (raters, units), numbers with nan for none; 1 is full agreement, 0 what chance gives.

    level: what distances of answers mean: "nominal", equal or not; "ordinal", by rank; "interval", by squared difference.
    Units with fewer than two answers count for nothing. nan where no two answers differ, so that chance has nothing to agree by,
    or no unit has two. Krippendorff (2004), Content Analysis, chapter 11. Raises ValueError for another level or shape.
    """
    answers = np.asarray(answers, float)
    if level not in LEVELS or answers.ndim != 2:
        raise ValueError(
            f"level is {level!r}, one of {', '.join(LEVELS)}; answers are (raters, units), not {answers.shape}"
        )
    values = np.unique(answers[~np.isnan(answers)])
    counts = np.stack([(answers == v).sum(axis=0) for v in values]) if len(values) else np.zeros((0, answers.shape[1]))
    counts = counts[:, counts.sum(axis=0) > 1].astype(float)  # (values, units)
    if not counts.size:
        return float("nan")
    coincidences = (counts / (counts.sum(axis=0) - 1)) @ counts.T
    coincidences -= np.diag((counts / (counts.sum(axis=0) - 1)).sum(axis=1))
    n = coincidences.sum(axis=1)
    distance = _distances(values, n, level)
    expected = (np.outer(n, n) * distance).sum() / (n.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected) if expected > 0 else float("nan")


def _distances(values: np.ndarray, n: np.ndarray, level: str) -> np.ndarray:
    """Squared distances of the values, (values, values)."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values) ** 2
    until = np.cumsum(n) - n / 2  # half of the answers of the value itself count as below it
    return (until[:, None] - until) ** 2


def alpha_interval(answers: np.ndarray, level: str, groups: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of alpha when groups of units, as those of one prompt, are drawn again. nan where it has none."""
    rng, names = np.random.default_rng(0), np.unique(groups)
    places = {g: np.flatnonzero(groups == g) for g in names}
    drawn = [
        krippendorff_alpha(answers[:, np.concatenate([places[g] for g in rng.choice(names, len(names))])], level)
        for _ in range(RESAMPLES)
    ]
    drawn = np.array(drawn)[~np.isnan(drawn)]
    return tuple(map(float, np.quantile(drawn, [0.025, 0.975]))) if len(drawn) else (float("nan"), float("nan"))
