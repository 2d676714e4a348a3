"""Guidance away from a perturbed pass: the formula in every layout of passes, and each perturbation against float64."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from families import FAMILIES, IMAGE_TO_VIDEO, forward, make, options
from guided_steps import Watcher, watched_steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from test_exactness import close, reference_bias, scaling
from test_never_silently_off import mag_cache
from tiny_pipelines import build, video

from methods import (
    AlignVid,
    DyMoS,
    LowPassGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SkipUnconditional,
    SmoothedEnergyGuidance,
    record,
    steer,
)
from methods.smoothed_energy import blur_frames, kernel

RELEASED = json.loads((Path(__file__).parent / "data" / "released_guidances.json").read_text())
KINDS = [PerturbedAttentionGuidance, SmoothedEnergyGuidance, SkipLayerGuidance]
FEW = settings(  # of each family
   
    max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
LAYOUTS = {
    "wan2.1-i2v": {"guidance_scale": 3.0},
    "wan2.2-5b": {"guidance_scale": 1.0},
    "cogvideox-i2v": {"guidance_scale": 3.0},
    "cogvideox-i2v alone": {"guidance_scale": 1.0},
    "hunyuan-token-replace": {"true_cfg_scale": 3.0},
    "hunyuan-latent-concat": {"true_cfg_scale": 1.0},
    "hunyuan-1.5": {},
}


@contextlib.contextmanager
def without_block(transformer, index):
    """The transformer with one block taken out of its list."""
    blocks = transformer.blocks if hasattr(transformer, "blocks") else transformer.transformer_blocks
    name = "blocks" if hasattr(transformer, "blocks") else "transformer_blocks"
    setattr(transformer, name, torch.nn.ModuleList(b for i, b in enumerate(blocks) if i != index))
    try:
        yield
    finally:
        setattr(transformer, name, blocks)


def combined(passes, transformer, scale, s, rescale=0.0, block=1):
    """The formula, written out: passes of one plain step (with their inputs), and one of a model without a block."""
    inputs, cond = passes[0]
    w, uncond = scale, None
    if len(passes) == 2:
        uncond = passes[1][1]
    elif w > 1:  # one batch
        half = len(cond) // 2
        inputs = {k: v[half:] if torch.is_tensor(v) and len(v) == 2 * half else v for k, v in inputs.items()}
        uncond, cond = cond.chunk(2)
    with without_block(transformer, block), torch.inference_mode():
        perturbed = transformer(**inputs)[0]
    guider = diffusers.SkipLayerGuidance(
        guidance_scale=w if uncond is not None else 0.0, skip_layer_guidance_scale=s, skip_layer_guidance_layers=[block],
        guidance_rescale=rescale, use_original_formulation=uncond is None,
    )  # fmt: skip
    given = [x if x is None else x.double() for x in (cond, uncond, perturbed)]
    plain = given[0] if uncond is None else given[1] + w * (given[0] - given[1])
    result = plain + s * (given[0] - given[2])
    expected = result if rescale == 0 else rescale_noise_cfg(result, given[0], rescale)
    assert s == 0 or torch.allclose(guider.forward(*given).pred, expected, atol=1e-9)
    return expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_guided_prediction_is_the_formula_in_every_layout(layout):
    pipe, inputs = build(layout.split()[0])
    inputs = inputs | LAYOUTS[layout]
    scale = 3.0 if layout == "hunyuan-1.5" else next(iter(LAYOUTS[layout].values()))
    with watched_steps(pipe) as (passes, _):
        plain = video(pipe, inputs, 1)
    expected = combined(passes, pipe.transformer, scale, 2.5)
    if layout == "hunyuan-token-replace":  # the pipeline drops the prediction of the reference
        expected = expected[:, :, 1:]
    with watched_steps(pipe) as (_, steps), steer(pipe, SkipLayerGuidance(2.5, blocks=[1])) as steering:
        out = video(pipe, inputs, 1)
    assert torch.allclose(steps[0].double(), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, plain, atol=1e-3) and torch.equal(video(pipe, inputs, 1), plain)
    report = steering.report().to_frame()
    assert "skiplayer" in set(report[report.acted > 0].branch)
    if layout.startswith("hunyuan-t") or layout.startswith("hunyuan-l"):
        with (
            pytest.raises(ValueError, match="does not tell"),
            steer(pipe, SkipLayerGuidance(1.0, blocks=[1], rescale=0.7)),
        ):
            video(pipe, inputs, 1)
        return
    expected = combined(passes, pipe.transformer, scale, 2.5, rescale=0.7)
    with watched_steps(pipe) as (_, steps), steer(pipe, SkipLayerGuidance(2.5, blocks=[1], rescale=0.7)):
        video(pipe, inputs, 1)
    assert torch.allclose(steps[0].double(), expected, atol=2e-5, rtol=1e-5)


def test_two_perturbed_guidances_add_up_each_against_the_models_own_prediction():
    pipe, inputs = build("wan2.1-i2v")
    first, second = SkipLayerGuidance(2.0, blocks=[1]), SkipLayerGuidance(1.5, blocks=[2])
    with watched_steps(pipe) as (passes, _):
        video(pipe, inputs, 1)
    plain = combined(passes, pipe.transformer, 3.0, 0.0)
    expected = plain + sum(
        combined(passes, pipe.transformer, 3.0, m.scale, block=m.blocks[0]) - plain for m in (first, second)
    )
    with watched_steps(pipe) as (_, steps), steer(pipe, first, second):
        video(pipe, inputs, 1)
    assert torch.allclose(steps[0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v"])
def test_neutral_is_bit_identical_and_an_exception_leaves_nothing(kind, name):
    pipe, inputs = build(name)
    plain = video(pipe, inputs, 2)
    with steer(pipe, kind(0.0, blocks=[1])):
        assert torch.equal(video(pipe, inputs, 2), plain)
    with steer(pipe, kind(2.0, window=(0.9, 1.0), blocks=[1])) as steering:
        assert not torch.equal(video(pipe, inputs, 2), plain)
    table = steering.report().to_frame()
    assert set(table[table.acted > 0].step) == {1} and kind.name in set(table[table.acted > 0].branch)

    def fail(*args):
        raise KeyboardInterrupt

    handle = pipe.transformer.proj_out.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt), steer(pipe, kind(2.0, blocks=[1])):
        video(pipe, inputs, 2)
    handle.remove()
    assert torch.equal(video(pipe, inputs, 2), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_methods_act_in_the_perturbed_pass_and_recorders_do_not_see_it(kind):
    pipe, inputs = build("cogvideox-i2v")
    shared = [AlignVid(1.5, window="all", blocks="all"), DyMoS(1.0, window="all")]
    with steer(pipe, *shared, kind(2.0, blocks=[1])) as steering, record(pipe, queries=1) as recording:
        first = video(pipe, inputs, 2)
    assert set(recording.to_frame().branch) == {"cond", "uncond"}
    table = steering.report().to_frame()
    acted = table[(table.acted > 0) & (table.branch == kind.name)]
    assert {"AlignVid", "DyMoS"} <= set(acted.method)
    with steer(pipe, kind(2.0, blocks=[1]), *shared):  # attention and prediction are edited apart: the order is free
        assert torch.equal(video(pipe, inputs, 2), first)


def test_with_a_perturbation_that_perturbs_nothing_guidance_is_plain(monkeypatch):
    """Whatever else steers: the perturbed pass is the conditional one, bit for bit, so the difference is zero."""
    monkeypatch.setattr(SkipLayerGuidance, "perturbs", lambda *_: False)
    for name in ("wan2.1-i2v", "cogvideox-i2v", "hunyuan-1.5"):
        pipe, inputs = build(name)
        shared = [AlignVid(1.5, window="all", blocks="all"), DyMoS(1.0, window="all")]
        if name == "cogvideox-i2v":
            shared.append(LowPassGuidance(window="all"))
        with steer(pipe, *shared):
            expected = video(pipe, inputs, 2)
        with steer(pipe, *shared, SkipLayerGuidance(2.0, blocks=[1])):
            assert torch.allclose(video(pipe, inputs, 2), expected, atol=1e-4), name


def test_the_perturbed_pass_does_not_move_the_caches_of_the_ordinary_ones(monkeypatch):
    monkeypatch.setattr(SkipLayerGuidance, "perturbs", lambda *_: False)
    pipe, inputs = build("wan2.1-i2v")
    uncached = video(pipe, inputs, 12)
    pipe.transformer.enable_cache(mag_cache(1.01, threshold=0.06, retention_ratio=0.2, max_skip_steps=3))
    plain = video(pipe, inputs, 12)
    assert not torch.allclose(plain, uncached, atol=1e-3)
    with steer(pipe, SkipLayerGuidance(2.0, blocks=[1])):
        assert torch.allclose(video(pipe, inputs, 12), plain, atol=1e-4)


def test_a_method_that_combines_predictions_must_come_first():
    pipe, inputs = build("wan2.1-i2v")
    with steer(pipe, LowPassGuidance(), SkipLayerGuidance(1.0, blocks=[1])):
        video(pipe, inputs, 2)
    wrong = steer(pipe, SkipLayerGuidance(1.0, blocks=[1]), LowPassGuidance())
    with pytest.raises(ValueError, match=r"list Skip-layer guidance last"), wrong:
        video(pipe, inputs, 2)


def test_a_guider_with_a_formula_of_its_own_and_an_order_of_passes_are_refused():
    pipe, arguments = build("hunyuan-1.5")
    pipe.guider = type("OtherGuidance", (ClassifierFreeGuidance,), {})(guidance_scale=3.0)
    with pytest.raises(ValueError, match="guider is OtherGuidance"), steer(pipe, SkipLayerGuidance(1.0, blocks=[1])):
        pass
    pipe.guider = ClassifierFreeGuidance(guidance_scale=3.0, guidance_rescale=0.5)
    with (
        pytest.raises(ValueError, match="own guidance_rescale"),
        steer(pipe, SkipLayerGuidance(1.0, blocks=[1], rescale=0.7)),
    ):
        video(pipe, arguments, 1)
    model, inputs = make("wan2.1-i2v")
    wrong = steer(model, SkipLayerGuidance(1.0, blocks=[1]), branches=("uncond", "cond"))
    with pytest.raises(ValueError, match="unconditional pass before"), wrong:
        forward(model, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_settings_are_refused(kind):
    for bad, words in (
        ({"scale": math.nan}, "scale must be a finite number"),
        ({"scale": 1.0, "rescale": 2}, r"rescale must be in \[0, 1\]"),
        ({"scale": 1.0, "window": "soon"}, "window 'soon'"),
        ({"scale": 1.0, "blocks": ()}, "names no block"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(**({"blocks": "all"} | bad))
    with pytest.raises(ValueError, match="no block 99"), steer(make("wan2.1-i2v")[0], kind(1.0, blocks=[99])):
        pass
    with pytest.raises(ValueError, match="sigma must be above 0"):
        SmoothedEnergyGuidance(1.0, blocks="all", sigma=0.0)
    with pytest.raises(ValueError, match="block or attention"):
        SkipLayerGuidance(1.0, blocks="all", skip="ff")
    with pytest.raises(ValueError, match="it has stg-cogvideox-5b"):
        SkipLayerGuidance.published("wan")
    assert SkipLayerGuidance.published("slg-sd3.5-medium").blocks == (7, 8, 9)
    with pytest.raises(ValueError, match="one batch"), steer(make("cogvideox-i2v")[0], SkipUnconditional(blocks=[1])):
        pass


def perturbed_calls(method, others, name, batch, grid, dtype):
    """The attention calls of the perturbed pass, as all methods left them."""
    model, inputs = make(name, dtype, batch, grid)
    watcher = Watcher(joins=True)
    with steer(model, *others, method, watcher, steps=10, allow_inactive=True, **options(name)):
        forward(model, inputs)
    found = [(c, out) for c, out in watcher.seen if c.context.extra == method.name and c.site in ("self", "joint")]
    assert found
    return found


@pytest.mark.parametrize("name", FAMILIES)
@given(
    grid=st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(1, 4)),
    batch=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    gamma=st.floats(0.7, 2),
)
@FEW
def test_the_map_of_perturbed_attention_is_the_identity_with_the_text(name, grid, batch, dtype, gamma):
    """Explicitly in float64: logits between different latent tokens are minus infinity, as with diffusers' full mask."""
    scale, shift = (
        AlignVid(gamma, window="all", blocks="all", sites=("self",)),
        DyMoS(1.5, window="all", variant="released"),
    )
    others = [scale, shift] if name in IMAGE_TO_VIDEO else [scale]
    for call, out in perturbed_calls(PerturbedAttentionGuidance(2.0, blocks="all"), others, name, batch, grid, dtype):
        keys = ["text"] * call.key.shape[2]
        for i, group in enumerate(call.keys.groups[-1].tolist()):
            keys[i] = ("text", "text_padding", "image", "reference", "video", "history")[group]
        latent = torch.tensor([k in ("reference", "video", "history") for k in keys])
        z = call.scale * call.query.double() @ call.key.double().mT
        factor = scaling(scale, name, call, z, latent, keys) if gamma != 1 else 1.0
        bias = reference_bias(shift, call, grid, keys, keys) if name in IMAGE_TO_VIDEO else 0.0
        z = z * factor + bias
        largest = float(z.abs().max())
        if call.mask is not None:
            z = z.masked_fill(~call.mask, float("-inf"))
        z = z.masked_fill(latent[:, None] & latent[None] & ~torch.eye(len(keys), dtype=bool), float("-inf"))
        close(out, z.softmax(-1).nan_to_num(0.0) @ call.value.double(), dtype, largest, len(keys))


@pytest.mark.parametrize("name", FAMILIES)
@given(
    grid=st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(1, 5)),
    sigma=st.one_of(st.floats(0.1, 3), st.just(math.inf)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@FEW
def test_smoothed_queries_are_a_gaussian_blur_of_each_frame(name, grid, sigma, dtype):
    """Against SciPy, frame by frame, with the queries of a pass that is not blurred in its first block."""
    plain = perturbed_calls(SmoothedEnergyGuidance(2.0, blocks=[1], sigma=sigma), [], name, 1, grid, dtype)[0][0].query
    call, out = perturbed_calls(SmoothedEnergyGuidance(2.0, blocks=[0], sigma=sigma), [], name, 1, grid, dtype)[0]
    rows = (call.queries.frames >= 0).nonzero().flatten()
    expected = plain.double().clone()
    frames = expected[:, :, rows].unflatten(2, grid).numpy()
    if math.isinf(sigma):
        blurred = np.broadcast_to(frames.mean((3, 4), keepdims=True), frames.shape)
    else:
        blurred = frames
        for axis in (3, 4):
            blurred = correlate1d(blurred, kernel(sigma, frames.shape[axis]).numpy(), axis=axis, mode="mirror")
    expected[:, :, rows] = torch.tensor(blurred.copy()).flatten(2, 4)
    close(call.query, expected, dtype)
    z = call.scale * call.query.double() @ call.key.double().mT
    if call.mask is not None:
        z = z.masked_fill(~call.mask, float("-inf"))
    close(
        out, z.softmax(-1).nan_to_num(0.0) @ call.value.double(), dtype, float(z[z.isfinite()].abs().max()), z.shape[-1]
    )


@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "framepack"])
def test_attention_that_is_skipped_gives_the_values(name):
    for call, out in perturbed_calls(
        SkipLayerGuidance(2.0, blocks="all", skip="attention"), [], name, 1, (3, 2, 4), torch.float32
    ):
        video = call.queries.video
        assert torch.equal(out[:, :, video], call.value[:, :, video])


def test_in_self_attention_skipped_attention_is_perturbed_attention():
    pipe, inputs = build("wan2.2-5b")
    with steer(pipe, PerturbedAttentionGuidance(2.0, blocks=[1])):
        expected = video(pipe, inputs, 2)
    with steer(pipe, SkipLayerGuidance(2.0, blocks=[1], skip="attention")):
        assert torch.equal(video(pipe, inputs, 2), expected)


def test_blocks_are_left_out_of_the_unconditional_pass_alone():
    pipe, inputs = build("wan2.1-i2v")
    with watched_steps(pipe) as (passes, _):
        plain = video(pipe, inputs, 1)
    with without_block(pipe.transformer, 2), torch.inference_mode():
        worse = pipe.transformer(**passes[1][0])[0]
    with watched_steps(pipe) as (_, steps), steer(pipe, SkipUnconditional(blocks=[2], window="all")) as steering:
        video(pipe, inputs, 1)
    assert torch.allclose(steps[0], worse + 3.0 * (passes[0][1] - worse), atol=1e-6)
    assert "in uncond" in str(steering.report())
    assert torch.equal(video(pipe, inputs, 1), plain)


# --- Released code ---------------------------------------------------------------------------------------------------
def stored(entry, name):
    return torch.tensor(entry[name], dtype=torch.float64)


def test_the_blur_is_that_of_the_released_code():
    for entry in RELEASED["SEG"]["cases"]:
        frames = stored(entry, "query")  # (heads * channels, rows, columns)
        found = blur_frames(frames.movedim(0, -1)[None, None, None], entry["sigma"])[0, 0, 0].movedim(-1, 0)
        assert torch.allclose(found, stored(entry, "blurred"), atol=1e-6)


def test_perturbed_joint_attention_is_that_of_diffusers_processor():
    from types import SimpleNamespace

    from methods.core.attention_call import AttentionCall

    entry = RELEASED["PAG"]
    query, key, value = (stored(entry, n) for n in ("query", "key", "value"))
    call = AttentionCall(
        query, key, value, None, query.shape[-1] ** -0.5, "joint", None, SimpleNamespace(branch="cond"), None,
        SimpleNamespace(video=slice(0, entry["latent"])), None, None,
    )  # fmt: skip
    found = PerturbedAttentionGuidance(1.0, blocks="all").edit_attention_output(call, call.compute())
    assert torch.allclose(found, stored(entry, "out"), atol=1e-6)


def test_the_combination_is_that_of_diffusers_guiders_and_of_the_released_rescaling():
    entry = RELEASED["STG"]
    cond, uncond, perturbed = (stored(entry, n) for n in ("cond", "uncond", "perturbed"))
    method = SkipLayerGuidance(entry["stg_scale"], blocks="all", rescale=0.7)
    result = uncond + entry["guidance_scale"] * (cond - uncond) + method.scale * (cond - perturbed)
    assert torch.allclose(result, stored(entry, "guided"), atol=1e-9)
    assert torch.allclose(method._rescaled(result, cond), stored(entry, "rescaled"), atol=1e-9)
