"""What keeps a method from acting, or makes it act where it should not, raises or is done right; it is never silent."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXFunControlPipeline,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SmoothedEnergyGuidance,
    SmoothedEnergyGuidanceConfig,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanVideoToVideoPipeline,
)
from families import FAMILIES, IMAGE_TO_VIDEO, forward, make, options
from PIL import Image
from tiny_pipelines import build, video

from methods import AlignVid, DyMoS, LowPassGuidance, record, steer
from methods.core import log_sum_exp
from methods.core.attention_call import AttentionCall

ALWAYS = AlignVid(1.5, window="all", blocks="all")


def broadcast(pipe):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, cross_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001), cross_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )  # fmt: skip


def mag_cache(ratio=1.0, **settings):
    settings = dict(threshold=0.5, num_inference_steps=12, retention_ratio=0.1, max_skip_steps=20) | settings
    return MagCacheConfig(mag_ratios=[ratio] * 12, **settings)


# --- Something keeps a method from acting ----------------------------------------------------------------------------
def test_a_cache_that_is_taken_off_inside_takes_no_steering_along_unnoticed():
    pipe, inputs = build("wan2.1-i2v")
    pipe.transformer.enable_cache(broadcast(pipe))
    with steer(pipe, ALWAYS):
        with pytest.raises(RuntimeError, match="pyramid_attention_broadcast"):
            video(pipe, inputs)
        pipe.transformer.disable_cache()
        with pytest.raises(
            RuntimeError, match="block 0 was passed over in step 0, where AlignVid had to act: the forward"
        ):
            video(pipe, inputs)
    plain = video(pipe, inputs)
    with steer(pipe, ALWAYS):
        assert not torch.equal(video(pipe, inputs), plain)


@pytest.mark.parametrize("cache", [mag_cache(), FirstBlockCacheConfig(threshold=0.5)], ids=["mag", "first-block"])
def test_a_cache_that_skips_the_blocks_of_a_method_is_noticed(cache):
    pipe, inputs = build("wan2.1-i2v")
    pipe.transformer.enable_cache(cache)
    late, silent = AlignVid(3.0, window="late", blocks=[3]), r"passed over .* AlignVid had to act: a cache"
    with pytest.raises(RuntimeError, match=silent), steer(pipe, late):
        video(pipe, inputs, 12)


def test_a_forward_that_another_library_puts_back_is_noticed():
    model, inputs = make("wan2.1-i2v")
    with steer(model, ALWAYS):
        del model.blocks[2].attn1.__dict__["forward"]
        with steer(model, AlignVid(2.0, window="all", blocks=[1])):  # acts elsewhere, but the outer one is off
            pass
        forward(model, inputs)  # self-attention, where AlignVid does not act by default
        del model.blocks[2].attn2.__dict__["forward"]
        with pytest.raises(RuntimeError, match="block 2 was passed over"):
            forward(model, inputs)


def test_a_transformer_that_is_replaced_inside_is_noticed():
    pipe, inputs = build("wan2.1-i2v")
    with pytest.raises(RuntimeError, match=r"pipe\.transformer replaced"), steer(pipe, ALWAYS):
        pipe.transformer = copy.deepcopy(pipe.transformer)
        video(pipe, inputs)


def test_a_pipeline_call_in_which_a_method_never_acts_ends_with_an_error():
    pipe, inputs = build("wan2.1-i2v")
    method = AlignVid(1.5, window=("noise", 0.7, 0.5))
    with steer(pipe, method), pytest.raises(RuntimeError, match=r"AlignVid never acted in this run of 3 steps.*noise"):
        video(pipe, inputs)
    plain = video(pipe, inputs)
    with steer(pipe, method, allow_inactive=True) as steering:
        assert torch.equal(video(pipe, inputs), plain)
    assert "AlignVid: never acted, in 72 attention calls" in str(steering.report())
    with steer(pipe, AlignVid(1.0), DyMoS(0.0), LowPassGuidance(factor=1.0)):  # neutral: nothing was asked
        assert torch.equal(video(pipe, inputs), plain)
    model, tiny = make("wan2.1-i2v")
    with pytest.warns(UserWarning, match="AlignVid never acted"), steer(model, AlignVid(1.5, window="late"), steps=10):
        forward(model, tiny)


def test_video_to_video_counts_the_steps_that_are_made():
    p, _ = build("wan-t2v")
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanVideoToVideoPipeline(p.tokenizer, p.text_encoder, p.transformer, p.vae, flow)
    pipe.set_progress_bar_config(disable=True)
    frames = [Image.new("RGB", (48, 32), (20 * i, 90, 30)) for i in range(9)]
    with steer(pipe, AlignVid(1.5)) as steering, torch.inference_mode():
        pipe(video=frames, prompt="a cat dances", height=32, width=48, guidance_scale=1.0, strength=0.7,
             num_inference_steps=20, output_type="latent")  # fmt: skip
    table = steering.report().to_frame()
    assert table.steps.unique().tolist() == [14] and sorted(table.step.unique()) == list(range(14))
    assert sorted(table[table.acted > 0].step.unique()) == [0, 1, 2, 3]


def test_the_report_counts_blocks_steps_and_branches():
    pipe, inputs = build("wan2.1-i2v")
    with steer(pipe, AlignVid(1.5, blocks=[1, 2], window=(0, 0.5)), DyMoS(1.0, window=(0, 0.25))) as steering:
        video(pipe, inputs, 4)
    table = steering.report().to_frame()
    acted = table[table.acted > 0].groupby("method")
    assert table.groupby("method").seen.sum().to_dict() == {"AlignVid": 4 * 2 * 12, "DyMoS": 4 * 2 * 12}
    assert acted.acted.sum().to_dict() == {"AlignVid": 2 * 2 * 2 * 2, "DyMoS": 1 * 4}
    assert set(acted.get_group("AlignVid").block) == {"1", "2"} and set(acted.get_group("DyMoS").branch) == {"cond"}
    assert str(steering.report()).splitlines()[0] == (
        "AlignVid: acted in 16 of 96 attention calls; steps 0-1 of 4; 2 of 4 blocks (1, 2); at image, text; in cond, uncond"
    )


# --- Branches --------------------------------------------------------------------------------------------------------
def test_a_dynamic_guidance_scale_does_not_change_the_branches():
    seen, compute = {}, AttentionCall.compute
    pipe, inputs = build("cogvideox-i2v")
    pipe.scheduler = CogVideoXDDIMScheduler(timestep_spacing="trailing")

    def noting(call):
        seen.setdefault(call.context.step, (call.context.branch, call.conditional()))
        return compute(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttentionCall, "compute", noting)
        with steer(pipe, DyMoS(1.0, window=(0, 0.1))), torch.inference_mode():
            pipe(**inputs, num_inference_steps=37, use_dynamic_cfg=True, output_type="latent")
    assert set(map(str, seen.values())) == {"('both', slice(1, 2, None))"} and set(seen) == {0, 1, 2}
    with steer(pipe, LowPassGuidance(window="all")), torch.inference_mode():
        pipe(**(inputs | {"guidance_scale": 1.0}), num_inference_steps=4, use_dynamic_cfg=True, output_type="latent")


def test_a_third_guidance_pass_is_steered_as_the_condition_that_it_has():
    pipe, inputs = build("hunyuan-1.5")
    pipe.guider = SmoothedEnergyGuidance(
        guidance_scale=3.0, seg_guidance_scale=2.0, seg_guidance_start=0.0, seg_guidance_stop=1.0,
        seg_guidance_config=SmoothedEnergyGuidanceConfig(indices=[1], fqn="transformer_blocks"),
    )  # fmt: skip
    with steer(pipe, DyMoS(1.0, window="all")) as steering, record(pipe, blocks=[0], queries=1) as recording:
        video(pipe, inputs, 2)
    table = steering.report().to_frame()
    assert set(table[table.acted > 0].branch) == {"cond", "pred_cond_seg"}
    assert set(recording.to_frame().branch) == {"cond", "uncond", "pred_cond_seg"}


def test_a_second_call_of_a_bare_transformer_at_one_time_has_to_say_which_branch_it_is():
    model, inputs = make("cogvideox-i2v")
    with steer(model, DyMoS(1.0, window="all")):
        first = forward(model, inputs)
        with pytest.raises(ValueError, match=r'branches=\("cond",\) or'):
            forward(model, inputs)
    with steer(model, DyMoS(1.0, window="all"), branches=("cond",)):
        assert torch.equal(forward(model, inputs), first) and torch.equal(forward(model, inputs), first)
    with steer(model, DyMoS(1.0, window="all")):
        for _ in range(2):
            with model.cache_context("cond"):
                assert torch.equal(forward(model, inputs), first)
    plain = forward(model, inputs)
    with steer(model, DyMoS(1.0, window="all"), branches=("cond", "uncond")):
        assert torch.equal(forward(model, inputs), first) and torch.equal(forward(model, inputs), plain)
    with pytest.raises(ValueError, match="allowed are"), steer(model, DyMoS(1.0), branches=("conditional",)):
        pass


@pytest.mark.parametrize("named", [False, True])
def test_times_that_are_rounded_to_the_models_dtype_are_counted_apart(named):
    model, inputs = make("wan2.1-i2v", torch.bfloat16)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0)
    scheduler.set_timesteps(50)
    times = scheduler.timesteps.to(torch.bfloat16)
    assert len(times.unique()) < 50
    with record(model, blocks=[0], queries=1, steps=50, branches=None if named else ("cond",)) as recording:
        for t in times:
            with model.cache_context("cond" if named else None):
                forward(model, inputs | {"timestep": t.expand(1)})
    table = recording.to_frame()
    assert set(table.branch) == {"cond"} and sorted(table.step.unique()) == list(range(50))


@pytest.mark.parametrize(("interleave", "tokens"), [(None, 9), (1, 36), (2, 18), (9, 36)])
def test_hunyuans_image_tokens_are_as_many_as_the_pipeline_was_told(interleave, tokens):
    pipe, inputs = build("hunyuan-token-replace")
    found = {}
    with record(pipe, blocks=[0], queries=1) as recording, torch.inference_mode():
        observe = recording.observe
        recording.observe = lambda c, o: (
            found.setdefault(c.context.branch, int(c.keys.where("image").sum())),
            observe(c, o),
        )[1]
        more = {} if interleave is None else {"image_embed_interleave": interleave}
        pipe(**inputs, **more, num_inference_steps=1, output_type="latent")
    assert found == {"cond": tokens, "uncond": 18}


def test_control_latents_are_no_reference():
    p, _ = build("cogvideox-i2v")
    pipe = CogVideoXFunControlPipeline(p.tokenizer, p.text_encoder, p.vae, p.transformer, CogVideoXDDIMScheduler())
    for method in (DyMoS(1.0), LowPassGuidance(), AlignVid(1.2, groups="reference")):
        with pytest.raises(ValueError, match=r"reference|image-to-video"), steer(pipe, method):
            pass
    frames = [Image.new("RGB", (48, 32), (20 * i, 90, 30)) for i in range(9)]
    with record(pipe, blocks=[0], queries=1) as recording, torch.inference_mode():
        pipe(control_video=frames, prompt="a cat", height=32, width=48, num_inference_steps=1, max_sequence_length=6,
             output_type="latent")  # fmt: skip
    assert "reference" not in set(recording.to_frame().key)


# --- Copies, shared models, threads ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["wan2.1-i2v", "hunyuan-1.5"])
def test_a_copy_of_a_steered_model_is_not_steered(name):
    model, inputs = make(name)
    plain = forward(model, inputs)
    with steer(model, ALWAYS, **options(name)):
        copied = copy.deepcopy(model)
        assert torch.equal(forward(copied, inputs), plain)
        with steer(copied, AlignVid(2.0, window="all"), **options(name)):
            assert not torch.equal(forward(copied, inputs), plain)
        steered = forward(model, inputs)
        assert not torch.equal(steered, plain)
    assert torch.equal(forward(copied, inputs), plain) and torch.equal(forward(model, inputs), plain)


def test_an_inner_context_for_a_second_pipeline_gives_the_first_its_steps_back():
    pipe, inputs = build("wan2.1-i2v")
    second = WanImageToVideoPipeline.from_pipe(pipe)
    method = AlignVid(1.5, window=(0, 0.5), blocks="all")
    with steer(pipe, method):
        expected = video(pipe, inputs, 4)
        with record(second, blocks=[0]):
            pass
        assert torch.equal(video(pipe, inputs, 4), expected)


def test_another_pipeline_or_thread_with_the_same_transformer_is_told_so():
    pipe, inputs = build("wan-t2v")
    other = copy.copy(pipe)
    other.scheduler = copy.deepcopy(pipe.scheduler)

    def preview(p, step, time, values):
        if step == 0:
            with pytest.raises(RuntimeError, match="another pipeline or thread runs it too"):
                video(other, inputs, 8)
        return values

    with steer(pipe, ALWAYS), torch.inference_mode():
        pipe(**inputs, num_inference_steps=4, callback_on_step_end=preview, output_type="latent")

    model, tiny = make("wan2.1-i2v")
    errors, inside, leave = [], threading.Event(), threading.Event()

    def slow(module, args):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            leave.wait(30)

    handle = model.blocks[0].register_forward_pre_hook(slow)
    with steer(model, ALWAYS):
        thread = threading.Thread(target=lambda: forward(model, tiny))
        thread.start()
        inside.wait(30)
        with pytest.raises(RuntimeError, match="two threads run one steered transformer"):
            forward(model, tiny)
        leave.set()
        thread.join()
    handle.remove()
    assert not errors


# --- Extra passes and caches -----------------------------------------------------------------------------------------
def test_an_extra_pass_does_not_move_the_caches_of_the_ordinary_ones():
    """LowPassGuidance with a filter that leaves the image as it is equals plain guidance, to rounding."""
    identity = LowPassGuidance(filter="gaussian_blur", sigma=1e-3, window="all")
    for name, cache in (
        ("wan2.1-i2v", mag_cache(1.01, threshold=0.06, retention_ratio=0.2, max_skip_steps=3)),
        ("cogvideox-i2v", FirstBlockCacheConfig(threshold=0.05)),
    ):
        pipe, inputs = build(name)
        pipe.transformer.enable_cache(cache)
        plain = video(pipe, inputs, 12)
        with steer(pipe, identity):
            out = video(pipe, inputs, 12)
        assert float((out - plain).abs().max() / plain.abs().max()) < 2e-5, name
    pipe, inputs = build("wan2.1-i2v")
    pipe.transformer.enable_cache(broadcast(pipe))
    with pytest.raises(RuntimeError, match="disable_cache"), steer(pipe, identity):
        video(pipe, inputs, 12)


# --- Precision and gradients -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", IMAGE_TO_VIDEO)
def test_autocast_gives_what_the_methods_give_in_that_precision(name):
    model, inputs = make(name)
    for method in (ALWAYS, DyMoS(1.0, window="all")):
        with torch.no_grad(), steer(model, method, **options(name)), record(model, **options(name)) as recording:
            exact = model(**inputs, return_dict=False)[0]
            with torch.autocast("cpu", torch.bfloat16):
                out = model(**inputs, return_dict=False)[0]
        assert float((out.float() - exact).norm() / exact.norm()) < 0.1
        assert recording.to_frame().value.notna().all()


@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "hunyuan-1.5", "framepack"])
def test_gradients_through_dymos_are_those_of_explicit_logits(name, monkeypatch):
    """In float64, against the merge of the two key groups with logits that are written out, and so have a gradient."""
    model, inputs = make(name, torch.float64)
    x = inputs["hidden_states"].clone().requires_grad_()

    def gradient():
        with steer(model, DyMoS(1.0, window="all"), **options(name)):
            loss = model(**(inputs | {"hidden_states": x}), return_dict=False)[0].square().sum()
            return torch.autograd.grad(loss, x)[0]

    found = gradient()
    monkeypatch.setattr(log_sum_exp, "_needs_gradient", lambda *_: False)

    def explicit(query, key, value, mask=None, scale=None):
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -1e30)
        return log_sum_exp._chunked(query, key, value, mask, scale)

    monkeypatch.setattr(log_sum_exp, "attention_with_lse", explicit)
    exact = gradient()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-6


def test_gradient_checkpointing_is_refused():
    model, inputs = make("wan2.1-i2v")
    model.enable_gradient_checkpointing()
    with steer(model, ALWAYS):
        with pytest.raises(RuntimeError, match="disable_gradient_checkpointing"):
            model(**inputs)
        forward(model, inputs)  # nothing is recomputed without gradients


def test_a_bias_on_overlapping_groups_is_exact_with_and_without_gradients():
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        q, k, v = (torch.randn(2, 3, n, 8, dtype=dtype) for n in (5, 9, 9))
        first, second = torch.rand(1, 9) < 0.5, torch.rand(2, 9) < 0.4
        groups = [(first, torch.randn(5)), (second, torch.randn(5))]
        mask = torch.rand(2, 1, 5, 9) < 0.8
        mask[0, 0, 0] = False  # a query without any key
        z = 8**-0.5 * q.double() @ k.double().mT
        for members, bias in groups:
            z = z + bias.double()[None, None, :, None] * members.double()[:, None, None, :]
        p = z.masked_fill(~mask, float("-inf")).softmax(-1).nan_to_num(0.0)
        exact = p @ v.double()
        assert (log_sum_exp.group_biased_attention(q, k, v, groups, mask).double() - exact).abs().max() < tolerance
        q.requires_grad_()
        row = slice(1, None)  # SDPA itself has no gradient for a query without a key
        found = log_sum_exp.group_biased_attention(q, k, v, groups, mask)
        assert (found[:, :, row].double() - exact[:, :, row]).abs().max() < tolerance


def test_every_tiny_model_is_seen_by_the_report():
    for name in FAMILIES:
        model, inputs = make(name)
        with steer(model, ALWAYS, **options(name)) as steering:
            forward(model, inputs)
        assert steering.report().to_frame().acted.sum() > 0, name


def test_framepack_whose_pipeline_names_no_pass_is_told_by_their_order():
    pipe, inputs = build("framepack")
    with steer(pipe, DyMoS(1.0, window="all")) as steering:
        video(pipe, inputs, 2)
    table = steering.report().to_frame()
    assert set(table.branch) == {"cond", "uncond"} and set(table[table.acted > 0].branch) == {"cond"}
