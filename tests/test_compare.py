"""Steered against unsteered, on synthetic scores with known answers."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.report import method_figures, method_findings, sweep_figures
from analysis.report.against_unsteered import (
    against_unsteered,
    cells_of,
    comparison,
    guidance_cells,
    means,
    on_common,
    settings,
    shown_cells,
    shown_changes,
    shown_samples,
    varied,
)
from analysis.report.glance_table import glance
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
    common = on_common(table, cells_of(table))
    assert len(common) == 3 * 12 and set(common["seed"]) == {0}
    assert len(on_common(table, [("none", 1.0), ("alg", 1.0)])) == 2 * 2 * 12
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


def test_a_glance_has_a_row_per_setting_and_the_levels_that_changes_start_from():
    parameters = load_parameters(ROOT / "params.yaml")
    table = scores([("none", 0, 1.0), ("none", 0, 3.0), ("alg", 3, 1.0), ("alg", 4, 3.0)])
    changes = against_unsteered(table, ["adherence", "flow_px"], [("alg", 1.0), ("alg", 3.0)])
    lines = glance(changes.assign(backbone="wan-i2v"), parameters).splitlines()
    assert "all questions right: change (points) | from (%)" in lines[0]
    assert lines[2].startswith("| Wan-type model | Low-pass guidance | 12 | 12 | +25.0 (")
    assert lines[2].endswith("| +3.000 (3.000 to 3.000) | 0.550 |") and ") | 33.3 |" in lines[2]
    assert (
        lines[3].startswith("| Wan-type model | Low-pass guidance, guidance 3 | 12 | 12 | +33.3 (") and len(lines) == 4
    )


def test_guidance_alone_is_compared_with_none_and_stands_outside_the_correction():
    table = scores([("none", 0, 1.0), ("none", 6, 3.0), ("alg", 3, 1.0), ("dymos-1", 3, 1.0)])
    cells = [("alg", 1.0), ("dymos-1", 1.0)]
    found = shown_changes(table, ["adherence"], cells).set_index("method")
    assert found.loc["none", "difference"] == pytest.approx(50) and found.loc["none", "unsteered"] == pytest.approx(
        100 / 3
    )
    alone = against_unsteered(table, ["adherence"], cells).set_index("method")
    assert found.loc["alg", "p (Holm)"] == alone.loc["alg", "p (Holm)"]


def added(parameters):
    """The parameters with a setting of two values that exist nowhere else, in a sweep called as the methods' sweeps are."""
    methods = parameters.methods | {"dymos-new": [{"method": "dymos", "gamma": 0.33, "window": [0, 0.2]}]}
    sweep = parameters.sweeps["methods"].model_copy(update={"methods": ["dymos-new"]})
    return parameters.model_copy(update={"methods": methods, "sweeps": parameters.sweeps | {"methods-new": sweep}})


def test_a_new_setting_is_shown_without_an_edit():
    parameters = added(load_parameters(ROOT / "params.yaml"))
    table = scores(
        [("none", 0, 1.0), ("none", 0, 3.0), ("alignvid", 2, 1.0), ("dymos-new", 1, 1.0), ("alg-image", 1, 1.0)]
    )
    cells = shown_cells(parameters, "wan-i2v", table, ["methods*"], [])
    assert cells == [("alignvid", 1.0), ("dymos-new", 1.0)]
    assert shown_cells(parameters, "wan-i2v", table, ["methods*"], ["alg-image"])[-1] == ("alg-image", 1.0)
    changes = {"wan-i2v": shown_changes(table, ["adherence", "background_psnr"], cells)}
    forest = method_figures.effects(changes, parameters)
    assert any("γ 0.33" in text.get_text() for text in forest.axes[0].get_yticklabels())
    named = {"wan-i2v": [*guidance_cells(table), *cells]}
    trade = method_figures.trade_off(changes, named, parameters)
    assert any("γ 0.33" in text for text in trade.axes[0].get_legend_handles_labels()[1])
    assert "γ 0.33" in glance(changes["wan-i2v"].assign(backbone="wan-i2v"), parameters)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(("sweeps", "names"), [(["nothing*"], []), (["methods*"], ["nothing"])])
def test_what_params_does_not_have_cannot_be_shown(sweeps, names):
    with pytest.raises(ValueError, match="nothing"):
        shown_cells(load_parameters(ROOT / "params.yaml"), "wan-i2v", scores([("none", 0, 1.0)]), sweeps, names)


def test_shares_of_outcomes_add_up():
    table = scores([("none", 0, 1.0), ("alg", 4, 1.0)])
    table["outcome"] = np.where(table["adherence"] == 1, "followed", np.where(table.index % 2, "wrong", "still copy"))
    shares = method_figures.outcome_shares(table, [("none", 1.0), ("alg", 1.0)])
    assert np.allclose(shares[["followed", "still copy", "wrong"]].sum(axis=1), 100) and len(shares) == 2 * 5
    row = shares.query("method == 'alg' and main_category == 'all'").iloc[0]
    assert row["followed"] == pytest.approx(100 * 8 / 12) and row["n"] == 12


def test_findings_name_what_the_rule_decides():
    parameters = load_parameters(ROOT / "params.yaml")
    table = scores([("none", 0, 1.0), ("none", 30, 3.0), ("alignvid", 30, 1.0), ("alg", 0, 1.0)], samples=40)
    text = method_findings.found_on(
        "wan-i2v", shown_changes(table, ["adherence"], [("alignvid", 1.0), ("alg", 1.0)]), parameters
    )
    assert "Guidance 3 alone" in text and "rises with AlignVid, +75.0 points" in text
    assert "1 of 2 settings show no clear change" in text and "falls" not in text


def test_pairs_are_found_by_their_parts():
    pairs = sweep_figures.pairs_of(load_parameters(ROOT / "params.yaml"))
    assert pairs["alignvid+dymos"] == ("alignvid", "dymos-1") and pairs["alg+focal-joint"] == (
        "alg",
        "focal-joint-full",
    )
    assert "all-methods" not in pairs


def test_every_figure_of_a_grid_is_drawn():
    parameters = load_parameters(ROOT / "params.yaml")
    names = [m for s in parameters.sweeps.values() if s.backbone == "wan-i2v" for m in s.methods]
    cells = [("none", 0, 1.0), *((m, i % 4, 1.0) for i, m in enumerate(dict.fromkeys(names)) if m != "none")]
    own = scores([*cells, ("none", 3, 3.0)])
    for figure in (
        method_figures.events({"wan-i2v": own}, {"wan-i2v": [("none", 1.0), ("alignvid", 1.0)]}, parameters),
        sweep_figures.alignvid_places(parameters, own, "wan-i2v"),
        sweep_figures.dymos_strengths(parameters, own, "wan-i2v"),
        sweep_figures.pairs_against_sums(parameters, {"wan-i2v": own}),
    ):
        assert all(ax.has_data() for ax in figure.axes if ax.get_label() != "<colorbar>")
        assert "n = 12" in str(
            [t.get_text() for ax in figure.axes for t in (ax.title, ax._left_title, *ax.get_xticklabels())]
        )
        matplotlib.pyplot.close(figure)
