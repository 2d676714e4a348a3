"""NAG against its formula in float64, the released code's numbers, and in pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import make
from guided_steps import Watcher
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exactness import close
from tiny_pipelines import PIPELINES, build, video

from methods import AlignVid, DyMoS, NormalizedAttentionGuidance, SkipLayerGuidance, record, steer
from methods.families import describe
from methods.normalized_attention_guidance import combine

RELEASED = json.loads((Path(__file__).parent / "data" / "released_guidances.json").read_text())["NAG"]
WAN = ["wan2.1-i2v", "wan2.2-a14b", "wan2.2-5b", "wan-t2v"]


def explicit(positive, negative, scale, tau, alpha):
    """The formula token by token, of outputs (H, D) in float64."""
    guided = positive * scale - negative * (scale - 1)
    ratio = float(guided.abs().sum() / positive.abs().sum())
    return alpha * guided * min(ratio, tau) / ratio + (1 - alpha) * positive


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 8)),
    scale=st.floats(1, 15), tau=st.floats(0.5, 5), alpha=st.floats(0, 1), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_combination_is_the_formula(shape, scale, tau, alpha, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    z, away = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    expected = torch.stack([
        torch.stack([explicit(p, n, scale, tau, alpha) for p, n in zip(*pair, strict=True)])
        for pair in zip(z.double(), away.double(), strict=True)
    ])  # fmt: skip
    found = combine(z, away, scale, tau, alpha)
    assert found.dtype == dtype
    close(found, expected, torch.float32 if dtype == torch.float64 else dtype)


def test_the_combination_is_that_of_the_released_code():
    for case in RELEASED["cases"]:
        z, away = (torch.tensor(case[n], dtype=torch.float64) for n in ("positive", "negative"))
        found = combine(z, away, case["scale"], case["tau"], case["alpha"])
        assert torch.allclose(found, torch.tensor(case["out"], dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", WAN)
def test_text_attention_is_guided_away_from_the_negative_prompt(name, guidance):
    """z- is what the pipeline itself gives its text attention when the negative prompt is its prompt."""
    pipe, inputs = build(name)
    inputs = inputs | {"guidance_scale": guidance, "negative_prompt": "a"}
    if name == "wan2.2-a14b":
        inputs["guidance_scale_2"] = guidance
    method, watcher, scale = NormalizedAttentionGuidance("blurry"), Watcher(), AlignVid(1.4, window="all", blocks="all")
    plain = video(pipe, inputs, 2)
    negative = pipe.encode_prompt("blurry", do_classifier_free_guidance=False, max_sequence_length=512)[0]
    others = [scale] if name == "wan-t2v" else [scale, DyMoS(1.0, window="all")]
    with steer(pipe, *others, method, watcher) as steering, record(pipe, queries=1, norm=True):
        out = video(pipe, inputs, 2)
    for call, found in watcher.seen:
        if call.site != "text":
            continue
        expected, module = call.compute().double(), call.module
        if call.context.branch == "cond":
            with torch.no_grad():
                text = call.model.transformer.condition_embedder.text_embedder(negative)
                key, value = module.norm_k(module.to_k(text)), module.to_v(text)
            key, value = (x.double().unflatten(2, (call.query.shape[1], -1)).transpose(1, 2) for x in (key, value))
            away = (1.4 * call.scale * call.query.double() @ key.mT).softmax(-1) @ value
            for token in range(expected.shape[2]):
                expected[0, :, token] = explicit(expected[0, :, token], away[0, :, token], 11.0, 2.5, 0.25)
        close(found, expected, torch.float32, keys=512)
    assert not torch.allclose(out, plain, atol=1e-3)
    table = steering.report().to_frame()
    acted = table[(table.acted > 0) & (table.method == "NormalizedAttentionGuidance")]
    assert set(acted.branch) == {"cond"} and set(acted.site) == {"text"}
    assert torch.equal(video(pipe, inputs, 2), plain) and "encode_prompt" not in vars(pipe)


def test_the_pipelines_own_negative_prompt_is_the_default():
    pipe, inputs = build("wan2.1-i2v")
    runs = []
    for method in (NormalizedAttentionGuidance("blurry"), NormalizedAttentionGuidance()):
        with steer(pipe, method):
            runs.append(video(pipe, inputs | {"guidance_scale": 1.0}, 2))
    with torch.inference_mode():
        embeds = pipe.encode_prompt("blurry", do_classifier_free_guidance=False, max_sequence_length=512)[0]
    without = {k: v for k, v in inputs.items() if k != "negative_prompt"}
    with steer(pipe, NormalizedAttentionGuidance()):
        runs.append(video(pipe, without | {"guidance_scale": 1.0, "negative_prompt_embeds": embeds}, 2))
        other = video(pipe, without | {"guidance_scale": 1.0}, 2)
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], other)


def test_several_videos_and_fused_projections_are_guided_alike():
    pipe, inputs = build("wan-t2v")
    inputs = inputs | {
        "guidance_scale": 1.0,
        "prompt": ["a cat dances", "a cat"],
        "negative_prompt": ["blurry", "blurry"],
    }
    with steer(pipe, NormalizedAttentionGuidance("blurry")):
        expected = video(pipe, inputs, 2)
    with steer(pipe, NormalizedAttentionGuidance()):  # a list: one negative prompt for each video
        assert torch.allclose(video(pipe, inputs, 2), expected, atol=1e-5)
    pipe.transformer.fuse_qkv_projections()
    with steer(pipe, NormalizedAttentionGuidance("blurry")):
        assert torch.allclose(video(pipe, inputs, 2), expected, atol=1e-4)


def test_neutral_is_bit_identical_the_window_holds_and_an_exception_leaves_nothing():
    pipe, inputs = build("wan2.2-a14b")
    plain = video(pipe, inputs, 2)
    for neutral in (NormalizedAttentionGuidance(scale=1.0), NormalizedAttentionGuidance(alpha=0.0)):
        with steer(pipe, neutral):
            assert torch.equal(video(pipe, inputs, 2), plain)
    with steer(pipe, NormalizedAttentionGuidance(window=(0.9, 1), blocks=[1])) as steering:
        assert not torch.equal(video(pipe, inputs, 2), plain)
    table = steering.report().to_frame()
    assert set(table[table.acted > 0].step) == {1} and set(table[table.acted > 0].block) == {"1"}
    handle = pipe.transformer.proj_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), steer(pipe, NormalizedAttentionGuidance()):
        video(pipe, inputs, 2)
    handle.remove()
    assert torch.equal(video(pipe, inputs, 2), plain) and "encode_prompt" not in vars(pipe)


def test_it_acts_in_the_perturbed_pass_too():
    pipe, inputs = build("wan2.1-i2v")
    with steer(pipe, NormalizedAttentionGuidance("blurry"), SkipLayerGuidance(1.0, blocks=[1])) as steering:
        video(pipe, inputs, 1)
    table = steering.report().to_frame()
    acted = table[(table.acted > 0) & (table.method == "NormalizedAttentionGuidance")]
    assert set(acted.branch) == {"cond", "skiplayer"}


@pytest.mark.parametrize("name", [n for n in PIPELINES if n.startswith("ltx-") and not n.startswith("ltx-2")])
def test_in_one_batch_the_conditional_half_is_guided_away_from_the_other_halfs_prompt(name):
    """Padding is masked there: z- is what the unconditional half's keys, values and mask give the conditional queries."""
    pipe, inputs = build(name)
    watcher, seen = Watcher(), 0
    with steer(pipe, NormalizedAttentionGuidance(), watcher):
        video(pipe, inputs, 1)
    for call, out in watcher.seen:
        expected = call.compute().double()
        if call.site == "text":
            z = call.scale * call.query[1:].double() @ call.key[:1].double().mT
            away, seen = (z + call.mask[:1].double()).softmax(-1) @ call.value[:1].double(), seen + 1
            for token in range(expected.shape[2]):
                expected[1, :, token] = explicit(expected[1, :, token], away[0, :, token], 11.0, 2.5, 0.25)
        close(out, expected, torch.float32)
    assert seen


@pytest.mark.parametrize("name", ["cogvideox-i2v", "hunyuan-1.5", "framepack"])
def test_joint_attention_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="carried through whole blocks"):
        NormalizedAttentionGuidance().check(describe(make(name)[0]))


def test_text_that_connectors_change_is_refused():
    with pytest.raises(ValueError, match="connectors"):
        NormalizedAttentionGuidance().check(describe(make("ltx-2-i2v")[0]))


def test_bad_settings_and_a_bare_transformer_are_refused():
    for bad, words in (
        ({"scale": 0.5}, r"scale must be a number in \[1, inf\]"), ({"alpha": 2}, r"alpha must be a number in \[0, 1\]"),
        ({"tau": 0}, "tau must be above 0"), ({"window": "soon"}, "window 'soon'"), ({"negative_prompt": 3}, "a text or None"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            NormalizedAttentionGuidance(**bad)
    with pytest.raises(ValueError, match="steer a pipeline"), steer(make("wan-t2v")[0], NormalizedAttentionGuidance()):
        pass
