"""The benchmarks compare things that compute the same, measure what they say, and write well-formed tables."""

import pandas as pd
import pytest
import torch

from analysis.bench.attention_cost import bench_attention, build, dense_mask, flex
from analysis.bench.recording_cost import (
    EXPLICIT,
    PLAIN,
    RECORDED,
    bench_recording,
    explicit_map,
    peak_bytes,
    recorded,
    self_attention_call,
)
from methods import DyMoS, steer

GRIDS = [(3, 2, 4), (3, 4, 4)]


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    """In an empty folder, as on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_compared_implementations_agree():
    grid = (3, 2, 4)
    model, inputs = build(grid, "cpu", torch.float32)
    with torch.inference_mode():
        plain = model(**inputs)[0]
        with steer(model, DyMoS(0.6, window="all")):
            merged = model(**inputs)[0]
        for other in (dense_mask(24, 8, 0.6, "cpu", torch.float32), flex(24, 8, 0.6)):
            with other:
                assert torch.allclose(model(**inputs)[0], merged, atol=1e-5)
    assert not torch.allclose(plain, merged, atol=1e-3)


def test_the_explicit_map_gives_the_recorded_statistics():
    call = self_attention_call((3, 4, 5), "cpu", torch.float32, heads=2, size=16)
    (out, found), (exact_out, exact) = recorded(call), explicit_map(call)
    assert set(found) == set(exact) == {("mass", "reference"), ("mass", "video"), ("entropy", "")}
    assert torch.allclose(out, exact_out, atol=1e-5)
    for name, value in exact.items():
        assert value.shape == (1, 2, 60)
        assert torch.allclose(found[name], value, atol=1e-5), name


def test_peak_memory_sees_the_map():
    call = self_attention_call((4, 8, 32), "cpu", torch.float32, heads=2, size=16)
    one_map = 4 * 2 * 1024**2
    with torch.inference_mode():
        assert peak_bytes(lambda: explicit_map(call), "cpu") >= one_map
        assert peak_bytes(lambda: recorded(call), "cpu") < one_map / 2
    assert 4000 <= peak_bytes(lambda: torch.ones(1000) + 1, "cpu") < 100_000


def test_attention_is_benchmarked(on_cpu):
    table = bench_attention(repeats=1, grids=GRIDS)
    written = pd.read_csv("results/bench/attention-cpu.csv")
    assert list(written) == list(table) and len(written) == len(table) == 2 * table["setting"].nunique()
    assert set(written["tokens"]) == {24, 48} and written["device"].str.endswith("cores").all()
    assert (written["ms"] > 0).all() and (written.loc[written["setting"] == "plain", "ratio"] == 1).all()
    assert ((written["ratio_low"] <= written["ratio"]) & (written["ratio"] <= written["ratio_high"])).all()


def test_recording_is_benchmarked(on_cpu):
    bench_recording(repeats=1, grids=GRIDS)
    written = pd.read_csv("results/bench/recording-cpu.csv")
    assert written["way"].tolist() == 2 * [PLAIN, RECORDED, EXPLICIT]
    assert (written["ms"] > 0).all() and (written["peak_mb"] > 0).all() and written["reason"].isna().all()
    assert (written.loc[written["way"] == PLAIN, "ratio"] == 1).all()


def test_a_map_that_does_not_fit_is_left_out_and_says_so(on_cpu, monkeypatch):
    monkeypatch.setattr("analysis.bench.recording_cost.free_bytes", lambda device: 1000)
    row = bench_recording(repeats=1, grids=GRIDS[:1]).set_index("way").loc[EXPLICIT]
    assert pd.isna(row["ms"]) and pd.isna(row["peak_mb"]) and "more than is free" in row["reason"]
