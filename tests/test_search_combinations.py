"""The search of combinations: it resumes after a kill as if it had run through, and nothing is confirmed that was not registered."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from random_testbed import cogvideox_backbone

from analysis.report.loosening_curves import KEPT
from analysis.search import registration
from analysis.search.combinations import APART, ORDER, Combination, suggest
from analysis.search.confirm import UNSTEERED, confirm, shrinkage
from analysis.search.drawn_prompts import draw_prompts, write_prompts
from analysis.search.evaluate_combination import evaluate
from analysis.search.trials import cost_of, ended, open_study, run_trials
from analysis.study.parameters import Benchmark, Parameters, load_parameters
from analysis.study.search_settings import Lineage, Search, Split
from methods.registry import from_dict

ROOT = Path(__file__).parent.parent
FOCAL = {"method": "focal", "clip": "CLIP", "weak": [0], "text": 1.0, "latent": 0.3, "cache": 1.0}
METHODS = ["alignvid", "dymos", "lowpass", "refnoise", "skiplayer", "jpeg", "blur"]


def invented(combination):
    """Scores of 12 prompts that follow from the combination: a synthetic objective."""
    strength = sum(len(name) for name in combination.names) + combination.blur
    for part in combination.parts:
        strength += sum(float(v) for v in part.values() if isinstance(v, float))
    if combination.names[:1] == ("jpeg",):
        raise ValueError("this model takes no JPEG")
    rng = np.random.default_rng(0)
    follows = rng.random(12) < 0.3 + 0.02 * strength
    kinds = ["addition", "deletion", "modification", "motion"] * 3
    return pd.DataFrame(
        {"sample": [f"s{i:02d}" for i in range(12)], "seed": 0, "main_category": kinds, "adherence": follows.astype(int),
         KEPT: 30 - 0.05 * strength + rng.normal(size=12) * 0.01, "asked_px": [np.nan if k != "motion" else strength for k in kinds]}
    )  # fmt: skip


def searched(journal, trials, evaluate=invented):
    study = open_study(journal, "x", "these settings")
    run_trials(study, trials, 5, partial(suggest, methods=METHODS, focal=FOCAL), evaluate)
    return study


def settings(study):
    return [t.user_attrs["setting"] for t in study.trials if t.values is not None or "refused" in t.user_attrs]


@pytest.mark.parametrize("seed", range(3))
def test_every_trial_is_a_combination_of_two_or_three_methods_that_go_together(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    sizes = set()
    for _ in range(60):
        found = suggest(study.ask(), list(ORDER), FOCAL)
        assert len(set(found.names)) == len(found.names) and list(found.names) == sorted(found.names, key=ORDER.index)
        assert not any(set(pair) <= set(found.names) for pair in APART)
        assert (found.blur > 0) == ("blur" in found.names)
        for part in found.parts:
            assert "input" in part or from_dict(part)
        sizes.add(len(found.names))
    assert sizes == {2, 3}
    with pytest.raises(ValueError, match="no method 'cfg'"):
        suggest(study.ask(), ["cfg", "dymos", "alignvid"], FOCAL)


KILLED = """
import os, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import test_search_combinations as t
calls = []
def evaluate(combination):
    calls.append(combination)
    if len(calls) == 8:
        os._exit(9)
    return t.invented(combination)
t.searched(Path({journal!r}), 14, evaluate)
"""


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_it_had_run_through(tmp_path):
    whole = searched(tmp_path / "whole.journal", 14)
    code = KILLED.format(tests=str(ROOT / "tests"), root=str(ROOT), journal=str(tmp_path / "cut.journal"))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
    with (tmp_path / "cut.journal").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')  # a line that was being written
    resumed = searched(tmp_path / "cut.journal", 14)
    assert len(resumed.trials) == len(whole.trials) + 1  # the one that was cut off
    assert settings(resumed) == settings(whole) and ended(resumed) == 14
    assert searched(tmp_path / "cut.journal", 14).trials == resumed.trials  # nothing is left to do
    refused = cost_of(whole)["refused"]
    assert refused and all("JPEG" in t.user_attrs["refused"] for t in whole.trials if "refused" in t.user_attrs)
    with pytest.raises(ValueError, match="other settings"):
        open_study(tmp_path / "cut.journal", "x", "others")


def test_a_search_in_which_everything_is_refused_ends(tmp_path):
    def refuse(combination):
        if combination.names:
            raise ValueError("no")
        return invented(combination)

    with pytest.raises(RuntimeError, match="10 combinations were refused; the last: no"):
        searched(tmp_path / "x.journal", 40, refuse)


def make_parameters(backbone, benchmark):
    search = Search(
        guidance_scale=1.0, trials=14, seed=5, loss=2.0, registered=2, tuning=Split(seed=1, prompts=4, seeds=[3]),
        held_out=Split(seed=2, prompts=4, seeds=[4, 5]), lineages={"cogvideox": Lineage(methods=METHODS, focal="focal")},
    )  # fmt: skip
    return Parameters(
        benchmark=Benchmark(folder=benchmark), backbones={"cogvideox-i2v": backbone}, methods={"focal": [FOCAL]}, sweeps={},
        testbed={}, notebooks={}, search=search,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    return make_parameters(cogvideox_backbone(tmp_path_factory.mktemp("model")), ROOT / "testbed/benchmark")


def git(folder, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_only_a_committed_and_unchanged_registration_counts(tmp_path, parameters):
    path = tmp_path / "cogvideox.yaml"
    git(tmp_path, "init", "-q")
    with pytest.raises(ValueError, match=r"no .*register-combinations cogvideox"):
        registration.read_registration(path)
    study = searched(tmp_path / "x.journal", 13)
    with pytest.raises(ValueError, match="13 of 14 trials"):
        registration.register(study, parameters, "cogvideox-i2v", "w", "held_out-k", path)
    study = searched(tmp_path / "x.journal", 14)
    written = registration.register(study, parameters, "cogvideox-i2v", "w", "held_out-k", path)
    with pytest.raises(ValueError, match="not committed"):
        registration.read_registration(path)
    git(tmp_path, "add", path.name)
    git(tmp_path, "commit", "-qm", "registered", "--allow-empty")
    assert registration.read_registration(path) == written
    text = path.read_text()
    path.write_text(text + "# later\n")
    with pytest.raises(ValueError, match="differs from the committed one"):
        registration.read_registration(path)
    path.write_text(text.replace("pairs: 4", "pairs: 5"))
    git(tmp_path, "commit", "-qam", "changed")
    with pytest.raises(ValueError, match="changed since it was written"):
        registration.read_registration(path)


def test_what_is_registered_is_the_best_that_keeps_fidelity(tmp_path, parameters):
    study = searched(tmp_path / "x.journal", 14)
    plain = study.user_attrs["unsteered"]
    chosen = registration.choose(study, 2.0, 2)
    front = [
        t
        for t in study.best_trials
        if t.values[1] >= np.mean(plain[KEPT]) - 2 and t.values[0] > np.mean(plain["adherence"])
    ]
    assert chosen[0].values[0] == max(t.values[0] for t in front) and len(chosen) <= 2
    written = registration.register(study, parameters, "cogvideox-i2v", "w", "k", tmp_path / "x.yaml")
    first = written["settings"][0]
    spread = np.subtract(chosen[0].user_attrs["per prompt"]["adherence"], plain["adherence"])
    assert first["tuning_change"]["adherence"] == pytest.approx(spread.mean(), abs=1e-4)
    # t(0.975, 3) + z(0.8), times the standard error of four prompts
    assert first["detectable"] == pytest.approx((3.18245 + 0.84162) * spread.std(ddof=1) / 2, abs=1e-3)
    with pytest.raises(ValueError, match="nothing to register"):
        registration.choose(study, 1e-9, 2)


def test_prompts_are_new_and_of_all_events_alike():
    whole = load_parameters(ROOT / "params.yaml")
    known = {r["prompt"] for r, _, _ in draw_prompts(Split(seed=3, prompts=8, seeds=[0]), set())}
    again = draw_prompts(Split(seed=3, prompts=40, seeds=[0]), known)
    assert not {r["prompt"] for r, _, _ in again} & known
    assert pd.Series([r["main-category"] for r, _, _ in again]).value_counts().eq(10).all()
    assert {whole.search.tuning.seed, whole.search.held_out.seed, whole.benchmark.seed} == {23, 29, 7}
    assert not set(whole.search.tuning.seeds) & set(whole.search.held_out.seeds)


@pytest.mark.slow
def test_videos_are_made_scored_and_confirmed(tmp_path, parameters, monkeypatch):
    monkeypatch.chdir(ROOT)
    prompts = {s: write_prompts(parameters, s, tmp_path / "prompts") for s in ("tuning", "held_out")}
    given = dict(parameters=parameters, backbone="cogvideox-i2v", runs=tmp_path / "runs")
    own = Combination(("dymos", "jpeg"), ({"input": "jpeg", "quality": 20}, {"method": "dymos", "gamma": 2.0}), 0.0)
    with ThreadPoolExecutor(1) as executor:
        tuning = dict(split=parameters.search.tuning, prompts=prompts["tuning"], executor=executor)
        table = evaluate(own, **given, **tuning)
        assert len(table) == 4 and set(table["main_category"]) == {"addition", "deletion", "modification", "motion"}
        assert table[KEPT].notna().all() and table["asked_px"].notna().sum() == 1
        impossible = Combination(("nag",), ({"method": "nag", "negative_prompt": "all stays still."},), 0.0)
        with pytest.raises(ValueError, match=r"nag: 4 of 4 videos cannot be made.*cross-attention"):
            evaluate(impossible, **given, **tuning)
        change = dict(adherence=0.1, asked_px=1.0) | {KEPT: -0.5}
        setting = {"name": "dymos+jpeg", "parts": list(own.parts), "blur": 0.0, "tuning_change": change}
        weights = "elsewhere"
        held = parameters.search.held_out.model_dump() | {"key": prompts["held_out"].name}
        registered = dict(lineage="cogvideox", backbone="cogvideox-i2v", weights=weights, guidance_scale=1.0,
                          held_out=held, settings=[setting], digest="d")  # fmt: skip
        run = partial(
            confirm, parameters, prompts=prompts["held_out"], runs=tmp_path / "runs", executor=executor, out=tmp_path
        )
        with pytest.raises(ValueError, match=r"weights is .*; what was registered is elsewhere"):
            run(registered=registered)
        from analysis.study.video_key import weights_hash

        registered["weights"] = weights_hash("cogvideox-i2v", parameters.backbones["cogvideox-i2v"])
        found = run(registered=registered)
    assert list(found["passes"]) == [2.0] * 3  # two steps without guidance
    scores = pd.read_csv(tmp_path / "cogvideox-confirmed.csv")
    assert scores.groupby("setting").size().to_dict() == {"dymos+jpeg": 8, UNSTEERED: 8}


def test_shrinkage_is_the_share_of_the_tuning_change_that_is_left():
    plain = invented(Combination((), (), 0.0))
    steered = plain.assign(adherence=np.minimum(1, plain["adherence"] + [1, 0, 0] * 4))
    steered[KEPT] -= 0.5
    change = {"adherence": 0.5, "asked_px": 0.0, KEPT: -1.0}
    table = shrinkage({UNSTEERED: plain, "a": steered}, [{"name": "a", "tuning_change": change}]).set_index("measure")
    raised = (steered["adherence"] - plain["adherence"]).mean()
    assert table.loc["adherence", "kept"] == pytest.approx(raised / 0.5) and table.loc[KEPT, "kept"] == pytest.approx(
        0.5
    )
    assert np.isnan(table.loc["asked_px", "kept"]) and table.loc["asked_px", "n"] == 3
    assert table.loc["adherence", "verdict"] in ("supported", "inconclusive") and table.loc[KEPT, "verdict"] == ""
