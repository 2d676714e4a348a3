"""Curves of remedies: read off where they lose a given fidelity, with intervals that hold the matching, and counted passes."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_testbed import cogvideox_backbone
from scipy import stats

from analysis.report import loosening_causes as causes
from analysis.report import loosening_curves as curves
from analysis.report import loosening_figures as figures
from analysis.report.loosening_curves import KEPT, Change, Remedy
from analysis.study.cells import expand
from analysis.study.input_edits import check_edit
from analysis.study.parameters import Benchmark, Parameters, Sweep, load_parameters
from analysis.study.significance import mean_and_p
from analysis.study.video_key import program_hash
from analysis.videos.count_passes import passes_of
from analysis.videos.generate import reference_files
from analysis.videos.run_cell import run_cell
from methods import jpeg_image

ROOT = Path(__file__).parent.parent
PLAIN = dict(kind="reference", needs_guidance=False, default=None, source="s", code="c", window=None, reported=())


def remedy(name, settings, **more):
    return Remedy(name=name, label=name.upper(), settings=tuple(settings), **(PLAIN | more))


def point(rng, x, y, n=400, spread=0.5):
    return Change("s", 1.0, x + spread * rng.normal(size=n), y + spread * rng.normal(size=n))


# Reading curves off ---------------------------------------------------------------------------------------------------
def test_a_reading_is_the_curve_of_the_means_at_that_loss():
    rng = np.random.default_rng(0)
    origin = Change("none", 1.0, np.zeros(400), np.zeros(400))
    points = [origin, point(rng, -0.6, 3.0), point(rng, -2.0, 5.0)]
    for loss in (0.3, 1.0, 1.5):
        found = curves.read_off(points, loss)
        means = [(p.x.mean(), p.y.mean()) for p in points]
        x, y = zip(*means, strict=True)
        assert found.y.mean() == pytest.approx(np.interp(-loss, x[::-1], y[::-1]), abs=1e-9)
    assert curves.read_off(points, 0.3).between[0] is origin and curves.read_off(points, 1.0).between[0] is points[1]
    assert curves.read_off(points, 3.0) is None and curves.read_off(points[1:], 0.1) is None
    with pytest.raises(ValueError, match="above 0 dB, not 0"):
        curves.read_off(points, 0)


def test_the_interval_of_a_reading_holds_the_uncertainty_of_the_matching():
    """Against the spread of readings of worlds drawn anew; without the second term of v it would be far too narrow."""
    truth, inside, widths, naive = 4.0, 0, [], []
    readings = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        origin = Change("none", 1.0, np.zeros(60), np.zeros(60))
        noise = rng.normal(size=60)  # of fidelity: all of the uncertainty of the reading comes from it
        two = Change("b", 1.0, -2.0 + noise, np.full(60, 8.0))
        found = curves.read_off([origin, two], 1.0)
        stated = mean_and_p(found.y, np.arange(60))
        readings.append(found.y.mean())
        inside += stated["low"] <= truth <= stated["high"]
        widths.append(stated["high"] - stated["low"])
        naive.append(np.ptp((1 - found.t) * origin.y + found.t * two.y))
    assert 0.91 <= inside / 300 <= 0.99
    expected = 2 * stats.norm.ppf(0.975) * np.std(readings)
    assert np.mean(widths) == pytest.approx(expected, rel=0.15) and max(naive) == 0


def made(settings, n=12, seed=0):
    """Scores of invented settings {(method, guidance, blur): (fidelity, adherence, displacement)}, on n prompts."""
    rng, rows = np.random.default_rng(seed), []
    kinds = ["motion", "addition", "deletion", "modification"] * (n // 4)
    prompts = rng.normal(size=n)
    for (method, scale, blur), (psnr, share, px) in settings.items():
        for i in range(n):
            rows.append(
                dict(method=method, guidance_scale=scale, blur=blur, sample=f"s{i:02d}", seed=0, main_category=kinds[i],
                     adherence=int(i < share * n), asked_px=px + prompts[i] if kinds[i] == "motion" else np.nan,
                     background_psnr=psnr + prompts[i], subject_psnr=psnr + prompts[i] if i % 2 else np.nan)
            )  # fmt: skip
    scores = pd.DataFrame(rows)
    blurred = scores["blur"] > 0
    scores["setting"] = scores["method"].where(~blurred, "blur-" + scores["blur"].map("{:g}".format))
    return scores.assign(**{KEPT: scores[["background_psnr", "subject_psnr"]].mean(axis=1)})


SCORES = {
    ("none", 1.0, 0.0): (30, 0.25, 5), ("none", 2.0, 0.0): (29.5, 0.5, 6), ("none", 3.0, 0.0): (28, 0.75, 8),
    ("none", 5.0, 0.0): (26, 0.75, 9), ("jpeg-50", 1.0, 0.0): (29.6, 0.25, 5), ("jpeg-10", 1.0, 0.0): (27.6, 0.5, 7),
    ("none", 1.0, 1.0): (29.8, 0.25, 5), ("apg", 3.0, 0.0): (28.2, 0.75, 8), ("apg", 5.0, 0.0): (26.5, 1.0, 9),
}  # fmt: skip
REMEDIES = [
    remedy("guidance", ["none@2", "none@3", "none@5"], kind="guidance", default={"wan": "none@3"}),
    remedy("apg", ["apg", "apg@5"], kind="guidance", needs_guidance=True),
    remedy("jpeg", ["jpeg-50", "jpeg-10"], default={"all": "jpeg-50"}),
    remedy("blur", ["blur-1"]),
    remedy("absent", ["other"]),
]
ORDER = [f"s{i:02d}" for i in range(12)]


def test_curves_begin_at_the_unsteered_model_of_their_scale():
    scores = made(SCORES)
    names = lambda r, base: [(p.setting, p.scale) for p in curves.curve(scores, r, base, "adherence")]  # noqa: E731
    guidance, apg, jpeg, blur, absent = REMEDIES
    assert names(guidance, 1.0) == [("none", 1.0), ("none", 2.0), ("none", 3.0), ("none", 5.0)]
    assert names(guidance, 3.0) == [("none", 3.0), ("none", 5.0)]
    assert names(apg, 1.0) == [] and names(apg, 3.0) == [("none", 3.0), ("apg", 3.0), ("apg", 5.0)]
    assert names(jpeg, 1.0) == [("none", 1.0), ("jpeg-50", 1.0), ("jpeg-10", 1.0)] and names(jpeg, 3.0) == []
    assert names(blur, 1.0) == [("none", 1.0), ("blur-1", 1.0)] and names(absent, 1.0) == []
    moves = curves.of_prompts(scores, "motion", ORDER)
    start, first, *_ = curves.curve(moves, apg, 3.0, "asked_px", reference=1.0)
    assert start.x.mean() == pytest.approx(-2) and first.y.mean() == pytest.approx(3)


def test_matched_fidelity_is_read_off_by_hand():
    table = curves.matched_fidelity(made(SCORES), REMEDIES, [1.0, 3.0], [1.0], ORDER)
    row = table.set_index(["guidance_scale", "gain", "remedy"]).sort_index()
    # Guidance: from 2 (29.5 dB) to 3 (28), a third of the way; 25 points there, 50 at the end, of which a third.
    assert row.loc[(1.0, "adherence", "guidance"), "change"] == pytest.approx(25 + 25 / 3)
    assert row.loc[(1.0, "adherence", "jpeg"), "change"] == pytest.approx(25 * 0.6 / 2)
    assert row.loc[(1.0, "asked_px", "jpeg"), "change"] == pytest.approx(2 * 0.6 / 2)
    less = row.loc[(1.0, "adherence", "jpeg"), "against guidance"]
    assert less == pytest.approx(25 * 0.6 / 2 - 25 - 25 / 3)
    weak = row.loc[(1.0, "adherence", "blur")]
    assert not weak["reached"] and weak["lost"] == pytest.approx(0.2) and np.isnan(weak["change p (Holm)"])
    assert row.loc[(3.0, "adherence", "apg"), "n"] == 12 and row.loc[(3.0, "asked_px", "apg"), "n"] == 3
    text = figures.matched_table(table, REMEDIES, 1.0)
    assert list(text["remedy"])[:2] == ["GUIDANCE", "JPEG"] and "at most 0.2 dB lost" in text.to_csv()
    assert "dB of the fidelity" in figures.loosening_found("wan-i2v", table, REMEDIES, 1.0)
    for figure in (
        figures.matched_figure({"wan-i2v": table}, REMEDIES, 1.0),
        figures.curves_figure(made(SCORES), REMEDIES, 1.0, "wan-i2v", ORDER),
    ):
        assert figure.get_suptitle()


def test_costs_are_told_against_the_model_without_guidance():
    passes = pd.DataFrame([dict(method=m, guidance_scale=g, blur=b, passes=10.0 * (1 + (g > 1))) for m, g, b in SCORES])
    table = curves.matched_cost(made(SCORES), passes, REMEDIES, [1.0, 3.0], 3.0, ORDER).set_index(
        ["gain", "remedy", "guidance_scale"]
    )
    # 3 dB below 30 is 27: from apg (28.2, +50 points) to apg@5 (26.5, +75).
    assert table.loc[("adherence", "apg", 3.0), "change"] == pytest.approx(50 + 25 * 1.2 / 1.7)
    assert table.loc[("adherence", "apg", 3.0), "passes"] == 20
    assert "jpeg" not in table.index.get_level_values("remedy")  # it loses 2.4 dB at most
    assert len(figures.cost_table(table.reset_index(), REMEDIES))
    with pytest.raises(ValueError, match="passes of apg at guidance 5 were not counted"):
        curves.passes_of(passes[passes["guidance_scale"] < 5], "apg", 5.0)


def test_adherence_is_of_all_events_alike():
    scores = made({("none", 1.0, 0.0): (30, 0.5, 5)})
    few = scores[(scores["main_category"] == "motion") | (scores["sample"] <= "s06")]
    assert set(curves.of_prompts(few, "all", ORDER)["sample"]) == {f"s{i:02d}" for i in range(7)}
    assert len(curves.of_prompts(few, "motion", ORDER)) == 3


# The study of the repository ------------------------------------------------------------------------------------------
def test_the_remedies_are_those_of_the_grids():
    remedies, parameters = curves.load_remedies(), load_parameters(ROOT / "params.yaml", full=True, apart=True)
    used = {curves.point_of(s, 1.0)[0] for r in remedies for s in r.settings}
    run = {"none"}
    for name, sweep in parameters.sweeps.items():
        if "loosening" in name and sweep.record is None:
            run |= {*sweep.methods, *(f"blur-{s:g}" for s in sweep.blur if s)}
    assert used == run
    assert len({r.name for r in remedies}) == len(remedies) and all(r.source for r in remedies)
    for r in remedies:
        for lineage in ("wan", "cogvideox"):
            own = {
                m
                for n, s in parameters.sweeps.items()
                if "loosening" in n and s.backbone == f"{lineage}-i2v"
                for m in s.methods
            }
            default = r.default_of(lineage)
            assert default is None or default.startswith("blur") or curves.point_of(default, 1.0)[0] in own or r.name in (
                "amplitude", "nag"
            )  # fmt: skip


def test_the_study_stands_apart():
    small, full, apart = (
        load_parameters(ROOT / "params.yaml", **size).sweeps
        for size in ({}, {"full": True}, {"full": True, "apart": True})
    )
    assert all(s.apart == ("loosening" in n) for sweeps in (small, full, apart) for n, s in sweeps.items())
    assert "loosening" not in small and "loosening-small" in small
    assert not any("loosening" in n for n in full) and "loosening" in apart and "loosening-small" not in apart
    assert sum(s.samples * len(s.methods) for n, s in small.items() if "loosening" in n) <= 24


def test_a_remedy_that_a_model_refuses_says_why(monkeypatch):
    monkeypatch.chdir(ROOT)
    parameters, remedies = load_parameters(full=True, apart=True), curves.load_remedies()
    scores = made(SCORES)
    found = curves.refusals(parameters, "cogvideox-i2v", remedies, scores)
    assert (
        "text cross-attention" in found["nag"]
        and "Wan 2.1" in found["amplitude"]
        and "one batch" in found["skipuncond"]
    )
    assert "jpeg" not in found and "guidance" not in found and "no sweep" in found["enhance"]


# What is given to a pipeline ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"input": "gif", "quality": 3}, "unknown input 'gif'; allowed are jpeg, h264, negative_prompt"),
        ({"input": "jpeg"}, "one value, quality"),
        ({"input": "jpeg", "quality": 101}, "from 1 to 100, not 101"),
        ({"input": "jpeg", "quality": True}, "of type int, not True"),
        ({"input": "h264", "crf": 52}, "from 0 to 51, not 52"),
        ({"input": "negative_prompt", "text": 3}, "of type str"),
    ],
)
def test_wrong_edits_of_inputs_are_refused(edit, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_edit(edit)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    backbone = cogvideox_backbone(tmp_path_factory.mktemp("model"))
    methods = {
        "none": [], "jpeg": [{"input": "jpeg", "quality": 10}], "negative": [{"input": "negative_prompt", "text": "all stays still."}],
        "slg": [{"method": "skiplayer", "scale": 1.0, "blocks": [1], "window": [0.0, 0.5]}],
    }  # fmt: skip
    grid = dict(backbone="m", samples=1, seeds=[0], guidance_scale=[1.0, 3.0])
    sweeps = {"all": Sweep(**grid, methods=list(methods))}
    parameters = Parameters(benchmark=Benchmark(folder=ROOT / "testbed/benchmark"), backbones={"m": backbone}, methods=methods,
                            sweeps=sweeps, testbed={}, notebooks={})  # fmt: skip
    cells = {(c.method, c.guidance_scale): c for c in expand(parameters, "all")}
    images = reference_files(parameters, "all", cells.values())
    return backbone, cells, {k: images[c.key] for k, c in cells.items()}


def test_edits_of_inputs_are_what_the_pipeline_is_given(tiny, tmp_path):
    from analysis.videos.load_backbone import load_pipeline
    from analysis.videos.sample_video import open_fitted, pipeline_inputs

    backbone, cells, images = tiny
    pipe = load_pipeline(backbone)

    def given(method, scale=3.0):
        return pipeline_inputs(pipe, cells[method, scale], backbone, open_fitted(images[method, scale], backbone))

    plain, jpeg = given("none"), given("jpeg")
    assert np.array_equal(np.asarray(jpeg["image"]), np.asarray(jpeg_image(plain["image"], 10)))
    assert not np.array_equal(np.asarray(jpeg["image"]), np.asarray(plain["image"]))
    assert given("negative")["negative_prompt"] == "all stays still." and plain["negative_prompt"] == ""
    status, reason = run_cell(cells["negative", 1.0], backbone, images["negative", 1.0], tmp_path)
    assert status == "failed" and "no unconditional branch" in reason
    keys = {c.key for c in cells.values()}
    assert len(keys) == len(cells) and cells["jpeg", 1.0].code == program_hash(
        [{"input": "jpeg", "quality": 10}], backbone.pipeline
    )


def test_passes_are_counted(tiny):
    backbone, cells, images = tiny
    count = {k: passes_of(cells[k], images[k], backbone) for k in cells if k != ("negative", 1.0)}
    assert count["none", 1.0] == 2 and count["none", 3.0] == 4 and count["jpeg", 3.0] == 4  # two steps; both branches
    blocks = len(
        __import__("analysis.videos.load_backbone", fromlist=["x"])
        .load_pipeline(backbone)
        .transformer.transformer_blocks
    )
    assert count["slg", 1.0] == pytest.approx(3 - 1 / blocks, abs=0.01)  # one more in the first step, without a block


# Why ------------------------------------------------------------------------------------------------------------------
def test_failures_exclude_each_other():
    scores = pd.DataFrame(
        {"adherence": [1, 0, 0, 0], "still_copy": [0, 1, 0, 0], "object_integrity": [0.5, 0.5, 0.5, np.nan]}
    )
    found = causes.failures(scores)
    assert found[list(causes.FAILURES)].to_numpy().tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_what_goes_with_an_effect_is_found(monkeypatch):
    n, rng = 40, np.random.default_rng(0)
    ids, mass = [f"s{i:02d}" for i in range(n)], rng.uniform(0, 0.2, 40)
    kinds = ["addition", "deletion", "modification", "motion"] * 10
    plain = pd.DataFrame({"method": "none", "sample": ids, "seed": 0, "main_category": kinds, "adherence": 0, "onset": 17,
                          "still_copy": 1, "object_integrity": 1.0})  # fmt: skip
    steered = plain.assign(method="dymos-1", adherence=(mass > 0.1).astype(int), still_copy=(mass <= 0.1).astype(int))
    words = pd.DataFrame({"sample": ids, "seed": 0, "mediator": "words' mass", "value": 0.3})
    masses = pd.concat([words.assign(method="none"), words.assign(method="dymos-1", value=0.3 + mass)])
    monkeypatch.setattr(causes, "recorded", lambda *a: (pd.concat([plain, steered]), masses))
    monkeypatch.setattr(causes, "winner_scores", lambda *a: None)
    parameters = load_parameters(ROOT / "params.yaml")
    table = causes.carriers(parameters, "wan-i2v").set_index("mediator")
    effect = 100 * (mass > 0.1).mean()
    slope = stats.linregress(mass, 100 * (mass > 0.1)).slope
    assert (
        table.loc["words' mass", "carried"] == pytest.approx(slope * mass.mean())
        and table.loc["words' mass", "effect"] == effect
    )
    assert table.loc["words' mass", "rho"] > 0.7 and np.isnan(table.loc[causes.ONSET, "carried"])
    changes = causes.outcome_changes(parameters, "wan-i2v").set_index("what")
    assert (
        changes.loc["still copy", "difference"] == pytest.approx(-effect) and changes.loc["followed, move", "n"] == 10
    )
    assert (
        len(causes.outcomes_table(changes.reset_index())) == 1 and len(causes.carriers_table(table.reset_index())) == 2
    )


def test_the_search_is_told_with_what_is_left(tmp_path):
    assert causes.confirmed_table(["wan-i2v"], tmp_path, tmp_path).empty
    (tmp_path / "search").mkdir()
    (tmp_path / "wan.yaml").write_text("search: {trials: 160, videos: 6400, hours: 1.5}\n")
    row = dict(
        setting="a+b",
        measure="adherence",
        tuning=0.2,
        held_out=0.1,
        low=0.02,
        high=0.18,
        n=160,
        kept=0.5,
        verdict="supported",
    )
    pd.DataFrame([row | {"p (Holm)": 0.01}]).to_csv(tmp_path / "search/wan-shrinkage.csv", index=False)
    (line,) = causes.confirmed_table(["wan-i2v"], tmp_path, tmp_path).to_dict("records")
    assert (
        line["left"] == "50 %"
        and line["held out (points)"] == "+10.0 (2.0 to 18.0)"
        and "6400 videos" in line["the search"]
    )
