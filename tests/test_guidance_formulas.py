"""CFG-Zero* and adaptive projected guidance: their formulas in float64, diffusers' guiders, whole pipelines, refusals."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AdaptiveProjectedGuidance as Projected
from diffusers import ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from families import forward, make
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import PIPELINES, build, video

from methods import (
    AdaptiveProjectedGuidance,
    AlignVid,
    CFGZeroStar,
    DyMoS,
    LowPassGuidance,
    adaptive_projected_guidance,
    guidance_formula,
    steer,
)
from methods.core.forward_context import ForwardContext
from methods.families import COGVIDEOX, WAN
from methods.registry import from_dict, to_dict

APG = AdaptiveProjectedGuidance
RELEASED = json.loads((Path(__file__).parent / "data/released_remedies.json").read_text())
METHODS = [CFGZeroStar(), APG(eta=0.3, momentum=-0.5, threshold=5.0)]
NEUTRAL = [CFGZeroStar(scale="none"), APG(eta=1, momentum=0)]


def built(name):
    """A tiny pipeline; CogVideoX predicts v, as the released one does."""
    pipe, inputs = build(name)
    if name == "cogvideox-i2v":
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return pipe, inputs


def run(pipe, inputs, steps=3):
    out = video(pipe, inputs, steps)
    return out if isinstance(out, torch.Tensor) else out[-1]


# --- Formulas --------------------------------------------------------------------------------------------------------
def loop(method, family, times, batched, pairs, latents, pipe=None):
    """Guided predictions of a sampling loop: u' + 4 (c - u') with the method's c and u' at each time."""
    channels = latents.shape[2 if family == COGVIDEOX else 1]
    transformer = torch.nn.Module()
    transformer.config = SimpleNamespace(out_channels=channels, in_channels=channels)
    model, found = SimpleNamespace(transformer=transformer, family=family), []
    for step, (time, (cond, uncond)) in enumerate(zip(times, pairs, strict=True)):
        inputs = {"hidden_states": latents, "timestep": torch.tensor([float(time)])}
        at = lambda branch: ForwardContext(step, len(times), time, branch, None, pipe)  # noqa: B023, E731
        if batched:
            inputs["hidden_states"] = torch.cat([latents, latents])
            both = method.edit_output(model, inputs, at("both"), (torch.cat([uncond, cond]),), None)[0]
            new_uncond, new_cond = both.chunk(2)
        else:
            new_cond = method.edit_output(model, inputs, at("cond"), (cond,), None)[0]
            new_uncond = method.edit_output(model, inputs, at("uncond"), (uncond,), None)[0]
        found.append(new_uncond + 4 * (new_cond - new_uncond))
    assert not guidance_formula._waiting
    return found


def wave(shape, rate):
    """The inputs of the stored outputs of released code."""
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * rate).reshape(shape)


@pytest.mark.parametrize("batched", [False, True])
def test_released_code_gives_the_same(batched):
    """At scale 4 here, whose stored outputs are at scale 5: p = u' + w (c - u') gives the one from the other."""
    pairs = [(wave((2, 4, 3, 2, 3), 0.7), wave((2, 4, 3, 2, 3), 0.9))]
    shown = [(c[:1], u[:1]) for c, u in pairs]
    steps = [tuple(wave((1, 4, 3, 2, 3), rate + s) for rate in (0.7, 0.9)) for s in range(3)]
    cases = [
        (CFGZeroStar(), pairs, "CFG-Zero* diffusers"), (CFGZeroStar(scale="channel"), shown, "CFG-Zero* image-to-video"),
        (dataclasses.replace(APG.published("multitalk"), threshold=5.0), steps, "APG MultiTalk"),
    ]  # fmt: skip
    for method, predictions, name in cases:
        found = loop(method, WAN, (900.0, 500.0, 100.0)[: len(predictions)], batched, predictions, predictions[0][0])
        at_5 = [c + (p - c) * 4 / 3 for p, (c, _) in zip(found, predictions, strict=True)]
        assert torch.allclose(torch.cat(at_5).flatten(), torch.tensor(RELEASED[name]["output"]).double(), atol=1e-6), (
            name
        )


def test_a_scale_for_each_channel_of_cogvideox():
    cond, uncond = wave((2, 3, 4, 2, 3), 0.7), wave((2, 3, 4, 2, 3), 0.9)  # frames, then channels
    found = loop(CFGZeroStar(scale="channel"), COGVIDEOX, (900.0,), True, [(cond, uncond)], cond)[0]
    swapped = [(cond.transpose(1, 2), uncond.transpose(1, 2))]
    expected = loop(CFGZeroStar(scale="channel"), WAN, (900.0,), True, swapped, cond.transpose(1, 2))[0]
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-12)


SHAPES = st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 4)] * 3)


@settings(deadline=None, max_examples=30)
@given(SHAPES, st.booleans(), st.integers(0, 2), st.integers(0, 10**6))
def test_cfg_zero_star_is_its_formula(shape, batched, zero_steps, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pairs = [(draw(), draw()) for _ in range(3)]
    found = loop(CFGZeroStar(zero_steps=zero_steps), WAN, (900.0, 500.0, 100.0), batched, pairs, draw())
    for step, (cond, uncond) in enumerate(pairs):
        expected = torch.zeros(shape, dtype=torch.float64)
        for i, (c, u) in enumerate(zip(cond, uncond, strict=True)):
            scale = sum((c * u).flatten().tolist()) / (sum((u * u).flatten().tolist()) + 1e-8)
            if step >= zero_steps:
                expected[i] = scale * u + 4 * (c - scale * u)
        assert torch.allclose(found[step], expected, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(
    SHAPES, st.booleans(), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([-0.75, 0.0, 0.5]),
    st.sampled_from([None, 0.5, 3.0]), st.integers(0, 10**6),
)  # fmt: skip
def test_projected_guidance_is_that_of_diffusers(shape, batched, eta, momentum, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pairs, latents, times = [(draw(), draw()) for _ in range(3)], draw(), (900.0, 500.0, 100.0)
    method = APG(eta=eta, momentum=momentum, threshold=threshold, space="prediction")
    found = loop(method, WAN, times, batched, pairs, latents)
    buffer = MomentumBuffer(momentum)
    for step, (cond, uncond) in enumerate(pairs):  # the guider's w counts from the conditional prediction
        expected = normalized_guidance(cond, uncond, 3, buffer, eta, threshold or 0.0, use_original_formulation=True)
        assert torch.allclose(found[step], expected, atol=1e-10)
    found = loop(APG(eta=eta, momentum=momentum, threshold=threshold), WAN, times, batched, pairs, latents)
    buffer = MomentumBuffer(momentum)
    for step, (cond, uncond) in enumerate(pairs):  # the same on x - s v, the predicted clean videos
        s = times[step] / 1000
        clean = [latents - s * v for v in (cond, uncond)]
        expected = normalized_guidance(*clean, 3, buffer, eta, threshold or 0.0, use_original_formulation=True)
        assert torch.allclose(latents - s * found[step], expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_projection_of_cogvideox_is_of_what_its_scheduler_predicts(kind):
    pipe, _ = build("cogvideox-i2v")
    scheduler = pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)  # noqa: E731
    pairs, latents, times = [(draw(), draw()) for _ in range(2)], draw(), scheduler.timesteps[[0, 4]].tolist()
    found = loop(APG(eta=0.2, momentum=-0.5, threshold=3.0), COGVIDEOX, times, True, pairs, latents, pipe)
    buffer = MomentumBuffer(-0.5)
    for time, guided, pair in zip(times, found, pairs, strict=True):
        clean = [scheduler.step(p, time, latents).pred_original_sample for p in (*pair, guided)]
        expected = normalized_guidance(*clean[:2], 3, buffer, 0.2, 3.0, use_original_formulation=True)
        assert torch.allclose(clean[2], expected, atol=1e-6)


def test_the_clean_first_frame_does_not_count():
    """Its prediction is thrown away by the pipelines of Wan 2.2 5B and of HunyuanVideo token_replace."""
    for name in ("wan2.2-5b", "hunyuan-token-replace"):
        model, inputs = make(name)
        negative = inputs | {"encoder_hidden_states": -inputs["encoder_hidden_states"]}
        with steer(model, CFGZeroStar(), steps=10, **({"image_tokens": 2} if name.startswith("hunyuan") else {})):
            with model.cache_context("cond"):
                cond = forward(model, inputs)
            with model.cache_context("uncond"):
                changed = forward(model, negative)
        plain = forward(model, negative)
        c, u = (x[:, :, 1:].double() for x in (cond, plain))
        assert torch.allclose(changed[:, :, 1:].double(), u * (c * u).sum() / (u * u).sum(), atol=1e-5)
        assert torch.equal(changed[:, :, :1], plain[:, :, :1])


# --- Pipelines -------------------------------------------------------------------------------------------------------
OTHER_FORMULA = ("ltx", "kandinsky", "cosmos", "chronoedit")


@pytest.mark.parametrize("name", [n for n in PIPELINES if n.startswith(OTHER_FORMULA)])
def test_pipelines_that_guide_by_another_formula_are_refused(name):
    pipe, _ = built(name)
    for method in METHODS:
        with (
            pytest.raises(ValueError, match=f"cannot guide a {type(pipe.transformer).__name__}: its "),
            steer(pipe, method),
        ):
            pass


@pytest.mark.parametrize("name", [n for n in PIPELINES if not n.startswith(("framepack", *OTHER_FORMULA))])
def test_pipelines_are_guided_and_themselves_again(name):
    pipe, inputs = built(name)
    plain = run(pipe, inputs)
    for method in NEUTRAL:
        with steer(pipe, method):
            assert torch.equal(run(pipe, inputs), plain)
    for method in METHODS:
        with steer(pipe, method):
            guided = run(pipe, inputs)
            assert torch.equal(run(pipe, inputs), guided)
        assert guided.isfinite().all() and not torch.allclose(guided, plain, atol=1e-4)
    if not name.startswith("cogvideox"):
        with steer(pipe, CFGZeroStar(scale="none", zero_steps=3)):
            still = run(pipe, inputs)
        with steer(pipe, CFGZeroStar(scale="none", zero_steps=2)):
            assert not torch.equal(run(pipe, inputs), still)
        assert not torch.equal(still, plain)
    assert torch.equal(run(pipe, inputs), plain)
    assert not guidance_formula._waiting


@pytest.mark.parametrize("zero_steps", [0, 1])
def test_cfg_zero_star_equals_the_guider_of_hunyuanvideo_15(zero_steps):
    pipe, inputs = build("hunyuan-1.5")
    with steer(pipe, CFGZeroStar(zero_steps=zero_steps)):
        found = run(pipe, inputs)
    pipe.guider = ClassifierFreeZeroStarGuidance(guidance_scale=3.0, zero_init_steps=zero_steps)
    assert torch.allclose(found, run(pipe, inputs), atol=2e-5)


def test_projected_guidance_equals_the_guider_of_hunyuanvideo_15():
    pipe, inputs = build("hunyuan-1.5")
    with steer(pipe, APG(eta=0.3, momentum=-0.5, threshold=2.0, space="prediction")):
        found = run(pipe, inputs)
    pipe.guider = Projected(
        guidance_scale=2.0, adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_rescale=2.0, eta=0.3,
        use_original_formulation=True,
    )  # fmt: skip
    assert torch.allclose(found, run(pipe, inputs), atol=2e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["wan2.2-a14b", "hunyuan-1.5", "cogvideox-i2v"])
def test_an_interrupted_run_leaves_nothing(name, method):
    pipe, inputs = built(name)
    plain = run(pipe, inputs)
    experts = [t for t in (pipe.transformer, getattr(pipe, "transformer_2", None)) if t is not None]

    def interrupted():
        calls = []

        def interrupt(*_):
            calls.append(1)
            if len(calls) == 3:  # between the passes of the second step, or after the third batch
                raise KeyboardInterrupt

        handles = [t.register_forward_hook(interrupt) for t in experts]
        try:
            run(pipe, inputs)
        finally:
            for handle in handles:
                handle.remove()

    with steer(pipe, method):
        guided = run(pipe, inputs)
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert torch.equal(run(pipe, inputs), guided)
    with pytest.raises(KeyboardInterrupt), steer(pipe, method):
        interrupted()
    assert not guidance_formula._waiting and not adaptive_projected_guidance._averages
    assert torch.equal(run(pipe, inputs), plain)


def test_composes_with_methods_inside_the_attention():
    model, inputs = make("wan2.1-i2v")
    negative = inputs | {"encoder_hidden_states": -inputs["encoder_hidden_states"]}
    inside = [DyMoS(1.0, window="all"), AlignVid(1.4, window="all", blocks="all")]

    def passes(*methods):
        with steer(model, *methods, steps=10):
            with model.cache_context("cond"):
                cond = forward(model, inputs)
            with model.cache_context("uncond"):
                return cond, forward(model, negative)

    c, u = passes(*inside)
    cond, uncond = passes(*inside, CFGZeroStar())
    assert torch.equal(cond, c) and not torch.equal(c, passes()[0])
    assert torch.allclose(uncond, u * (c * u).sum() / (u * u).sum(), atol=1e-5)


# --- Refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "hunyuan-1.5", "hunyuan-token-replace"])
def test_without_guidance_it_is_said(name, method):
    pipe, inputs = built(name)
    if name == "hunyuan-1.5":
        pipe.guider = ClassifierFreeGuidance(guidance_scale=1.0)
    else:
        inputs["true_cfg_scale" if name.startswith("hunyuan") else "guidance_scale"] = 1.0
    steps = 2 if name.startswith("hunyuan-t") else 1  # this pipeline does not tell: only the next step shows it
    with steer(pipe, method), pytest.raises(ValueError, match="step 0 has none: classifier-free guidance is off"):
        run(pipe, inputs, steps)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_what_it_does_not_fit_is_refused(method):
    model, _ = make("framepack")
    with pytest.raises(ValueError, match="distilled"), steer(model, method):
        pass
    pipe, inputs = build("hunyuan-1.5")
    pipe.guider = ClassifierFreeZeroStarGuidance(guidance_scale=3.0)
    with pytest.raises(ValueError, match="guider is ClassifierFreeZeroStarGuidance"), steer(pipe, method):
        pass
    pipe, inputs = build("wan2.1-i2v")
    reasons = [(method, "twice"), (LowPassGuidance(window="all"), "three predictions")]
    reasons += [(m, "both replace") for m in METHODS if m is not method]
    for other, words in reasons:
        for both in ((method, other), (other, method)):
            with pytest.raises(ValueError, match=re.escape(words)), steer(pipe, *both):
                run(pipe, inputs)


def test_cfg_zero_star_wants_a_velocity():
    pipe, _ = build("cogvideox-i2v")
    assert pipe.scheduler.config.prediction_type == "epsilon"
    with pytest.raises(ValueError, match="not epsilon"), steer(pipe, CFGZeroStar()):
        pass
    with pytest.raises(ValueError, match="zero_steps=1"), steer(pipe, CFGZeroStar(zero_steps=1)):
        pass


def test_the_noise_level_of_cogvideox_needs_its_pipeline():
    model, inputs = make("cogvideox-i2v", batch=2)
    words, both = "needs CogVideoX's pipeline", model.cache_context("cond_uncond")
    with pytest.raises(ValueError, match=words), steer(model, APG(), steps=10), both:
        forward(model, inputs)


@pytest.mark.parametrize(
    ("make_method", "words"),
    [
        (lambda: CFGZeroStar(zero_steps=-1), "-1"), (lambda: CFGZeroStar(zero_steps=0.04), "0.04"),
        (lambda: CFGZeroStar(scale="frame"), "sample, channel, none"), (lambda: APG(eta=float("nan")), "nan"),
        (lambda: APG(momentum=-1.0), "-1.0"), (lambda: APG(threshold=0.0), "0.0"), (lambda: APG(space="noise"), "'noise'"),
        (lambda: APG.published("sdxl"), "multitalk"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(make_method, words):
    with pytest.raises(ValueError, match=words):
        make_method()


@pytest.mark.parametrize("method", [CFGZeroStar(zero_steps=2, scale="channel"), APG(), APG.published("multitalk")])
def test_settings_survive_json(method):
    assert from_dict(json.loads(json.dumps(to_dict(method)))) == method
