"""The comparison of two ways to neglect, on planted tables."""

import numpy as np
import pandas as pd
import pytest

from analysis.report import neglect_kinds
from analysis.report.neglect_kinds import LEVELS, SIGNS, kinds, kinds_sentence, kinds_table
from analysis.report.score_tables import NoTables
from analysis.study.parameters import load_parameters

N = 40
SAMPLES = [f"motion_{i:03d}" for i in range(N)]


def scores(method="none", followed=0.5, moved=5.0, **cell):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"sample": SAMPLES, "seed": 0, "method": method, "main_category": "motion"})
    rows["adherence"] = (np.arange(N) < followed * N).astype(int)
    rows["still_copy"], rows["onset"] = (1 - rows["adherence"]) * (np.arange(N) % 2), 9
    rows["asked_px"] = moved + rng.normal(0, 1, N)
    return (
        rows.assign(guidance_scale=1.0, blur=0.0, **cell)
        if not cell
        else rows.assign(**{"guidance_scale": 1.0, "blur": 0.0} | cell)
    )


def frames(extra):
    rows = []
    for i, sample in enumerate(SAMPLES):
        for window, share in (("all", 0.2 + extra + 0.001 * (i % 5)), ("early", 0.2 + 2 * extra + 0.001 * (i % 7))):
            for q in range(3):
                values = [share, (1 - share) / 2, (1 - share) / 2]
                rows += [{"sample": sample, "window": window, "method": "none", "query_frame": q, "key_frame": k, "value": v}
                         for k, v in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def planted(monkeypatch):
    tables = {
        "baseline": scores(),
        "guidance": scores(followed=0.9, guidance_scale=3.0),
        "blur": scores(followed=0.8, blur=1.0),
        "methods-alignvid": scores("alignvid", followed=0.1),
        "motion": pd.concat([scores(), scores("dymos-1", moved=9.0)]),
        "twin-i2v": frames(0.2),
        "twin-t2v": frames(0.0),
    }
    monkeypatch.setattr(
        neglect_kinds, "sweep_table", lambda parameters, name, table=None: tables[name.removeprefix("few-steps-")]
    )
    return load_parameters()


def test_each_sign_is_that_of_the_planted_tables(planted):
    found = kinds(planted, ["wan-i2v"]).set_index("sign")
    assert set(found.index) == {*LEVELS, *SIGNS}
    assert found.loc["followed without guidance", "value"] == pytest.approx(50)
    assert found.loc["guidance 3 raises adherence", "value"] == pytest.approx(40)
    assert found.loc["blur raises adherence", "value"] == pytest.approx(30)
    assert found.loc["AlignVid raises adherence", "value"] == pytest.approx(-40)
    assert found.loc["DyMoS moves the named object", "value"] == pytest.approx(4)
    assert found.loc["the reference is looked at more than in the twin", "value"] == pytest.approx(20)
    assert found.loc["and more so in early steps", "value"] == pytest.approx(20, abs=0.5)
    table = kinds_table(kinds(planted, ["wan-i2v"])).set_index("")["Wan-type model"]
    assert table["blur raises adherence (points)"].endswith("supported")
    assert table["AlignVid raises adherence (points)"].endswith("contradicted")
    assert "5 hold on the Wan-type model" in kinds_sentence(kinds(planted, ["wan-i2v"]))


def test_a_kind_without_its_sweeps_is_named(planted):
    with pytest.raises(NoTables, match="no sweep guidance of wan-i2v-few-steps"):
        kinds(planted, ["wan-i2v-few-steps"])
