"""Ten claims recomputed from the committed CSV files with pandas and SciPy alone: no code of the project is used."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FULL = Path(__file__).parents[1] / "results/full"
CLAIMS = pd.read_csv(FULL / "claims/claims.csv")
LINEAGES = {"wan-i2v": "wan", "cogvideox-i2v": "cogvideox"}
# claim -> (sweeps of a, method, guidance), the same of b, column, factor, prompts of motion alone
CASES = {
    "alignvid-adherence": (("methods-alignvid",), "alignvid", 1, ("baseline",), "none", 1, "adherence", 100),
    "alignvid-motion": (("methods-alignvid",), "alignvid", 1, ("baseline",), "none", 1, "flow_px", 1),
    "guidance-alone": (("guidance",), "none", 5, ("baseline",), "none", 1, "adherence", 100),
    "guidance-alignvid": (("methods-guided",), "alignvid", 3, ("guidance",), "none", 3, "adherence", 100),
    "dymos-motion": (("motion-guided",), "dymos-1", 3, ("motion-guided",), "none", 3, "asked_px", 1),
    "dymos-above-alg": (("motion-guided",), "dymos-1", 3, ("motion-guided",), "alg", 3, "asked_px", 1),
    "alg-motion": (("motion-guided",), "alg", 3, ("motion-guided",), "none", 3, "asked_px", 1),
    "negative-bias": (("motion-guided",), "dymos--1", 3, ("motion-guided",), "none", 3, "asked_px", 1),
    "unguided-dymos": (("motion",), "dymos-1", 1, ("motion",), "none", 1, "asked_px", 1),
    "dymos-dynamic-degree": (("methods-guided",), "dymos-1", 3, ("guidance",), "none", 3, "flow_px", 1),
}


def prompt_values(lineage, sweeps, method, guidance, column):
    table = pd.concat([pd.read_csv(FULL / f"sweeps/{lineage}/{s}/scores.csv") for s in sweeps])
    table = table[(table["method"] == method) & (table["guidance_scale"] == guidance)]
    return table.dropna(subset=column).set_index(["sample", "seed"])[column]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", LINEAGES)
def test_a_claim_is_what_the_tables_say(name, model):
    sweeps, method, guidance, others, other, scale, column, factor = CASES[name]
    a = prompt_values(LINEAGES[model], sweeps, method, guidance, column)
    b = prompt_values(LINEAGES[model], others, other, scale, column)
    d = (factor * (a - b)).dropna().groupby("sample").mean()
    row = CLAIMS[(CLAIMS["id"] == name) & (CLAIMS["model"] == model)].iloc[0]
    assert len(d) == row["n"] and (d.round(9) != 0).sum() == row["changed"]
    assert d.mean() == pytest.approx(row["effect"], rel=0.01, abs=1e-4)
    # Student's interval is inside the one that is stated, and not much narrower.
    student = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    assert row["low"] <= student[0] + 0.01 * abs(student[0]) + 1e-4
    assert row["high"] >= student[1] - 0.01 * abs(student[1]) - 1e-4
    assert row["high"] - row["low"] < 2 * (student[1] - student[0]) + 1e-3
    changed = d[d.round(9) != 0].to_numpy()
    if len(changed):
        test = stats.permutation_test((changed,), np.mean, permutation_type="samples", n_resamples=9999, rng=1)
        assert row["p"] == pytest.approx(test.pvalue, abs=0.02)
