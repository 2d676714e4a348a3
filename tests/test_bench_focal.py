"""The cost of Focal Guidance: operations counted from shapes are those that torch counts, and the benchmark's table."""

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from analysis.bench.focal_guidance_cost import (
    ANCHORS,
    PLAIN,
    WAN_14B,
    Shapes,
    bench_focal,
    focal_operations,
    forward_operations,
    shares,
    step_inputs,
)
from analysis.study.parameters import load_parameters
from methods import FocalGuidance, steer

CLIP, CHECKPOINT = "testbed/checkpoints/clip", "testbed/checkpoints/wan-i2v"
WEAK = (1, 4, 7)
PARTS = {
    "text": dict(text=True, latent=False, cache=False), "latent": dict(text=False, latent=True, cache=False),
    "cache": dict(text=False, latent=False, cache=True), "all": dict(text=True, latent=True, cache=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return WanImageToVideoPipeline.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def shapes(pipe):
    c = pipe.transformer.config
    return Shapes(
        frames=3, rows=8, columns=8, width=c.num_attention_heads * c.attention_head_dim, ffn=c.ffn_dim,
        layers=c.num_layers, text_dim=c.text_dim, image_dim=c.image_dim, freq_dim=c.freq_dim, in_channels=c.in_channels,
        out_channels=c.out_channels, patch=1, image=65,
    )  # fmt: skip


def counted(pipe, guidance=None):
    """(operations of the second step by torch's counter, which does not know the fused attention of CPUs; keywords)."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    methods = [guidance] if guidance is not None else []
    with steer(pipe, *methods), torch.no_grad():
        inputs = step_inputs(pipe, image, "a red circle. the red circle turns blue.", 9)
        words = guidance.anchors(pipe).words if guidance is not None else ()
        for time in (900.0, 800.0):
            counter = FlopCounterMode(display=False)
            with counter, sdpa_kernel(SDPBackend.MATH), pipe.transformer.cache_context("cond"):
                pipe.transformer(**inputs, timestep=torch.tensor([time]))
    return counter.get_total_flops(), len(words)


def test_operations_from_shapes_are_those_that_torch_counts(pipe, shapes):
    plain, _ = counted(pipe)
    assert plain == forward_operations(shapes)
    for on in PARTS.values():
        strengths = {part: 0.5 * used for part, used in on.items()}
        steered, words = counted(pipe, FocalGuidance(CLIP, weak=WEAK, select=-1.0, **strengths))
        assert words > 4
        assert steered - plain == focal_operations(shapes, words, len(WEAK), **on)


def test_nothing_on_adds_nothing(shapes):
    assert focal_operations(shapes, 9, 3, text=False, latent=False, cache=False) == 0
    assert WAN_14B.tokens == 32760
    table = shares(WAN_14B, 16, [5, 10])
    assert (table.loc["all parts"] > table.loc["attention cache"]).all()
    assert np.allclose(table["10 keywords"], 2 * table["5 keywords"])


def test_the_benchmark_writes_a_row_per_part(tmp_path, monkeypatch):
    from pathlib import Path

    parameters, home = load_parameters(), Path.cwd()
    backbone = parameters.backbones["wan-i2v"].model_copy(update={"frames": 5, "checkpoint": str(home / CHECKPOINT)})
    focal = [parameters.methods["focal-full"][0] | {"clip": str(home / CLIP)}]
    benchmark = parameters.benchmark.model_copy(update={"folder": home / parameters.benchmark.folder})
    parameters = parameters.model_copy(
        update={"backbones": {"wan-i2v": backbone}, "methods": {"focal-full": focal}, "benchmark": benchmark}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    table = bench_focal(parameters, repeats=2)
    assert (tmp_path / "results/bench/focal-cpu.csv").is_file()
    assert list(table["setting"][[0, len(table) - 1]]) == [PLAIN, ANCHORS] and len(table) == 7
    assert (table["ms"] > 0).all() and table["ratio"][0] == 1.0
