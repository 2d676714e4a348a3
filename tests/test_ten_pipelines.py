"""Whole pipelines, steered and recorded: neutral and recorded runs are bit-identical, and nothing stays behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from PIL import Image
from tiny_pipelines import PIPELINES, build, video

from methods import AlignVid, DyMoS, LowPassGuidance, record, steer
from methods.core.attention_call import AttentionCall

STEPS = 3
METHODS = [AlignVid(1.5, window=(0, 0.7), blocks="all"), DyMoS(1.5, window=(0, 0.7))]


def methods_for(name, methods):
    return [m for m in methods if not name.endswith("t2v") or not isinstance(m, DyMoS)]


def attributes(pipe):
    return {
        (part, name): set(module.__dict__)
        for part, root in pipe.components.items()
        if isinstance(root, torch.nn.Module)
        for name, module in root.named_modules()
    }


def run(pipe, inputs):
    out = video(pipe, inputs, STEPS)
    return out if isinstance(out, torch.Tensor) else out[-1]  # FramePack lists the video as it grows


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_steered_recorded_and_itself_again(name):
    pipe, inputs = build(name)
    run(pipe, inputs)  # pipelines set attributes of their models in their first run
    before, plain = attributes(pipe), run(pipe, inputs)
    neutral = methods_for(name, [AlignVid(1.0, window="all"), DyMoS(0.0)])
    with steer(pipe, *neutral), record(pipe, frames=True, queries=2) as recording:
        assert torch.equal(run(pipe, inputs), plain)
    with steer(pipe, *methods_for(name, METHODS)):
        steered = run(pipe, inputs)
        assert torch.equal(run(pipe, inputs), steered)  # the second video of a context starts at step 0 again
    assert steered.isfinite().all() and not torch.equal(steered, plain)
    assert torch.equal(run(pipe, inputs), plain)
    assert attributes(pipe) == before
    table = recording.to_frame()
    assert set(table.step) == set(range(STEPS)) and set(table.steps) == {STEPS}
    assert set(table.branch) == {"cond", "uncond"}
    mass = table[table.statistic == "mass"]
    total = mass.groupby(["step", "block", "branch", "site", "query_frame"]).value.sum()
    assert (total - 1).abs().max() < 1e-5
    sections = 2 if name.startswith(("framepack", "helios")) else 1  # 17 or 18 frames in windows of 3 latent frames
    assert set(table.samples) == {sections}


@pytest.mark.parametrize("name", [n for n in PIPELINES if not n.startswith(("hunyuan", "framepack"))])
def test_without_guidance_every_call_is_conditional(name):
    pipe, inputs = build(name)
    with record(pipe, queries=2) as recording:
        run(pipe, inputs | {"guidance_scale": 1.0})
    table = recording.to_frame()
    assert set(table.branch) == {"cond"}
    total = table[table.statistic == "mass"].groupby(["step", "block", "site", "query_frame"]).value.sum()
    assert (total - 1).abs().max() < 1e-5


@pytest.mark.parametrize("name", [n for n in PIPELINES if not n.endswith("t2v")])
def test_only_what_a_method_names_is_changed(name, monkeypatch):
    """DyMoS touches the conditional branch in the first steps; AlignVid both branches in its window."""
    pipe, inputs = build(name)
    seen = []
    plain = AttentionCall.compute

    def compute(self):
        seen.append(self)
        return plain(self)

    monkeypatch.setattr(AttentionCall, "compute", compute)
    with steer(pipe, DyMoS(1.0, window=(0, 0.34))):
        run(pipe, inputs)
    batched = name.startswith(("cogvideox", "ltx"))
    assert {(c.context.step, c.context.branch) for c in seen} == {(0, "both" if batched else "cond")}
    count = seen[0].query.shape[0]
    assert all(c.conditional() == slice(count // 2 if batched else 0, count) for c in seen)
    size = seen[0].layout.grid[1] * seen[0].layout.grid[2]
    assert seen[0].layout.grid[1:] == (2, 3) and all(c.reference.stop - c.reference.start == size for c in seen)
    seen.clear()
    with steer(pipe, AlignVid(1.2, window=(0, 0.7), blocks=[0])):
        run(pipe, inputs)
    assert {c.context.step for c in seen} == {0, 1} and {c.block.index for c in seen} == {0}
    assert {c.context.branch for c in seen} == ({"both"} if batched else {"cond", "uncond"})
    if name == "hunyuan-token-replace":  # 36 tokens, every 4th; the negative prompt has every 2nd
        found = {(c.context.branch, int(c.keys.where("image").sum())) for c in seen}
        assert found == {("cond", 9), ("uncond", 18)}
    if name == "hunyuan-latent-concat":
        assert {int(c.keys.where("image").sum()) for c in seen} == {18}


def test_both_experts_of_wan_2_2_are_steered():
    pipe, inputs = build("wan2.2-a14b")
    for expert in (pipe.transformer, pipe.transformer_2):
        calls = []
        handle = expert.register_forward_hook(lambda *_, c=calls: c.append(1))
        plain = run(pipe, inputs)
        handle.remove()
        assert calls  # the boundary lies between the steps
    with steer(pipe, AlignVid(1.5, window=(0.9, 1))):
        late = run(pipe, inputs)
    with steer(pipe, AlignVid(1.5, window=(0, 0.4))):
        early = run(pipe, inputs)
    assert not torch.equal(late, plain) and not torch.equal(early, plain)


LOW_PASS = ["wan2.1-i2v", "wan2.2-5b", "wan2.2-a14b", "hunyuan-token-replace", "hunyuan-latent-concat", "cogvideox-i2v"]


@pytest.mark.parametrize("space", ["latent", "image"])
@pytest.mark.parametrize("name", LOW_PASS)
def test_low_pass_guidance_runs_in_pipelines(name, space, monkeypatch):
    pipe, inputs = build(name)
    method = LowPassGuidance(
        factor=0.4, space=space, window=("position", 0, 0.5), guidance=3.0 if name.startswith("hunyuan") else None  # which does not tell
    )  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    inputs["image"] = Image.fromarray(noise)
    plain = run(pipe, inputs)
    with steer(pipe, method):
        filtered = run(pipe, inputs)
        assert torch.equal(run(pipe, inputs), filtered)
        with monkeypatch.context() as m:  # with a filter that keeps the image, three passes equal two
            m.setattr(LowPassGuidance, "_filter", lambda self, x, strength: x)
            assert torch.allclose(run(pipe, inputs), plain, atol=1e-4)
    assert filtered.isfinite().all() and not torch.allclose(filtered, plain, atol=1e-3)
    assert torch.equal(run(pipe, inputs), plain) and "prepare_latents" not in vars(pipe)


def test_filtering_the_image_needs_a_pipeline():
    model, _ = make("wan2.1-i2v")
    with pytest.raises(ValueError, match="steer a pipeline"), steer(model, LowPassGuidance(space="image")):
        pass


# --- Offloading ------------------------------------------------------------------------------------------------------
def offload(pipe, how):
    if how == "sequential":  # what enable_sequential_cpu_offload does, without an accelerator
        from accelerate import cpu_offload

        cpu_offload(pipe.transformer, "cpu")
    else:
        pipe.transformer.enable_group_offload(
            onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=how,
            **({"num_blocks_per_group": 1} if how == "block_level" else {}),
        )  # fmt: skip


@pytest.mark.parametrize("when", ["before", "inside"])
@pytest.mark.parametrize("how", ["sequential", "block_level", "leaf_level"])
@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "ltx-2"])
def test_offloading_neither_loses_nor_keeps_the_steering(name, how, when):
    pipe, inputs = build(name)
    plain = run(pipe, inputs)
    with steer(pipe, *METHODS):
        expected = run(pipe, inputs)
    if when == "before":
        offload(pipe, how)
    with steer(pipe, *METHODS):
        if when == "inside":
            offload(pipe, how)
        assert torch.equal(run(pipe, inputs), expected)
    assert torch.equal(run(pipe, inputs), plain)


def test_the_reference_of_ltx_is_told_by_its_time_and_images_for_later_frames_stand_apart():
    """The tokens whose time the pipeline sets to 0 are those that the layout calls the reference."""
    pipe, inputs = build("ltx-condition")
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.append(k["timestep"]), with_kwargs=True)
    with steer(pipe, AlignVid(1.2, sites=("self",), window="all", blocks=[0])), pytest.MonkeyPatch.context() as patch:
        layouts, plain = [], AttentionCall.compute
        patch.setattr(AttentionCall, "compute", lambda self: (layouts.append(self), plain(self))[1])
        run(pipe, inputs)
    handle.remove()
    assert len(layouts) == len(seen) == STEPS
    for call, time in zip(layouts, seen, strict=True):
        assert call.reference == slice(6, 12) and call.layout.grid == (2, 2, 3)
        assert ((time[-1] == 0) == call.keys.where("reference")[0]).all()
        assert call.keys.where("history")[0].tolist() == [True] * 6 + [False] * 12


def test_a_method_that_needs_a_reference_is_refused_where_a_pipeline_gives_none():
    pipe, _ = build("ltx-t2v")
    with pytest.raises(ValueError, match="needs a reference frame"), steer(pipe, DyMoS(1.0)):
        pass


def test_ltx_2_names_its_further_passes_its_words_and_the_attention_that_it_perturbs_away():
    pipe, inputs = build("ltx-2")
    plain = run(pipe, inputs)
    inputs |= {"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1], "modality_scale": 3.0}
    seen, compute = [], AttentionCall.compute
    method = AlignVid(1.5, sites=("self", "k_text"), window="all", blocks="all")
    with steer(pipe, method) as steering, record(pipe) as recording, pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionCall, "compute", lambda self: (seen.append(self), compute(self))[1])
        steered = run(pipe, inputs)
    assert not torch.equal(steered, plain)
    # [uncond, cond] in one batch, then two passes over the condition; in one of them a block's self-attention is perturbed away.
    assert {(c.context.branch, c.context.extra) for c in seen} == {
        ("both", None), ("cond", "uncond_stg"), ("cond", "uncond_modality")
    }  # fmt: skip
    away = {(c.context.extra, c.block.index, c.site) for c in seen}
    assert (
        ("uncond_stg", 1, "self") not in away
        and ("uncond_stg", 1, "text") in away
        and ("uncond_stg", 0, "self") in away
    )
    assert set(recording.to_frame().branch) == {"cond", "uncond", "uncond_stg", "uncond_modality"}
    assert {"uncond_stg", "uncond_modality"} <= set(steering.report().to_frame().branch)
    # "a cat dances", "blurry cat dances a cat" and the end of the text each; registers follow.
    for call in seen:
        if call.site == "text":
            words = call.keys.where("text").sum(1).expand(call.query.shape[0]).tolist()
            assert words == ([6, 4] if call.context.branch == "both" else [4])
            assert (~call.keys.where("text") == call.keys.where("text_padding")).all()
    for block in pipe.transformer.transformer_blocks:  # nothing of ours is left, on the sound's attentions least of all
        assert not [m for m in block.modules() if "forward" in vars(m)]
    from methods.families.ltx2 import WORDS

    assert pipe.transformer not in WORDS and not pipe.connectors._forward_pre_hooks
