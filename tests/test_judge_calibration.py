"""The calibration of judges: what is counted, how a result is corrected, and how often the corrected interval holds the
truth."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import finish, start

from analysis.scorers import calibration_clips
from analysis.scorers.judge_calibration import (
    COLUMNS,
    Estimate,
    _root,
    calibrate,
    corrected_difference,
    corrected_rate,
    judged_by,
    table_of,
    units,
)
from analysis.scorers.registry import make_scorer
from analysis.scorers.scorer import Sample, check_values
from analysis.scorers.simulated_judge import SimulatedJudge
from analysis.scorers.video import Video
from analysis.study.significance import proportion_interval

ROUNDS = 150
YES_NO = np.array(["no", "yes"])


def answers(rng, prompts, se, sp, *, spread=0.0, questions=4):
    """A table of judged answers. se, sp: chance to be right where a thing is right and where it is wrong, which vary
    from prompt to prompt by `spread`."""
    kinds, shape = ("true", "copy", "shuffled"), (prompts, 3, questions)
    right = rng.random(shape) < np.array([1.0, 0.25, 0.4])[:, None]
    expected = rng.random(shape) < 0.5
    chance = np.clip(np.where(right, se, sp) + spread * rng.standard_normal((prompts, 1, 1)), 0, 1)
    says_right = (rng.random(shape) < chance) == right
    sample, kind, question = (index.ravel() for index in np.indices(shape))
    return pd.DataFrame({
        "judge": "j", "video": np.array(kinds)[kind], "sample": sample, "question": question,
        "expected": YES_NO[expected.ravel().astype(int)], "truth": YES_NO[(expected == right).ravel().astype(int)],
        "answer": YES_NO[(expected == says_right).ravel().astype(int)],
    })  # fmt: skip


def judged(rng, truth, se, sp):
    """What a judge makes of true 0 and 1."""
    right = rng.random(truth.shape) < np.where(truth > 0, se, sp)
    return np.where(right, truth, 1 - truth)


def study(values, seeds=1):
    return pd.DataFrame({"sample": np.repeat(np.arange(len(values) // seeds), seeds), "seed": np.tile(np.arange(seeds), len(values) // seeds),
                         "adherence": values})  # fmt: skip


# What is counted ---------------------------------------------------------------------------------------------------------


def row(video, sample, question, expected, truth, answer):
    return dict(zip(COLUMNS, ("j", video, sample, question, expected, truth, answer), strict=True))


BY_HAND = pd.DataFrame([
    row("true", "a", "1", "yes", "yes", "yes"), row("true", "a", "2", "no", "no", "no"),  # right, judged right
    row("true", "b", "1", "yes", "yes", "no"), row("true", "b", "2", "no", "no", "no"),  # one missed
    row("copy", "a", "1", "yes", "no", "no"), row("copy", "a", "2", "no", "no", "unknown"),
    row("copy", "b", "1", "yes", "no", "yes"), row("copy", "b", "2", "no", "unknown", "no"),  # one accepted; one without truth
])  # fmt: skip


def test_units_are_counted_by_hand():
    one = calibrate(BY_HAND)
    # a: right are 3 questions, of which 2 are judged right; b: 2 of which 1 is. The mean is over prompts.
    assert (one.right, one.wrong, one.prompts, one.clips) == (5, 2, 2, 4)
    assert one.sensitivity.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert one.specificity.value == pytest.approx((1 + 0) / 2)
    assert one.youden.value == pytest.approx(one.sensitivity.value + one.specificity.value - 1)
    assert one.undecided == pytest.approx(1 / 7)
    videos = units(BY_HAND, "video")
    assert videos[["video", "sample"]].to_numpy().tolist() == [["true", "a"], ["true", "b"], ["copy", "a"]]
    assert videos["truly"].tolist() == [True, True, False] and videos["judged"].tolist() == [True, False, False]
    assert calibrate(BY_HAND, stratum="yes").sensitivity.value == 0.5


def test_the_table_has_every_level_stratum_and_kind_of_clip():
    table = table_of(answers(np.random.default_rng(0), 20, 0.9, 0.8)).set_index(["clips", "level", "expected"])
    assert table.index.is_unique and len(table) == 10
    assert table.loc[("true", "question", "all"), "sensitivity"] > 0.8
    assert np.isnan(table.loc[("true", "question", "all"), "specificity"])  # nothing in true clips is wrong
    whole = table.loc[("all", "question", "all")]
    assert whole["youden"] == pytest.approx(whole["sensitivity"] + whole["specificity"] - 1)
    assert whole["youden_low"] < whole["youden"] < whole["youden_high"]


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda t: t.drop(columns="truth"), "truth"), (lambda t: t.replace({"answer": {"yes": "Yes"}}), "answer is one of"),
     (lambda t: t.assign(judge=["j", "k"] * 4), "one judge, not of 2"), (lambda t: t[t["video"] == "true"], "0 wrong")],
)  # fmt: skip
def test_tables_that_cannot_calibrate_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        calibrate(change(BY_HAND))
    with pytest.raises(ValueError, match="no level"):
        units(BY_HAND, "frame")
    with pytest.raises(ValueError, match="strata"):
        units(BY_HAND, "video", "yes")


# Correction --------------------------------------------------------------------------------------------------------------


def test_a_rate_is_corrected_by_rogan_and_gladen():
    one = calibrate(answers(np.random.default_rng(1), 300, 0.9, 0.7))
    p, j = 0.35, one.youden.value
    q = one.sensitivity.value * p + (1 - one.specificity.value) * (1 - p)
    n = 100_000
    values = np.zeros(n)
    values[: round(q * n)] = 1
    found = corrected_rate(values, np.arange(n) % 500, one)
    assert found["corrected"] == pytest.approx(p, abs=1e-4) and found["observed"] == pytest.approx(q, abs=1e-4)
    assert found["low"] < p < found["high"] and found["n"] == 500
    assert found["corrected"] == pytest.approx((found["observed"] + one.specificity.value - 1) / j)


def lang_reiczigel(p, n, se, n_se, sp, n_sp):
    """Lang and Reiczigel (2014): a 95 % interval of a prevalence, all three shares from samples."""
    z = 1.959964
    n2, se2, sp2 = n + z**2, (n_se * se + 1) / (n_se + 2), (n_sp * sp + 1) / (n_sp + 2)
    p2 = (n * p + z**2 / 2) / n2
    j = se2 + sp2 - 1
    rate = (p2 + sp2 - 1) / j
    shift = 2 * z**2 * (rate * se2 * (1 - se2) / n_se - (1 - rate) * sp2 * (1 - sp2) / n_sp)
    error = (
        z
        / j
        * np.sqrt(
            p2 * (1 - p2) / n2 + rate**2 * se2 * (1 - se2) / (n_se + 2) + (1 - rate) ** 2 * sp2 * (1 - sp2) / (n_sp + 2)
        )
    )
    return rate + shift - error, rate + shift + error


@pytest.mark.parametrize(("p", "se", "sp"), [(0.3, 0.9, 0.8), (0.6, 0.95, 0.9), (0.5, 0.8, 0.8)])
def test_the_interval_of_a_rate_is_near_that_of_lang_and_reiczigel(p, se, sp):
    """With one question a prompt their setting is ours: three independent binomial shares."""
    n_se, n_sp, n = 200, 150, 400
    rows = [row("true", f"a{i}", "1", "yes", "yes", YES_NO[int(i < round(se * n_se))]) for i in range(n_se)]
    rows += [row("copy", f"b{i}", "1", "yes", "no", YES_NO[int(i >= round(sp * n_sp))]) for i in range(n_sp)]
    one = calibrate(pd.DataFrame(rows))
    assert one.covariance == 0 and one.sensitivity.low == pytest.approx(proportion_interval(round(se * n_se), n_se)[0])
    hits = round((se * p + (1 - sp) * (1 - p)) * n)
    found = corrected_rate(np.arange(n) < hits, np.arange(n), one)
    low, high = lang_reiczigel(hits / n, n, se, n_se, sp, n_sp)
    assert found["low"] == pytest.approx(low, abs=0.012) and found["high"] == pytest.approx(high, abs=0.012)


@pytest.mark.parametrize(
    ("se", "sp", "spread", "prompts"), [(0.9, 0.85, 0.0, 60), (0.97, 0.97, 0.0, 40), (0.8, 0.75, 0.1, 60)]
)
def test_corrected_rates_and_differences_hold_the_truth_as_often_as_they_say(se, sp, spread, prompts):
    """A judge of known error, calibrated on some clips, judges two settings of a study: the intervals hold the true
    rate and the true difference in about 95 % of 150 rounds (at least 91: two standard errors below)."""
    rng, hold = np.random.default_rng(5), {"rate": 0, "difference": 0}
    noise = spread * rng.standard_normal(200_000)
    se_true, sp_true = (np.clip(rate + noise, 0, 1).mean() for rate in (se, sp))
    n, p, gain, missed = 120, 0.5, 0.2, 0
    for _ in range(ROUNDS):
        one = calibrate(answers(rng, prompts, se, sp, spread=spread))
        base = (rng.random(n) < p).astype(float)
        steered = np.where((base == 0) & (rng.random(n) < gain / (1 - p)), 1.0, base)
        a, b = study(judged(rng, steered, se_true, sp_true)), study(judged(rng, base, se_true, sp_true))
        found = corrected_rate(a["adherence"], a["sample"], one)
        hold["rate"] += found["low"] <= p + gain <= found["high"]
        found = corrected_difference(a, b, "adherence", one)
        hold["difference"] += found["low"] <= gain <= found["high"]
        missed += found["observed_high"] < gain
    assert all(share / ROUNDS >= 0.91 for share in hold.values()), hold
    if se + sp < 1.8:  # without correction the truth is missed, on one side
        assert missed / ROUNDS > 0.1


def test_ignoring_the_calibrations_own_uncertainty_would_be_too_bold():
    rng, p, n = np.random.default_rng(6), 0.5, 2000
    bold = honest = 0
    for _ in range(120):
        one = calibrate(answers(rng, 16, 0.85, 0.75))
        values = judged(rng, (rng.random(n) < p).astype(float), 0.85, 0.75)
        found = corrected_rate(values, np.arange(n), one)
        honest += found["low"] <= p <= found["high"]
        sp, j = one.specificity.value, one.youden.value
        bold += (found["observed_low"] + sp - 1) / j <= p <= (found["observed_high"] + sp - 1) / j
    assert bold / 120 < 0.8 and honest / 120 >= 0.91


def test_a_correction_enlarges_a_difference_and_leaves_its_p():
    rng = np.random.default_rng(7)
    one = calibrate(answers(rng, 80, 0.85, 0.85))
    base = (rng.random(150) < 0.5).astype(float)
    steered = np.where(rng.random(150) < 0.3, 1.0, base)
    found = corrected_difference(study(steered), study(base), "adherence", one)
    assert found["corrected"] == pytest.approx(found["observed"] / one.youden.value)
    assert found["low"] > 0 and found["high"] - found["low"] > found["observed_high"] - found["observed_low"]
    back = corrected_difference(study(base), study(steered), "adherence", one)
    assert back["low"] == pytest.approx(-found["high"]) and back["p"] == pytest.approx(found["p"])


def test_no_change_is_a_difference_of_zero_with_an_interval():
    one = calibrate(answers(np.random.default_rng(8), 60, 0.9, 0.9))
    same = study(np.ones(50))
    found = corrected_difference(same, same, "adherence", one)
    assert found["corrected"] == 0 and found["low"] < 0 < found["high"] and found["p"] == 1


def test_a_perfect_judge_changes_nothing_but_the_width():
    one = calibrate(answers(np.random.default_rng(9), 100, 1.0, 1.0))
    values = np.arange(100) < 70
    found = corrected_rate(values, np.arange(100), one)
    assert found["corrected"] == pytest.approx(0.7)
    assert (
        found["low"] < found["observed_low"] and found["high"] > found["observed_high"]
    )  # 100 clips do not prove perfection


def test_a_judge_that_cannot_tell_is_said_to():
    blind = calibrate(answers(np.random.default_rng(0), 60, 0.4, 0.45))
    assert blind.youden.value <= 0
    with pytest.raises(ValueError, match="nothing can be corrected"):
        corrected_rate(np.ones(5), np.arange(5), blind)
    nearly = calibrate(answers(np.random.default_rng(3), 30, 0.55, 0.53))
    assert nearly.youden.low < 0 < nearly.youden.value
    found = corrected_rate(np.arange(100) < 55, np.arange(100), nearly)
    assert found["low"] == 0 and found["high"] == 1  # nothing is ruled out
    with pytest.raises(ValueError, match="values in"):
        corrected_rate([0.5, 2.0], [0, 1], nearly)


def test_roots():
    assert _root(lambda x: 0.3 - x, 0, 1) == pytest.approx(0.3)
    assert _root(lambda x: -1 - x, 0, 1) == 0 and _root(lambda x: 5 - x, 0, 1) == 1


# The line under a table --------------------------------------------------------------------------------------------------


def test_the_sentence_has_the_numbers_and_the_assumption():
    one = calibrate(answers(np.random.default_rng(2), 50, 0.9, 0.8))
    said = judged_by("j", one)
    assert f"{100 * one.sensitivity.value:.1f} %" in said and f"appear as {10 * one.youden.value:.1f} (" in said
    assert "150 testbed clips of 50 prompts" in said and "if it errs on these videos as it does on those" in said
    assert "not calibrated" in judged_by("j", None)
    with pytest.raises(ValueError, match="the calibration is of j"):
        judged_by("k", one)
    assert str(Estimate(0.5, 0.4, 0.6)) == "0.500 (0.400 to 0.600)"


# Clips and the simulated judge -------------------------------------------------------------------------------------------


def test_the_simulated_judge_errs_as_stated_and_the_calibration_finds_it(tmp_path):
    spelled = "simulated_judge:says_yes=0.9,says_no=0.75,undecided=0.05"
    table = calibration_clips.calibrate_judge(spelled, tmp_path, seed=11, samples=25, cache=tmp_path / "cache")
    assert len(table) == 25 * 3 * 4 and set(table["video"]) == set(calibration_clips.KINDS)
    true = table[table["video"] == "true"]
    assert (true["truth"] == true["expected"]).all()  # in the true clips everything happens
    known = table[table["truth"] != "unknown"]
    right = known["truth"] == known["answer"]
    for truth, rate in (("yes", 0.9), ("no", 0.75)):
        part = right[known["truth"] == truth]
        low, high = proportion_interval(int(part.sum()), len(part), 0.99)
        assert low < rate * 0.95 < high
    assert 0.02 < (known["answer"] == "unknown").mean() < 0.09
    for stratum, (se, sp) in {"yes": (0.9, 0.75), "no": (0.75, 0.9)}.items():  # undecided counts as wrong
        one = calibrate(table, stratum=stratum)
        assert one.sensitivity.low < se * 0.95 < one.sensitivity.high
        assert one.specificity.low < sp * 0.95 + 0.05 < one.specificity.high
    again = calibration_clips.read_answers(tmp_path)
    pd.testing.assert_frame_equal(again, table.reset_index(drop=True), check_dtype=False)
    assert len(pd.read_csv(tmp_path / "calibration.csv")) == 10
    assert json.loads((tmp_path / "settings.json").read_text())["samples"] == 25
    with pytest.raises(ValueError, match="calibrate-judge"):
        calibration_clips.read_answers(tmp_path / "elsewhere")


def test_a_study_judged_by_it_is_corrected_to_the_oracles_rate(tmp_path):
    """End to end: true and still clips of other samples, judged; the truth is the oracle's own share of right
    answers."""
    judge = SimulatedJudge(says_yes=0.85, says_no=0.85, errors=3)
    table = calibration_clips.calibrate_judge(
        judge.spelled(), tmp_path / "c", seed=11, samples=16, cache=tmp_path / "cache"
    )
    one = calibrate(table)
    calibration_clips.write_clips(tmp_path / "s", 12, 10)
    truth = pd.read_csv(tmp_path / "s/truth.csv")
    rows = []
    for kind, record, _ in calibration_clips.clips(12, 10):
        values = judge.score(Video(tmp_path / f"s/{kind}/{record['id']}.mkv"), Sample(questions=record["questions"]))
        check_values(judge, values)
        rows.append({"kind": kind, "sample": record["id"], "seed": 0, "macro": values["macro"]})
    scores, true = (
        pd.DataFrame(rows),
        truth.assign(right=truth["truth"] == truth["expected"]).groupby("video")["right"].mean(),
    )
    a, b = (scores[scores["kind"] == kind] for kind in ("true", "copy"))
    rate, gain = corrected_rate(b["macro"], b["sample"], one), corrected_difference(a, b, "macro", one)
    assert rate["low"] <= true["copy"] <= rate["high"]
    assert gain["low"] <= true["true"] - true["copy"] <= gain["high"]
    assert gain["observed"] < 0.85 * (true["true"] - true["copy"])  # what the judge alone would have said


def test_shuffled_and_still_clips_are_what_they_say():
    found = list(calibration_clips.clips(11, 6))
    assert [kind for kind, _, _ in found] == list(calibration_clips.KINDS) * 6
    for (_, _, true), (_, _, copy), (_, _, shuffled) in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert (copy == copy[0]).all() and (true[0] == copy[0]).all() and not (true == copy).all()
        assert not (shuffled[0] == true[0]).all()
    with pytest.raises(ValueError, match="the benchmark has 467"):
        next(calibration_clips.clips(11, 5000))


def test_clips_can_go_through_an_autoencoder(tmp_path):
    calibration_clips.write_clips(tmp_path, 11, 1, "testbed/checkpoints/wan-i2v")
    for kind, _, drawn in calibration_clips.clips(11, 1):
        decoded = Video(tmp_path / f"{kind}/modification_000.mkv").frames
        assert decoded.shape == drawn.shape and 0 < np.abs(decoded.astype(int) - drawn).mean() < 12


def test_a_clip_that_was_not_judged_ends_the_calibration(tmp_path):
    spelled = "server_judge:url=http://127.0.0.1:9/v1,model=qwen,timeout=2"
    with pytest.raises(ValueError, match=r"3 clips could not be judged; true/\w+.mkv: .*gave no answer"):
        calibration_clips.calibrate_judge(spelled, tmp_path, seed=11, samples=1, cache=tmp_path / "cache")
    assert not (tmp_path / "answers.csv").exists()


def test_what_cannot_be_calibrated_is_said_first(tmp_path):
    for spelled, said in {
        "sharpness": "answers no yes/no",
        "simulated_judge": "runs only with its rates",
        "qwen_judge": "hf download",
    }.items():
        with pytest.raises(ValueError, match=said):
            calibration_clips.calibrate_judge(spelled, tmp_path, seed=11, samples=2, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="says_yes is 2"):
        make_scorer("simulated_judge:says_yes=2.0")


def test_the_command(tmp_path):
    arguments = ["-m", "analysis", "calibrate-judge", "simulated_judge:says_yes=0.9,says_no=0.9", "--samples", "6"]
    process = start(".", *arguments, "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"))
    status, out, error = finish(process)
    assert status == 0, error
    assert out.count("Judged by simulated_judge:says_no=0.9,says_yes=0.9 (version 1). On 18 testbed clips") >= 1
    assert (tmp_path / "out/calibration.csv").is_file()
