"""Steered against unsteered, on synthetic scores with known answers."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.report import plots, sweep_figures
from analysis.report.against_unsteered import (
    against_unsteered,
    comparison,
    glance,
    means,
    pareto,
    settings,
    shown_samples,
    varied,
)
from analysis.study.files import write_table
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
KINDS = ["addition", "deletion", "modification", "motion"]
matplotlib.use("agg")


def scores(cells, samples=12, seed=0):
    """Rows of a score table: adherence rises by the second entry of each cell (method, gain, guidance)."""
    rng, rows = np.random.default_rng(seed), []
    for method, gain, guidance in cells:
        for i in range(samples):
            rows.append(
                {"sweep": "s", "backbone": "wan-i2v", "method": method, "guidance_scale": guidance, "blur": 0.0}
                | {"prompts": "own", "seed": 0, "sample": f"s{i}", "main_category": KINDS[i % 4]}
                | {"adherence": int(i < 4 + gain), "macro": 0.5, "flow_px": 0.1 * i + gain}
                | {"background_psnr": 30 - gain + rng.normal(0, 1e-3), "first_psnr": 40.0, "sharpness_retention": 0.9}
            )
    return pd.DataFrame(rows)


def test_changes_are_paired_by_sample_and_guidance():
    table = scores([("none", 0, 1.0), ("none", 4, 3.0), ("alg", 3, 1.0), ("alg", 4, 3.0)])
    found = against_unsteered(table, ["adherence", "flow_px"], [("alg", 1.0), ("alg", 3.0)])
    assert list(found["difference"].round(6)) == [25, 3, 0, 0]  # in percent and px/frame
    assert list(found["unsteered"].round(6))[::2] == [pytest.approx(100 / 3), pytest.approx(200 / 3)]
    assert (found["n"] == 12).all() and (found["p (Holm)"] >= found["p"]).all()


def test_a_setting_on_fewer_samples_is_compared_on_these():
    table = scores([("none", 0, 1.0), ("alg", 3, 1.0)])
    few = table[(table["method"] == "none") | (table["sample"].isin([f"s{i}" for i in range(6)]))]
    found = against_unsteered(few, ["adherence"], [("alg", 1.0)]).iloc[0]
    assert found["n"] == 6 and found["unsteered"] == pytest.approx(400 / 6)


def test_settings_of_other_seeds_are_compared_on_the_seeds_that_both_have():
    first = scores([("none", 0, 1.0), ("alg", 3, 1.0), ("blur", 1, 1.0)])
    more = scores([("none", 2, 1.0), ("alg", 2, 1.0)]).assign(seed=1)
    table = pd.concat([first, more], ignore_index=True)
    found = against_unsteered(table, ["adherence"], [("alg", 1.0), ("blur", 1.0)])
    assert list(found["videos"]) == [24, 12] and list(found["n"]) == [12, 12]
    assert list(found["difference"]) == [pytest.approx(12.5), pytest.approx(100 / 12)]
    common = sweep_figures.on_common(table, sweep_figures.cells_of(table))
    assert len(common) == 3 * 12 and set(common["seed"]) == {0}
    assert len(sweep_figures.on_common(table, [("none", 1.0), ("alg", 1.0)])) == 2 * 2 * 12
    assert shown_samples(table, [("alg", 1.0)]) == ["s4", "s5", "s6", "s3"], "by the first seed alone"


def test_settings_side_by_side_are_compared_on_the_samples_that_all_of_them_have():
    """A strength on all samples beside one on few would differ by their samples, not by the strength."""
    table = scores([("none", 0, 1.0), ("alignvid", 6, 1.0), ("alignvid-2", 6, 1.0)])  # s0 to s3 are right without
    few = table[(table["method"] != "alignvid-2") | table["sample"].isin([f"s{i}" for i in range(4, 12)])]
    apart = against_unsteered(few, ["adherence"], [("alignvid", 1.0), ("alignvid-2", 1.0)])
    assert list(apart["difference"]) == [50, 75], "the same videos where both have them"
    beside = sweep_figures.side_by_side(few, ["adherence"], ["alignvid", "alignvid-2", "no-such"])
    assert list(beside["method"]) == ["alignvid", "alignvid-2"]
    assert list(beside["difference"]) == [75, 75] and list(beside["n"]) == [8, 8]


@pytest.mark.parametrize("cell", [("dymos", 1.0), ("alg", 5.0)])
def test_a_setting_without_videos_is_named(cell):
    table = scores([("none", 0, 1.0), ("alg", 3, 1.0), ("alg", 3, 5.0)])
    with pytest.raises(ValueError, match="no videos of"):
        against_unsteered(table, ["adherence"], [cell])


@given(st.integers(1, 25), st.integers(0, 10_000))
def test_the_front_is_what_nothing_beats(count, seed):
    points = pd.DataFrame(np.random.default_rng(seed).integers(0, 5, (count, 2)), columns=["x", "y"])
    kept = pareto(points, ["x", "y"])
    for i, (x, y) in points.iterrows():
        beaten = any((a >= x and b >= y and (a > x or b > y)) for a, b in points.to_numpy())
        assert kept[i] == (not beaten)
    assert kept.any()


def test_a_point_without_a_value_is_not_on_the_front():
    assert list(pareto(pd.DataFrame({"x": [1.0, np.nan], "y": [1.0, 9.0]}), ["x", "y"])) == [True, False]


def test_curves_and_maps_are_drawn_from_the_parameters():
    parameters = load_parameters(ROOT / "params.yaml")
    known = settings(parameters)
    table = varied(parameters, "alignvid", ["gamma"])
    assert table["method"].iloc[0] == "alignvid" and table["gamma"].is_unique and len(table) >= 4
    assert all(known[m][0] | {"gamma": 0} == known["alignvid"][0] | {"gamma": 0} for m in table["method"])
    added = parameters.methods | {"new": [parameters.methods["alignvid"][0] | {"gamma": 1.7}]}
    wider = varied(parameters.model_copy(update={"methods": added}), "alignvid", ["gamma"])
    assert set(wider["gamma"]) - set(table["gamma"]) == {1.7}


def test_shown_samples_are_those_on_which_methods_differ_most():
    table = scores([("none", 0, 1.0), ("a", 1, 1.0), ("b", 2, 1.0)])
    # s0..s3 are right in every setting, s4 changes in both, s5 in one; s6 and s7 in none.
    assert shown_samples(table, [("a", 1.0), ("b", 1.0)]) == ["s4", "s5", "s2", "s3"]


def test_comparison_reads_the_sweeps_of_a_backbone_once(tmp_path):
    parameters = load_parameters(ROOT / "params.yaml")
    table = scores([("none", 0, 1.0)])
    blurred = pd.concat([table, table.assign(blur=4.0)])
    for study, rows in {"baseline": table, "attention-blur": blurred, "shuffled": table}.items():
        write_table(rows, tmp_path / f"sweeps/wan/{study}/scores.csv")
    assert len(comparison(parameters, "wan-i2v", tmp_path)) == len(table)
    with pytest.raises(ValueError, match="no scores of wan-t2v"):
        comparison(parameters, "wan-t2v", tmp_path)


def test_means_are_in_their_units():
    row = means(scores([("none", 2, 1.0)]), ["adherence", "flow_px"]).iloc[0]
    assert row["adherence"] == 50 and row["adherence low"] < 50 < row["adherence high"]
    assert row["flow_px"] == pytest.approx(2.55)


def test_a_glance_has_a_row_per_setting():
    table = scores([("none", 0, 1.0), ("none", 0, 3.0), ("alg", 3, 1.0), ("alg", 4, 3.0)])
    changes = against_unsteered(table, ["adherence", "flow_px"], [("alg", 1.0), ("alg", 3.0)])
    lines = glance(changes.assign(backbone="toy")).splitlines()
    head = [
        "backbone",
        "setting",
        "prompts",
        "videos",
        "all questions right (points)",
        "motion, optical flow (px/frame)",
    ]
    assert lines[0] == f"| {' | '.join(head)} |"
    assert lines[2].startswith("| toy | `alg` | 12 | 12 | +25.0 (") and lines[2].endswith("| +3.000 (3.000 to 3.000) |")
    assert lines[3].startswith("| toy | `alg`, guidance 3 | 12 | 12 | +33.3 (") and len(lines) == 4


def test_every_figure_is_drawn():
    parameters = load_parameters(ROOT / "params.yaml")
    names = [m for s in parameters.sweeps.values() if s.backbone == "wan-i2v" for m in s.methods]
    cells = [("none", 0, 1.0), *((m, i % 4, 1.0) for i, m in enumerate(dict.fromkeys(names)) if m != "none")]
    videos = {"one": scores([*cells, ("none", 3, 3.0)]), "two": scores([*cells, ("none", 3, 3.0)])}
    plots.use_style()
    changes = {b: against_unsteered(v, ["adherence"], [("alignvid", 1.0), ("alg", 1.0)]) for b, v in videos.items()}
    for figure in (
        sweep_figures.published_changes(changes),
        sweep_figures.events(videos, ["none", "alignvid", "alg"]),
        sweep_figures.trade_offs(videos),
        sweep_figures.alignvid_places(parameters, videos),
        sweep_figures.dymos_strengths(parameters, videos),
        sweep_figures.pairs_against_sums(videos),
    ):
        assert all(ax.get_xlabel() and ax.has_data() for ax in figure.axes if ax.get_label() != "<colorbar>")
        matplotlib.pyplot.close(figure)
