"""Figures, sentences and verdicts of notebooks 01 to 04 and the README's picture, on small made-up tables."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.report import (
    blur_figures,
    blur_study,
    dominance_claims,
    dominance_figures,
    entropy_claims,
    entropy_figures,
    readme_picture,
)
from analysis.report import training_figures as training
from analysis.report.dominance_figures import DISTANCE, DOMINANCE, FIDELITY, FLOW, MOVED, MOVED_ASKED
from analysis.report.film_strips import by_setting
from analysis.report.step_block_figure import relative_change
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent

EVENTS = ("modification", "addition", "deletion", "motion")


def test_changes_that_are_all_equal_have_no_interval_of_a_proportion():
    assert dominance_figures.change_interval(pd.Series([0.0] * 5, list("abcde"))) == (0, 0, 0)
    assert dominance_figures.change_interval(pd.Series([1.0] * 5, list("abcde"))) == (1, 1, 1)
    mean, low, high = dominance_figures.change_interval(pd.Series([1.0, 2.0, 3.0], list("abc")))
    assert low < mean == 2 < high


def test_flow_that_never_changes_has_an_interval_of_zero_and_adherence_does_not():
    videos = pd.DataFrame({"sample": list("abcd"), "seed": 0, "flow_px": 0.0, "adherence": 0})
    flow = blur_study._change(videos, videos, "flow_px")
    assert (flow["low"], flow["high"]) == (0, 0)
    assert blur_study._change(videos, videos, "adherence")["high"] > 40  # points: four prompts rule out little


def pairs():
    rows = []
    for gamma in (0.0, 1.0, 2.0):
        for i, sample in enumerate(("motion_000", "addition_000", "deletion_000")):
            row = {"backbone": "wan-i2v", "gamma": gamma, "sample": sample, DOMINANCE: 30 - 5 * gamma + i}
            row |= {DISTANCE: abs(gamma - 1) + 0.1 * i, MOVED: 2 * gamma + i, FLOW: 0.0, FIDELITY: 40.0}
            rows.append(row | {MOVED_ASKED: row[MOVED] if i == 0 else np.nan})
    return pd.DataFrame(rows)


def test_changes_are_paired_and_count_only_the_prompts_they_are_of():
    changes = dominance_figures.changes_table(pairs()).set_index(["measure", "gamma"])
    assert changes.loc[(DOMINANCE, 2.0), "mean"] == pytest.approx(-10)
    assert changes.loc[(MOVED_ASKED, 1.0), ["mean", "n"]].tolist() == [2, 1]
    assert (changes.loc[(slice(None), 0.0), ["mean", "low", "high"]] == 0).all(axis=None)


def test_slopes_are_per_unit_of_gamma_and_the_nearest_gamma_is_found():
    assert dominance_claims.slopes(pairs(), DOMINANCE).tolist() == pytest.approx([-5, -5, -5])
    assert dominance_claims.nearest(pairs()) == 1


def test_changes_per_step_and_block_are_relative():
    index = pd.MultiIndex.from_product([range(2), ["0", "10", "2"]], names=["step", "block"])
    first = pd.DataFrame({"entropy": 2.0}, index).reset_index()
    grid = relative_change(first, first.assign(entropy=1.5), "entropy")
    assert list(grid.index) == [0, 2, 10] and (grid == -25).all(axis=None)


def scores(**adherence):
    rows = [
        {"sample": f"{event}_{i:03d}", "main_category": event, "seed": 0, "method": method, "guidance_scale": 1.0}
        | {"adherence": values[4 * i + j]}
        for method, values in adherence.items()
        for i in range(2)
        for j, event in enumerate(EVENTS)
    ]
    return pd.DataFrame(rows)


def test_the_picture_shows_the_first_neglected_prompt_of_each_event():
    settings = [("none", 1.0), ("alignvid", 1.0)]
    table = scores(none=[1, 0, 1, 0, 0, 0, 0, 1], alignvid=[1] * 8)
    assert readme_picture.neglected(table, settings) == [
        "addition_000", "deletion_001", "modification_001", "motion_000",
    ]  # fmt: skip
    followed = scores(none=[1, 0, 1, 0, 1, 0, 0, 1], alignvid=[1] * 8)
    assert readme_picture.neglected(followed, settings) is None


def test_strips_by_setting_pick_frames_and_mark_outcomes():
    film = np.arange(5, dtype=np.uint8).repeat(4)[None, :, None].repeat(4, 0).repeat(3, 2)
    table = pd.DataFrame({"sample": ["modification_000"], "answers": ["no|yes|yes|no"], "adherence": [1]})
    strips, marks = by_setting({"plain": (film[None], table)}, ["modification_000"], seed=7)
    ((key, strip),) = strips.items()
    assert key[0] == "plain" and marks[key] == "followed"
    assert strip[0, ::4, 0].tolist() == [0, 2, 4] and strip.shape == (4, 12, 3)


def test_phases_end_where_the_parameters_say():
    about = {"wan": {"i2v": {"phases": {"pair": 10, "neglect": 5}, "batch": 4}}, "data": {"unexecuted": 0.27}}
    parameters = SimpleNamespace(testbed=about)
    assert training.phase_ends(parameters, "wan-i2v") == {"pair": 40, "neglect": 60}
    text = training.how_neglect_was_trained_in(parameters, ["wan-i2v"])
    assert "| Wan-type model | clips with neglect | 20 | 27 % |" in text


def scaled(reference: float):
    samples = [f"addition_{i:03d}" for i in range(12)]
    measures = pd.DataFrame(
        [
            {"gamma": g, "seed": 0, "sample": s, "entropy, words": 2 - 0.2 * (g > 1) + 0.01 * i}
            | {
                "words in text attention": 0.1 + 0.01 * i,
                "reference in self-attention": (reference if g > 1 else 1) + i,
            }
            for g in (1.0, 2.0)
            for i, s in enumerate(samples)
        ]
    )
    videos = measures[["gamma", "seed", "sample"]].assign(main_category="addition", adherence=[1, 0, 0, 1, 0, 1] * 4)
    return entropy_figures.Scaled(measures, pd.DataFrame(), videos)


@pytest.mark.parametrize(("reference", "word"), [(1.2, "contradicted"), (0.8, "supported"), (1.0, "inconclusive")])
def test_the_sentence_about_the_reference_follows_the_data(reference, word):
    studies = {"wan-i2v": scaled(reference)}
    ratios, correlations = entropy_figures.ratios_table(studies), entropy_figures.correlations(studies)
    claims = entropy_claims.claims(studies, ratios, correlations, 2.0).set_index("claim")
    assert claims.loc["scaling takes attention off the reference (figure 3)", "verdict"] == word
    sentences = " ".join(entropy_claims.findings(studies, ratios, correlations, 2.0))
    assert ("figure 3 describes less" in sentences) == (word == "contradicted")


def test_the_reference_is_blurred_as_the_pipeline_blurs_it():
    from analysis.videos.generate import reference_image

    parameters = load_parameters(ROOT / "params.yaml")
    path = ROOT / parameters.benchmark.folder / "images/motion_000.png"
    given = np.asarray(reference_image(path, parameters.backbones["wan-i2v"], 2.0))
    assert (blur_figures.reference(parameters, "motion_000", 2.0) == given).all()
