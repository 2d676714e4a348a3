"""Every edit and every recorded statistic equals an explicit float64 softmax, on random shapes, masks and strengths."""

from __future__ import annotations

import math

import pytest
import torch
from families import FAMILIES, IMAGE_TO_VIDEO, expected_keys, forward, is_joint, make, options
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from methods import AlignVid, DyMoS, steer
from methods.align_vid import SITES
from methods.core.attention_statistics import statistics
from methods.core.log_sum_exp import attention_with_lse, biased_attention

CONDITIONING = {"text": {"text", "text_padding"}, "image": {"image"}, "conditioning": {"text", "text_padding", "image"}}
CONDITIONING |= {"reference": {"reference"}, "conditioning+reference": CONDITIONING["conditioning"] | {"reference"}}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-12}


def close(found, exact, dtype, logits=1.0, keys=1):
    """`logits`: the largest one, whose rounding to float32 costs 6e-8 of its size. `keys`: their number; the roundings of
    Wan's 500 equal padding keys all go the same way: plain SDPA is 1.5e-5 off there, entropies up to 3e-4 nats."""
    error = (found.double() - exact).abs().max()
    assert error <= TOLERANCE[dtype] * max(1.0, exact.abs().max(), logits / 50, keys / 15)


def scaling(method, name, call, z, video, keys):
    """AlignVid's factor on each logit, broadcastable to (B, H, Lq, Lk), written out from its description."""
    rows, columns = torch.ones(len(video), dtype=bool), torch.ones(len(keys), dtype=bool)
    power = 1
    if call.site != "joint":
        power = sum(s in (call.site, f"q_{call.site}", f"k_{call.site}") for s in method.sites)
        if method.variant == "released" and call.site == "text" and "q_image" in method.sites:
            power += 1
    elif method.variant == "paper":
        if method.queries == "video":
            rows = video
        if method.target == "k" and method.groups != "all":
            columns = torch.tensor([k in CONDITIONING[method.groups] for k in keys])
    chosen = rows[:, None] & columns[None]
    gamma = torch.tensor(method.gamma, dtype=torch.float64)
    if method.energy:
        # Over the queries that are scaled and all keys but masked ones.
        seen = allowed(call.mask, z).any(-2, keepdim=True) & rows[:, None]
        mean = (z * seen).sum((-1, -2), keepdim=True) / seen.sum((-1, -2), keepdim=True)
        typical = mean.mean(1, keepdim=True) if method.energy == "centred" else 0.0
        gamma = method.gamma ** (2 * torch.sigmoid(typical - mean))
    return torch.where(chosen, gamma**power, 1.0)


def allowed(mask, z):
    """(B, H, Lq, Lk) bool: what the model's mask lets through, be it bool or -10000 for a key that is shut out."""
    if mask is None:
        return torch.ones_like(z, dtype=torch.bool)
    return (mask if mask.dtype == torch.bool else mask == 0).expand_as(z)


def reference_bias(method, call, grid, queries, keys):
    """DyMoS's bias (Lq, Lk), written out from its description; FramePack's window starts after its reference."""
    bias = torch.zeros(len(queries), len(keys), dtype=torch.float64)
    if call.site not in ("self", "joint"):
        return bias
    size, columns = grid[1] * grid[2], [i for i, k in enumerate(keys) if k == "reference"]
    apart = bool((call.queries.frames[columns] < 0).all())
    generated = [i for i, q in enumerate(queries) if q == "video"]
    last = grid[0] if apart else grid[0] - 1
    for position, row in enumerate(generated):
        frame = 1 + position // size
        h = {"uniform": 1.0, "linear": frame / last, "log": math.log(1 + frame) / math.log(1 + last)}[method.schedule]
        bias[row, columns] = -method.gamma * h
    if method.variant == "released":
        for row in columns:
            bias[row, columns] = -method.gamma
    return bias


def explicit(call, z, factor, bias):
    """(p, p v, largest logit) in float64; a query whose keys are all masked gets zeros."""
    z = z * factor + bias
    largest = float(z.abs().max())
    z = z.masked_fill(~allowed(call.mask, z), float("-inf"))
    p = z.softmax(-1).nan_to_num(0.0)
    return p, p @ call.value.double(), largest


@st.composite
def align_vids(draw):
    sites = draw(st.lists(st.sampled_from(SITES), min_size=1, max_size=3, unique=True))
    return AlignVid(
        draw(st.floats(0.5, 3)), target=draw(st.sampled_from("qk")), sites=tuple(sites), window="all", blocks="all",
        groups=draw(st.sampled_from([*CONDITIONING, "all"])), energy=draw(st.sampled_from([None, "centred", "absolute"])),
        variant=draw(st.sampled_from(["paper", "released"])), queries=draw(st.sampled_from(["video", "all"])),
    )  # fmt: skip


dymos = st.builds(
    DyMoS, st.floats(-2, 2), window=st.just("all"), schedule=st.sampled_from(["uniform", "linear", "log"]),
    variant=st.sampled_from(["paper", "released"]),
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
@given(
    grid=st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 4)),
    words=st.integers(1, 6),
    batch=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=align_vids(),
    shift=dymos,
)
@settings(
    max_examples=14, deadline=None, derandomize=True,  # other ones for every family
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
)  # fmt: skip
def test_steered_attention_and_its_statistics_are_exact(calls, name, grid, words, batch, dtype, scale, shift):
    """AlignVid and DyMoS together, in every attention call of a forward of every family."""
    if not is_joint(name):
        assume("image" in FAMILIES[name].sites or not any("image" in s for s in scale.sites))
    else:
        needed = scale.groups.removeprefix("conditioning+")
        assume(needed in ("text", "conditioning", "all") or needed in expected_keys(name, "joint"))
    calls.clear()
    model, inputs = make(name, dtype, batch, grid, words)
    methods = [scale, shift] if name in IMAGE_TO_VIDEO else [scale]
    with steer(model, *methods, steps=10, **options(name)):
        forward(model, inputs)
    assume(calls)  # gammas of 1 and 0 act nowhere, nor do some sites
    for call, out in calls:
        keys = expected_keys(name, call.site, grid, words, batch)
        queries = expected_keys(name, "joint" if call.site == "joint" else "self", grid, words, batch)
        queries = queries[
            -call.query.shape[2] :
        ]  # Helios's video, which comes last, may be all that attends to the text
        video = torch.tensor([q in ("reference", "video", "history") for q in queries])
        z = call.scale * call.query.double() @ call.key.double().transpose(-1, -2)
        # AlignVid's released code leaves the dual-stream blocks alone; DyMoS acts in all.
        skipped = (scale.variant == "released" and call.block.name.startswith("double.")) or scale.gamma == 1
        factor = torch.ones(()) if skipped else scaling(scale, name, call, z, video, keys)
        bias = torch.zeros(())
        if name in IMAGE_TO_VIDEO and shift.gamma:
            bias = reference_bias(shift, call, grid, queries, keys)
        p, exact, largest = explicit(call, z, factor, bias)
        close(out, exact, dtype, largest, len(keys))
        if dtype == torch.float32:
            check_statistics(call, p, keys, largest)


def check_statistics(call, p, keys, largest):
    """Statistics of the last sample's video queries against its explicit attention p (B, H, Lq, Lk)."""
    rows = torch.arange(call.queries.video.start, call.queries.video.stop)
    found, p = statistics(call, rows, received=True, largest=True), p[-1:, :, rows]
    exact = {("entropy", ""): torch.special.entr(p).sum(-1), ("largest", ""): p.amax(-1)}
    for group in set(keys):
        exact["mass", group] = p[..., [k == group for k in keys]].sum(-1)
    for frame in call.keys.frames.unique().tolist():
        if frame >= 0:
            exact["frame_mass", frame] = p[..., call.keys.frames == frame].sum(-1)
    inside = {"text", "image"} if call.site != "joint" or "image" in call.layout.groups else {"text", "reference"}
    inside = torch.tensor([k in inside for k in keys])
    if inside.any():
        within = p[..., inside] / p[..., inside].sum(-1, keepdim=True)
        exact["conditioning_entropy", ""] = torch.special.entr(within).sum(-1)
    assert found["rows"].keys() >= exact.keys()
    for key, value in exact.items():
        close(found["rows"][key].expand(call.query.shape[0], -1, -1)[-1:], value, torch.float32, largest, len(keys))
    close(found["received"][-1:], p.mean(2), torch.float32, largest, len(keys))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(2, 11), st.integers(1, 9)),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    masked=st.sampled_from(["none", "keys", "rows"]),
    strength=st.floats(-8, 8),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=200, deadline=None)
def test_biased_attention_is_exact(shape, cut, masked, strength, seed, dtype):
    b, h, lq, lk, d = shape
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, h, n, d, generator=generator).to(dtype) * 2 for n in (lq, lk, lk))
    start = int(cut[0] * (lk - 1))
    stop = start + 1 + int(cut[1] * (lk - start - 1))
    bias = torch.randn(lq, generator=generator) * strength
    mask = None
    if masked != "none":
        mask = torch.rand(b, 1, 1 if masked == "keys" else lq, lk, generator=generator) > 0.4
    out = biased_attention(q, k, v, slice(start, stop), bias, mask)
    z = d**-0.5 * q.double() @ k.double().transpose(-1, -2)
    z[..., start:stop] += bias.double()[:, None]
    if mask is not None:
        z = z.masked_fill(~mask, float("-inf"))
    close(out, z.softmax(-1).nan_to_num(0.0) @ v.double(), dtype)
    plain, lse = attention_with_lse(q, k, v, mask)
    z[..., start:stop] -= bias.double()[:, None]
    exact = z.logsumexp(-1)
    assert torch.equal(torch.isinf(lse), torch.isinf(exact))
    close(lse.nan_to_num(0, 0, 0), exact.nan_to_num(0, 0, 0), dtype)
    close(plain, z.softmax(-1).nan_to_num(0.0) @ v.double(), dtype)


def test_the_cuda_kernels_that_are_called_have_the_expected_arguments():
    """Their results can only be tested on a GPU (test_log_sum_exp.py); that they can be called so is checked everywhere."""
    ops = torch.ops.aten
    for kernel in (ops._scaled_dot_product_flash_attention, ops._scaled_dot_product_efficient_attention):
        schema = kernel.default._schema
        assert [a.name for a in schema.arguments][:3] == ["query", "key", "value"]
        assert "scale" in [a.name for a in schema.arguments if a.kwarg_only] and len(schema.returns) >= 2
        assert schema.returns[1].name in ("logsumexp", "log_sumexp")
    names = [a.name for a in ops._scaled_dot_product_efficient_attention.default._schema.arguments]
    assert names[3:5] == ["attn_bias", "compute_log_sumexp"]
