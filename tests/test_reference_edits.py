"""Noise on the reference's latents and PainterI2V's amplitude: formulas, where they act in each family, whole pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx import pipeline_ltx_condition
from families import FAMILIES, forward, make
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_pipelines import PIPELINES, build, video

from methods import AlignVid, DyMoS, LowPassGuidance, ReferenceAmplitude, ReferenceNoise, steer
from methods.core.forward_context import ForwardContext
from methods.families import describe
from methods.reference_amplitude import scale_difference
from methods.registry import from_dict, to_dict

# Where the reference's latents are: channels, then frames; CogVideoX has the frames before the channels.
PLACES = {
    "wan2.1-i2v": (slice(20, 36), [0]), "wan2.1-flf2v": (slice(20, 36), [0]), "wan2.2-a14b": (slice(20, 36), [0]),
    "wan2.2-5b": (slice(0, 48), [0]), "hunyuan-token-replace": (slice(0, 4), [0]),
    "hunyuan-latent-concat": (slice(4, 8), [0]), "hunyuan-1.5": (slice(4, 8), [0]), "cogvideox-i2v": (slice(4, 8), [0]),
    "cogvideox-1.5": (slice(4, 8), [0, 1]), "skyreels-v1": (slice(4, 8), [0]),
}  # fmt: skip
PLACES = {name: place for name, place in PLACES.items() if name in FAMILIES}
WITHOUT = [n for n in FAMILIES if n not in PLACES]
WAN_CONCAT = ["wan2.1-i2v", "wan2.2-a14b"]


def run(pipe, inputs, steps=3):
    out = video(pipe, inputs, steps)
    return out if isinstance(out, torch.Tensor) else out[-1]


def textured(name):
    """A tiny pipeline with an image that is not flat."""
    pipe, inputs = build(name)
    if "image" in inputs:
        inputs["image"] = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    return pipe, inputs


def context(step=0, time=900.0, branch="cond", pipe=None):
    return ForwardContext(step, 10, time, branch, None, pipe)


# --- Reference noise -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PLACES)
def test_noise_is_on_the_reference_alone(name):
    model, inputs = make(name, batch=2)
    channels, frames = PLACES[name]
    hidden, axis = inputs["hidden_states"], 1 if name.startswith("cogvideox") else 2
    if name == "cogvideox-1.5":
        hidden[:, 1, channels] = hidden[:, 0, channels]
    place = [slice(None)] * 5
    place[3 - axis], place[axis] = channels, frames
    for method in (ReferenceNoise(0.3, seed=5), ReferenceNoise(0.3, variant="ltx", seed=5)):
        if method.variant == "ltx" and name.startswith("cogvideox"):
            continue
        found = {}
        for step, time in ((0, 900.0), (4, 500.0)):
            new = method.edit_inputs(describe(model), inputs, context(step, time))["hidden_states"]
            kept = new.clone()
            kept[tuple(place)] = hidden[tuple(place)]
            assert torch.equal(kept, hidden)  # nothing else moved
            _, noise = method.draw((2, *hidden.movedim(3 - axis, 1)[:, channels].shape[1:2], *hidden.shape[3:]), step)
            clean, noisy = (
                x.movedim(axis, 2).double() if axis == 2 else x.movedim(1, 2).double() for x in (hidden, new)
            )
            for frame in frames:
                z = clean[:, channels, frame]
                if method.variant == "helios":
                    expected = 0.7 * z + 0.3 * noise.double()
                else:
                    expected = z + 0.3 * (time / 1000) ** 2 * noise.double()
                assert torch.allclose(noisy[:, channels, frame], expected, atol=1e-6)
            found[step] = noise
        assert torch.equal(found[0], found[4]) == (method.variant == "helios")


def test_a_frame_that_is_no_copy_of_the_reference_gets_no_noise():
    model, inputs = make("cogvideox-1.5")
    new = ReferenceNoise(0.3).edit_inputs(describe(model), inputs, context())["hidden_states"]
    assert torch.equal(new[:, 1:], inputs["hidden_states"][:, 1:])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31 - 1), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 60))
def test_the_seed_says_it_all(seed, low, width, step):
    for variant in ("helios", "ltx"):
        method = ReferenceNoise((low, low + width), variant=variant, seed=seed)
        scale, noise = method.draw((2, 3, 4, 5), step)
        assert low <= scale <= low + width and scale == method.draw((2, 3, 4, 5), step + 1)[0]
        assert torch.equal(noise, method.draw((2, 3, 4, 5), step)[1])
        steps = [method.draw((2, 3), s)[1] for s in range(step, step + 50)]
        assert len({tuple(s.flatten().tolist()) for s in steps}) == (1 if variant == "helios" else 50)
    assert not torch.equal(noise, ReferenceNoise(0.1, seed=(seed + 1) % 2**31).draw((2, 3, 4, 5), 0)[1])


def test_noise_is_standard_normal():
    _, noise = ReferenceNoise(0.1).draw((4, 16, 60, 104), 0)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_both_branches_get_the_same_noise():
    model, inputs = make("cogvideox-i2v", batch=2)
    inputs["hidden_states"][1] = inputs["hidden_states"][0]
    new = ReferenceNoise(0.5).edit_inputs(describe(model), inputs, context(branch="both"))["hidden_states"]
    assert torch.equal(new[0], new[1])
    new = ReferenceNoise(0.5).edit_inputs(describe(model), inputs, context(branch="cond"))["hidden_states"]
    assert not torch.equal(new[0], new[1])  # two videos
    model, inputs = make("wan2.1-i2v")
    each = [ReferenceNoise(0.5).edit_inputs(describe(model), inputs, context(branch=b)) for b in ("cond", "uncond")]
    assert torch.equal(*[e["hidden_states"] for e in each])


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_a_reference_in_the_latents_are_refused(name):
    model, _ = make(name)
    with pytest.raises(ValueError, match="needs a reference in the latents"), steer(model, ReferenceNoise(0.1)):
        pass


def test_calls_without_a_reference_are_refused():
    model, inputs = make("wan2.2-5b")
    inputs["timestep"][:] = 900.0
    with (
        pytest.raises(ValueError, match="no reference frame in this call"),
        steer(model, ReferenceNoise(0.1), steps=10),
    ):
        forward(model, inputs)
    model, inputs = make("hunyuan-1.5")
    inputs["hidden_states"][:, 8:] = 0
    with (
        pytest.raises(ValueError, match="no reference frame in this call"),
        steer(model, ReferenceNoise(0.1), steps=10),
    ):
        forward(model, inputs)
    model, _ = make("cogvideox-i2v")
    with pytest.raises(ValueError, match="time of flow matching"), steer(model, ReferenceNoise(0.1, variant="ltx")):
        pass


# --- Amplitude -------------------------------------------------------------------------------------------------------
SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.floats(1, 2), st.floats(0.1, 5), st.integers(0, 10**6))
def test_the_amplitude_is_its_formula(shape, amplitude, spread, seed):
    latents = np.random.default_rng(seed).normal(0, spread, shape)
    expected = latents.copy()
    for sample in expected:
        for f in range(1, shape[2]):
            difference = sample[:, f] - sample[:, 0]
            mean = difference.mean()
            sample[:, f] = np.clip(sample[:, 0] + amplitude * (difference - mean) + mean, -6, 6)
    assert np.allclose(scale_difference(torch.tensor(latents), amplitude), expected, atol=1e-12)


def test_the_released_node_gives_the_same():
    """Its inputs: latents 5 sin(0.7 n), a part of which is clamped."""
    released = json.loads((Path(__file__).parent / "data/released_remedies.json").read_text())["PainterI2V"]["output"]
    latents = 5 * torch.sin(torch.arange(72, dtype=torch.float64) * 0.7).reshape(1, 4, 3, 2, 3)
    assert 6.0 in released
    assert torch.allclose(scale_difference(latents, 1.3).flatten(), torch.tensor(released).double(), atol=1e-6)


@pytest.mark.parametrize("time", [1000.0, 640.0, 10.0])
def test_the_noise_of_ltx_is_that_of_its_pipeline(time, monkeypatch):
    model, inputs = make("wan2.2-5b")
    method, hidden = ReferenceNoise.published("ltx-video", seed=2), inputs["hidden_states"]
    new = method.edit_inputs(describe(model), inputs, context(3, time))["hidden_states"]
    _, noise = method.draw((1, 48, 4, 8), 3)
    monkeypatch.setattr(pipeline_ltx_condition, "randn_tensor", lambda shape, **_: noise.flatten(2).transpose(1, 2))
    tokens = hidden[:, :, 0].flatten(2).transpose(1, 2)
    released = pipeline_ltx_condition.LTXConditionPipeline.add_noise_to_image_conditioning_latents(
        time / 1000, tokens, tokens, 0.15, torch.ones(1, 32), None
    )
    assert torch.allclose(new[:, :, 0].flatten(2).transpose(1, 2), released, atol=1e-6)


def test_the_mean_difference_stays():
    latents = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64) * 0.5
    new = scale_difference(latents, 1.3)
    for z in (latents, new):
        z -= z[:, :, :1].clone()
    assert torch.allclose(new.mean((1, 3, 4)), latents.mean((1, 3, 4)))
    assert torch.allclose(new.std((1, 3, 4)), 1.3 * latents.std((1, 3, 4)))


@pytest.mark.parametrize("name", WAN_CONCAT)
def test_the_amplitude_is_of_the_autoencoders_own_latents(name):
    model, inputs = make(name, batch=2)
    hidden = inputs["hidden_states"]
    hidden[:, 16:20] = 0
    hidden[:, 16:20, 0] = 1
    mean, std = torch.linspace(-1, 1, 16), torch.linspace(0.5, 3, 16)
    config = SimpleNamespace(latents_mean=mean.tolist(), latents_std=std.tolist())
    pipe = SimpleNamespace(vae=SimpleNamespace(config=config))
    new = ReferenceAmplitude(1.4).edit_inputs(describe(model), inputs, context(pipe=pipe))["hidden_states"]
    mean, std = (x.view(1, -1, 1, 1, 1).double() for x in (mean, std))
    expected = (scale_difference(hidden[:, 20:].double() * std + mean, 1.4) - mean) / std
    assert torch.allclose(new[:, 20:].double(), expected, atol=1e-5)
    assert torch.equal(new[:, :20], hidden[:, :20]) and torch.equal(new[:, :, 0], hidden[:, :, 0])


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in (*WAN_CONCAT, "wan2.1-flf2v")])
def test_other_models_have_no_amplitude(name):
    model, _ = make(name)
    with pytest.raises(ValueError, match="extra image channels of Wan"), steer(model, ReferenceAmplitude(1.15)):
        pass


def test_the_amplitude_needs_a_pipeline_and_one_image():
    model, _ = make("wan2.1-i2v")
    with pytest.raises(ValueError, match="steer a pipeline"), steer(model, ReferenceAmplitude(1.15)):
        pass
    pipe, inputs = textured("wan2.2-a14b")
    with pytest.raises(ValueError, match="holds a last one too"), steer(pipe, ReferenceAmplitude(1.15)):
        run(pipe, inputs | {"last_image": inputs["image"]})


# --- Both, in pipelines ----------------------------------------------------------------------------------------------
CASES = [(n, ReferenceNoise(0.4)) for n in PIPELINES if n in PLACES]
CASES += [(n, ReferenceNoise(0.4, variant="ltx")) for n in PIPELINES if n in PLACES and not n.startswith("cogvideox")]
CASES += [(n, ReferenceAmplitude(1.5)) for n in WAN_CONCAT]


@pytest.mark.parametrize(("name", "method"), CASES, ids=lambda x: x if isinstance(x, str) else x.name)
def test_pipelines_change_and_are_themselves_again(name, method):
    pipe, inputs = textured(name)
    plain = run(pipe, inputs)
    with steer(pipe, ReferenceNoise(0.0)):
        assert torch.equal(run(pipe, inputs), plain)
    with steer(pipe, ReferenceAmplitude(1.0) if name in WAN_CONCAT else ReferenceNoise((0.0, 0.0))):
        assert torch.equal(run(pipe, inputs), plain)
    with steer(pipe, method):
        changed = run(pipe, inputs)
        assert torch.equal(run(pipe, inputs), changed)
        with pytest.raises(ZeroDivisionError), steer(pipe, DyMoS(1.0)):
            raise ZeroDivisionError
        assert torch.equal(run(pipe, inputs), changed)
    assert changed.isfinite().all() and not torch.allclose(changed, plain, atol=1e-4)
    assert torch.equal(run(pipe, inputs), plain)


@pytest.mark.parametrize("method", [ReferenceNoise(0.4), ReferenceAmplitude(1.5)], ids=lambda m: m.name)
def test_composes_with_the_methods_inside_the_attention_and_with_itself(method):
    pipe, inputs = textured("wan2.1-i2v")
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["hidden_states"]), with_kwargs=True
    )
    with torch.inference_mode():
        run(pipe, inputs, steps=1)
    handle.remove()
    edited = method.edit_inputs(
        describe(pipe.transformer), {"hidden_states": seen[0], "timestep": torch.ones(1)}, context(pipe=pipe)
    )
    inside = [DyMoS(1.0, window="all"), AlignVid(1.4, window="all", blocks="all")]
    for others, change in ((inside, edited), ([method], None)):
        found = []
        with steer(pipe, method, *others):
            handle = pipe.transformer.blocks[0].register_forward_pre_hook(lambda m, a, found=found: found.append(a[0]))
            both = run(pipe, inputs, steps=1)
            handle.remove()
        if change is None:  # the second acts on what the first has made
            change = method.edit_inputs(
                describe(pipe.transformer), edited | {"timestep": torch.ones(1)}, context(pipe=pipe)
            )
        with torch.inference_mode():
            expected = pipe.transformer.patch_embedding(change["hidden_states"]).flatten(2).transpose(1, 2)
        assert torch.allclose(found[0], expected, atol=1e-5)
        with steer(pipe, method):
            assert not torch.equal(both, run(pipe, inputs, steps=1))


@pytest.mark.parametrize("method", [ReferenceNoise(0.4), ReferenceAmplitude(1.5)], ids=lambda m: m.name)
def test_low_pass_guidance_beside_it_is_refused(method):
    pipe, inputs = textured("wan2.1-i2v")
    for both in ((method, LowPassGuidance()), (LowPassGuidance(), method)):
        with pytest.raises(ValueError, match="does not compose with low-pass guidance"), steer(pipe, *both):
            run(pipe, inputs)


@pytest.mark.parametrize(
    ("make_method", "words"),
    [
        (lambda: ReferenceNoise(-0.1), "-0.1"), (lambda: ReferenceNoise(1.5), "at most 1"),
        (lambda: ReferenceNoise((0.3, 0.2)), r"\(0.3, 0.2\)"), (lambda: ReferenceNoise(float("nan")), "nan"),
        (lambda: ReferenceNoise((0.1, 0.2, 0.3)), r"\(low, high\)"), (lambda: ReferenceNoise("big"), "big"),
        (lambda: ReferenceNoise(0.1, variant="svd"), "'svd'"), (lambda: ReferenceNoise(0.1, seed=-1), "-1"),
        (lambda: ReferenceNoise.published("wan"), "helios, ltx-video"), (lambda: ReferenceAmplitude(0.9), "0.9"),
        (lambda: ReferenceAmplitude(float("inf")), "inf"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(make_method, words):
    with pytest.raises(ValueError, match=words):
        make_method()


@pytest.mark.parametrize(
    "method",
    [ReferenceNoise.published("helios", seed=3), ReferenceNoise.published("ltx-video"), ReferenceAmplitude(1.15)],
)
def test_settings_survive_json(method):
    assert from_dict(json.loads(json.dumps(to_dict(method)))) == method
