"""Enhance-A-Video against its formula in float64, the released code's numbers, and in pipelines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from families import FAMILIES, IMAGE_TO_VIDEO, forward, make, options
from guided_steps import Watcher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_exactness import close
from tiny_pipelines import build, video

from methods import AlignVid, DyMoS, EnhanceAVideo, PerturbedAttentionGuidance, record, steer
from methods.enhance_a_video import cross_frame_intensity

RELEASED = json.loads((Path(__file__).parent / "data" / "released_guidances.json").read_text())["EnhanceAVideo"]


@pytest.mark.parametrize("name", FAMILIES)
@given(
    grid=st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 4)),
    batch=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    weight=st.floats(0, 12),
)
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_outputs_of_the_video_grow_by_the_formula(name, grid, batch, dtype, weight):
    model, inputs = make(name, dtype, batch, grid)
    others = [AlignVid(1.3, window="all", blocks="all")]
    others += [DyMoS(1.0, window="all")] if name in IMAGE_TO_VIDEO else []
    watcher = Watcher()
    with steer(model, *others, EnhanceAVideo(weight), watcher, steps=10, **options(name)):
        forward(model, inputs)
    size, checked = grid[1] * grid[2], 0
    for call, out in watcher.seen:
        if call.site not in ("self", "joint"):
            continue
        expected, checked = call.compute().double(), checked + 1
        rows = [i for i, f in enumerate(call.queries.frames.tolist()) if f >= 0]
        for sample in range(batch):
            intensity = []
            for head in range(call.query.shape[1]):
                q, k = (x[sample, head, rows].double() for x in (call.query, call.key))
                for place in range(size):
                    p = (call.scale * q[place::size] @ k[place::size].T).softmax(-1)
                    intensity += [p[i, j] for i in range(grid[0]) for j in range(grid[0]) if i != j]
            expected[sample, :, rows] *= max(1.0, float(torch.stack(intensity).mean()) * (grid[0] + weight))
        close(out, expected, dtype)
    assert checked


def test_the_intensity_is_that_of_the_released_code():
    for case in RELEASED["cases"]:
        query, key = (torch.tensor(case[n], dtype=torch.float64) for n in ("query", "key"))
        found = cross_frame_intensity(query, key, case["frames"], query.shape[-1] ** -0.5)
        assert max(1.0, float(found) * (case["frames"] + case["weight"])) == pytest.approx(case["score"], abs=1e-6)


@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "hunyuan-1.5", "framepack"])
def test_a_pipeline_is_enhanced_and_itself_again(name):
    pipe, inputs = build(name)
    run = lambda: (lambda v: v if isinstance(v, torch.Tensor) else v[-1])(video(pipe, inputs, 2))  # noqa: E731
    plain = run()
    with steer(pipe, EnhanceAVideo(-1.0)):
        assert torch.equal(run(), plain)
    with steer(pipe, EnhanceAVideo(6.0, window=(0.9, 1), blocks=[1])) as steering, record(pipe, norm=True) as recording:
        assert not torch.equal(run(), plain)
    table = steering.report().to_frame()
    acted = table[table.acted > 0]
    assert set(acted.step) == {1} and set(acted.block) == {dict(enumerate(table.block.unique()))[1]}
    assert recording.to_frame().value.notna().all()
    handle = pipe.transformer.proj_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), steer(pipe, EnhanceAVideo(6.0)):
        run()
    handle.remove()
    assert torch.equal(run(), plain)


def test_it_acts_in_the_perturbed_pass_too():
    pipe, inputs = build("wan2.1-i2v")
    with steer(pipe, EnhanceAVideo(6.0), PerturbedAttentionGuidance(1.0, blocks=[1])) as steering:
        video(pipe, inputs, 1)
    table = steering.report().to_frame()
    assert set(table[(table.acted > 0) & (table.method == "EnhanceAVideo")].branch) == {"cond", "uncond", "pag"}


def test_bad_settings_and_a_single_frame_are_refused():
    for bad, words in (({"weight": math.inf}, "weight must be a finite number"), ({"window": "soon"}, "window 'soon'")):
        with pytest.raises(ValueError, match=words):
            EnhanceAVideo(**bad)
    with pytest.raises(ValueError, match="no block 99"), steer(make("wan-t2v")[0], EnhanceAVideo(blocks=[99])):
        pass
    model, inputs = make("wan-t2v", grid=(1, 2, 3))
    with pytest.raises(ValueError, match="this video has one only"), steer(model, EnhanceAVideo(), branches=("cond",)):
        forward(model, inputs)
