"""Recorded sweeps and their summaries, with the shipped checkpoint and few steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_testbed import cogvideox_backbone
from scipy.special import rel_entr

from analysis.attention.recording_summaries import (
    CELL,
    MEASURES,
    TEXT_SHARE,
    compare,
    dominance,
    frame_distance,
    frame_matrix,
    measures,
    read_recording,
    summarise_recordings,
)
from analysis.attention.token_maps import attention_maps
from analysis.scoring.score import score
from analysis.study.cells import expand
from analysis.study.parameters import Parameters, Recorded, load_parameters, sweeps_by_backbone
from analysis.study.results_layout import runs_folder, sweep_folder
from analysis.study.video_files import read_video
from analysis.videos.generate import generate

ROOT = Path(__file__).parent.parent


class InThisProcess:
    """An executor that runs at once."""

    def submit(self, function, *args):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*args))
        return future

    def map(self, function, *arguments, chunksize=1):
        return map(function, *arguments)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Parameters:
    """Two samples, two denoising steps, in an empty folder with the shipped checkpoints and benchmark."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "testbed").mkdir()
    for name in ("checkpoints", "benchmark"):
        (tmp_path / "testbed" / name).symlink_to(ROOT / "testbed" / name)
    parameters = load_parameters(ROOT / "params.yaml")
    backbones = {name: b.model_copy(update={"steps": 2, "frames": 9}) for name, b in parameters.backbones.items()}
    small = parameters.sweeps["twin-i2v"].model_copy(
        update={"samples": 2, "methods": ["none", "dymos-1"], "record": Recorded(frames=True, groups=True, norm=True)}
    )
    sweeps = {
        "twin-t2v": small.model_copy(update={"backbone": "wan-t2v", "methods": ["none"], "reference": "own"}),
        "twin-i2v": small,
        "plain": small.model_copy(update={"record": None}),
    }
    return parameters.model_copy(update={"backbones": backbones, "sweeps": sweeps})


def test_recorded_sweeps_from_references_to_summaries(study):
    runs = {name: runs_folder(study, name) for name in study.sweeps}
    for sweep in ("twin-t2v", "twin-i2v", "plain"):
        assert generate(study, sweep, InThisProcess()) == 0
    twins, cells = expand(study, "twin-t2v"), expand(study, "twin-i2v")
    assert [c.image for c in cells] == [c.key for c in twins] * 2  # references are the twin's first frames
    # Recording changes no pixel, and steering does.
    plain = {(c.method, c.sample): read_video(runs["plain"] / f"{c.key}.mkv") for c in expand(study, "plain")}
    for cell in cells:
        assert np.array_equal(read_video(runs["twin-i2v"] / f"{cell.key}.mkv"), plain[cell.method, cell.sample])
    sample = cells[0].sample
    assert not np.array_equal(plain["none", sample], plain["dymos-1", sample])
    # Made again, the recording has the same bytes.
    recording = runs["twin-i2v"] / f"{cells[0].key}.csv.gz"
    before = recording.read_bytes()
    (runs["twin-i2v"] / f"{cells[0].key}.mkv").unlink()
    generate(study, "twin-i2v", InThisProcess())
    assert recording.read_bytes() == before
    assert before[3:8] == bytes(5)  # neither a name nor a time in the header: they would differ in another process
    # Summaries.
    out = sweep_folder(study, "twin-i2v")
    summarise_recordings(study, "twin-i2v")
    raw = read_recording(recording)
    table = pd.read_csv(out / "attention-cells.csv", keep_default_na=False)
    one = table[(table["sample"] == sample) & (table["method"] == "none") & (table["window"] == "all")]
    expected = raw.query("site == 'self' and statistic == 'mass' and key == 'reference' and query_frame > 0")[
        "value"
    ].mean()
    wide = measures(one, CELL)
    assert wide[MEASURES["self", "mass", "reference"]][0] == pytest.approx(expected, rel=1e-3)
    assert 0 < wide[TEXT_SHARE][0] < 1
    frames = pd.read_csv(out / "attention-frames.csv")
    chosen = frames[(frames["sample"] == sample) & (frames["window"] == "early")].groupby("method")
    matrices = {name: frame_matrix(part) for name, part in chosen}
    assert matrices["none"].shape == (3, 3) and np.allclose(matrices["none"].sum(1), 1)
    assert dominance(matrices["dymos-1"]) < dominance(matrices["none"])
    # Scored against the reference that was given, not the benchmark's.
    assert score(study, "twin-i2v", InThisProcess())["first_psnr"].notna().all()
    # A video whose recording is lost is named.
    recording.unlink()
    with pytest.raises(ValueError, match=recording.name):
        summarise_recordings(study, "twin-i2v")
    with pytest.raises(ValueError, match="no `record`"):
        summarise_recordings(study, "plain")


def test_maps_are_the_masses_that_are_recorded(study):
    generate(study, "twin-t2v", InThisProcess())
    generate(study, "twin-i2v", InThisProcess())
    table = attention_maps(study, "twin-i2v", InThisProcess(), samples=1, out=Path("results/maps.csv"))
    cell = expand(study, "twin-i2v")[0]
    raw = read_recording(runs_folder(study, "twin-i2v") / f"{cell.key}.csv.gz").query("statistic == 'mass'")
    for name, site, key in (("words", "text", "text"), ("reference", "self", "reference")):
        recorded = raw[(raw["site"] == site) & (raw["key"] == key)].groupby("query_frame")["value"].mean()
        drawn = table[table["method"] == "none"].groupby("frame")[name].mean()
        assert np.allclose(drawn, recorded, rtol=1e-3)


@pytest.fixture
def joint(study, tmp_path) -> Parameters:
    """The twins of `study`, on random CogVideoX models."""
    backbones = {f"joint-{k}2v": cogvideox_backbone(tmp_path / k, image_to_video=k == "i") for k in "ti"}
    record = Recorded(frames=True, groups=True, entropy=True, largest=True, norm=True)
    sweeps = {
        f"joint-twin-{k}2v": study.sweeps[f"twin-{k}2v"].model_copy(
            update={"backbone": f"joint-{k}2v", "record": record}
        )
        for k in "ti"
    }
    sweeps["joint-twin-i2v"] = sweeps["joint-twin-i2v"].model_copy(update={"reference": "joint-twin-t2v"})
    return study.model_copy(update={"backbones": study.backbones | backbones, "sweeps": study.sweeps | sweeps})


def test_joint_recordings_are_summarised(joint):
    for sweep in ("joint-twin-t2v", "joint-twin-i2v"):
        assert generate(joint, sweep, InThisProcess()) == 0
        summarise_recordings(joint, sweep)
    cells = expand(joint, "joint-twin-i2v")
    assert [c.image for c in cells] == [c.key for c in expand(joint, "joint-twin-t2v")] * 2
    cell = next(c for c in cells if c.method == "none")
    raw = read_recording(runs_folder(joint, "joint-twin-i2v") / f"{cell.key}.csv.gz")
    assert set(raw["branch"]) == {"cond"} and set(raw["site"]) == {"joint"} and raw["value"].notna().all()
    # Attention between frames is a share of what does not go to text.
    place = ["step", "block", "query_frame"]
    text = raw.query("statistic == 'mass' and key == 'text'").set_index(place)["value"]
    between = raw[raw["statistic"] == "frame_mass"].set_index([*place, "key"])["value"].unstack()
    share = between.div(1 - text, axis=0)
    assert text.min() > 0.01 and np.allclose(share.sum(axis=1), 1, atol=1e-4)
    frames = pd.read_csv(sweep_folder(joint, "joint-twin-i2v") / "attention-frames.csv").query(
        "method == 'none' and window == 'all'"
    )
    matrix = frame_matrix(frames[frames["sample"] == cell.sample])
    assert np.allclose(matrix, share.groupby("query_frame").mean(), atol=1e-4)
    steps = pd.read_csv(
        sweep_folder(joint, "joint-twin-i2v") / "attention-steps.csv", dtype={"block": str}, keep_default_na=False
    )
    found = steps.query("method == 'none' and statistic == 'frame_mass' and key == '0'").set_index(["step", "block"])
    other = next(c for c in cells if c.method == "none" and c.sample != cell.sample)
    second = read_recording(runs_folder(joint, "joint-twin-i2v") / f"{other.key}.csv.gz").query(
        "statistic == 'frame_mass'"
    )
    second = second.set_index([*place, "key"])["value"].unstack()
    shares = [s.div(s.sum(axis=1), axis=0)["0"].drop(0, level="query_frame") for s in (between, second)]
    expected = (sum(shares) / 2).groupby(["step", "block"]).mean()
    assert np.allclose(found["value"].sort_index(), expected.sort_index(), rtol=1e-3)
    # One softmax: its parts sum to 1.
    table = pd.read_csv(sweep_folder(joint, "joint-twin-i2v") / "attention-cells.csv", keep_default_na=False)
    wide = measures(table[table["window"] == "all"], CELL)
    assert np.allclose(wide[[f"{n} in joint attention" for n in ("text", "reference", "other frames")]].sum(axis=1), 1)
    assert {MEASURES["joint", s, ""] for s in ("entropy", "conditioning_entropy", "largest")} <= set(wide.columns)
    twin = measures(
        pd.read_csv(sweep_folder(joint, "joint-twin-t2v") / "attention-cells.csv", keep_default_na=False),
        [*CELL, "window"],
    )
    assert "reference in joint attention" not in twin.columns
    # The maps are the same masses, per token.
    maps = attention_maps(joint, "joint-twin-i2v", InThisProcess(), samples=1, out=Path("results/maps.csv"))
    for name, key in (("words", "text"), ("reference", "reference")):
        recorded = raw[(raw["statistic"] == "mass") & (raw["key"] == key)].groupby("query_frame")["value"].mean()
        drawn = maps[maps["method"] == "none"].groupby("frame")[name].mean()
        assert np.allclose(drawn, recorded, rtol=1e-3)


def test_a_study_has_a_sweep_per_backbone(joint):
    assert sweeps_by_backbone(joint, "twin-i2v") == {"wan-i2v": "twin-i2v", "joint-i2v": "joint-twin-i2v"}
    assert sweeps_by_backbone(joint, "plain") == {"wan-i2v": "plain"} and sweeps_by_backbone(joint, "no") == {}


def test_keys_follow_what_is_done(study):
    none, steered = (next(c for c in expand(study, "plain") if c.method == m) for m in ("none", "dymos-1"))
    recorded = expand(study, "twin-i2v")[0]
    assert len({none.key, steered.key, recorded.key}) == 3
    assert none.code == "" and steered.code != "" and recorded.code != ""
    renamed = study.model_copy(update={"methods": {"none": [], "dymos-1": study.methods["dymos-2"]}})
    assert next(c for c in expand(renamed, "plain") if c.method == "dymos-1").key != steered.key
    wrong = study.model_copy(update={"methods": {"none": [], "dymos-1": [{"method": "dymos", "gama": 1}]}})
    with pytest.raises(ValueError, match="gama"):
        expand(wrong, "plain")
    fewer = study.sweeps["twin-t2v"].model_copy(update={"samples": 1})
    with pytest.raises(ValueError, match="twin-t2v has no video"):
        expand(study.model_copy(update={"sweeps": study.sweeps | {"twin-t2v": fewer}}), "twin-i2v")


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_distance_is_the_jensen_shannon_divergence(frames, seed):
    a, b = np.random.default_rng(seed).dirichlet(np.ones(frames), (2, frames))
    middle = (a + b) / 2
    rows = (rel_entr(a, middle).sum(1) + rel_entr(b, middle).sum(1)) / 2
    assert math.isclose(frame_distance(a, b), rows[1:].mean(), abs_tol=1e-12)
    assert frame_distance(a, a) == pytest.approx(0, abs=1e-12)
    one, other = np.eye(frames), np.roll(np.eye(frames), 1, axis=1)
    assert frame_distance(one, other) == pytest.approx(math.log(2))


def test_comparisons_are_ratios_with_their_tests():
    name, rng = MEASURES["text", "entropy", ""], np.random.default_rng(0)
    first = pd.DataFrame({"sample": [f"s{i}" for i in range(20)], "seed": 0, name: rng.uniform(1, 2, 20)})
    second = first.assign(**{name: first[name] * 0.9})
    row = compare(first, second).iloc[0]
    assert row["mean"] == pytest.approx(0.9) and row["high"] - row["low"] < 1e-9 and row["p"] < 1e-4 and row["n"] == 20
