"""Steering transformers of the five families: neutral, exact, and gone afterwards."""

from __future__ import annotations

import math
from contextlib import ExitStack

import pytest
import torch
from families import FAMILIES, GRID, IMAGE_TO_VIDEO, forward, make
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import AlignVid, DyMoS, record, steer
from methods.attention import attention_with_lse, biased_attention
from methods.call import AttentionCall
from methods.layout import GROUPS
from methods.record import statistics

FRAMES, SIZE = GRID[0], GRID[1] * GRID[2]


# --- Layouts, written out by hand ------------------------------------------------------------------------------------
def expected_keys(name, site):
    """Group of every key of a site, one string per token, as the models concatenate them."""
    video = ["video"] * SIZE * FRAMES
    if name in IMAGE_TO_VIDEO and name != "framepack":
        video[:SIZE] = ["reference"] * SIZE
    if site == "self":
        return video
    if site == "image":
        return ["image"] * (514 if "flf" in name else 257)
    if site == "text":
        return ["text"] * 5 + ["text_padding"] * 507
    if name.startswith("cogvideox"):
        return ["text"] * 6 + video
    if name == "hunyuan-1.5":
        return video + ["image"] * 6 + ["text"] * (2 + 3) + ["text_padding"] * 7
    if name == "framepack":
        history = ["history"] * (4 * 1 * 1 + 1 * 1 * 2)
        return history + ["reference"] * SIZE + ["history"] * SIZE + video + ["image"] * 3 + ["text"] * 6
    return video + ["image"] * 2 + ["text"] * 6 + ["text_padding"] * 3


def sites_of(name):
    if not name.startswith("wan"):
        return ["joint"]
    return ["self", "image", "text"] if "2.1" in name else ["self", "text"]


def options(name):
    return {"image_tokens": 2} if name.startswith("hunyuan-") and name != "hunyuan-1.5" else {}


@pytest.fixture
def calls(monkeypatch):
    """Every AttentionCall that is computed, with its output."""
    seen = []
    plain = AttentionCall.compute

    def compute(self):
        out = plain(self)
        seen.append((self, out))
        return out

    monkeypatch.setattr(AttentionCall, "compute", compute)
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_layout_names_every_key(name, calls):
    model, inputs = make(name)
    with steer(model, AlignVid(1.2, sites=("self", "k_image", "k_text") if "2.1" in name else ("self", "k_text"), blocks="all",
                               window="all"), **options(name)):  # fmt: skip
        forward(model, inputs)
    found = {call.site: call for call, _ in calls}
    assert sorted(found) == sorted(sites_of(name))
    for site, call in found.items():
        assert [GROUPS[c] for c in call.keys.groups[0].tolist()] == expected_keys(name, site)
        assert call.layout.grid == GRID


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "framepack"])
def test_reference_is_the_first_latent_frame(name, calls):
    """Changing the video tokens of frame 0 changes exactly the keys that the layout calls frame 0."""
    model, inputs = make(name)
    axis = 1 if name.startswith("cogvideox") else 2
    changed = dict(inputs, hidden_states=inputs["hidden_states"].clone())
    per_frame = 2 if name == "cogvideox-1.5" else 1
    changed["hidden_states"].narrow(axis, 0, per_frame).mul_(-1).add_(1)
    site = "self" if name.startswith("wan") else "joint"
    method = AlignVid(1.2, sites=("self",), blocks=[0], window="all", groups="all")
    for i in (inputs, changed):
        with steer(model, method, **options(name)):
            forward(model, i)
    (first, _), (second, _) = [c for c in calls if c[0].site == site]
    # Text-dependent modulation is the same in both, so only frame 0's keys differ in the first block.
    different = (first.key != second.key).any(-1).any(1)[0]
    assert different.tolist() == (first.keys.frames == 0).tolist()


# --- Exactness against explicit float64 softmax ---------------------------------------------------------------------
def explicit(call, factor, bias):
    """softmax(factor * z + bias) v in float64; factor, bias broadcastable to (B, H, Lq, Lk)."""
    z = call.scale * call.query.double() @ call.key.double().transpose(-1, -2)
    z = z * factor + bias
    if call.mask is not None:
        z = z.masked_fill(~call.mask, float("-inf"))
    p = z.softmax(-1).nan_to_num(0.0)  # a query whose keys are all masked gets zeros
    return p, p @ call.value.double()


def close(found, exact, dtype):
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-12}[dtype]
    assert (found.double() - exact).abs().max() <= tolerance * max(1.0, exact.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", IMAGE_TO_VIDEO)
def test_align_vid_and_dymos_together_are_exact(name, dtype, calls):
    """Every attention of a steered forward equals an explicit softmax over factors and biases written out by hand."""
    model, inputs = make(name, dtype)
    methods = [
        AlignVid(1.35, sites=("self", "k_text"), blocks="all", window="all"),
        DyMoS(0.7, steps=1, schedule="log"),
    ]
    with steer(model, *methods, steps=10, **options(name)):
        forward(model, inputs)
    assert len(calls) == len(model.transformer_blocks if hasattr(model, "transformer_blocks") else model.blocks) * (
        2 if name.startswith("wan") else 1
    ) + len(getattr(model, "single_transformer_blocks", []))
    for call, out in calls:
        keys = expected_keys(name, call.site)
        queries = expected_keys(name, "joint") if call.site == "joint" else expected_keys(name, "self")
        is_video = torch.tensor([q in ("reference", "video", "history") for q in queries])
        factor = torch.full((len(queries), len(keys)), 1.35 if call.site != "joint" else 1.0, dtype=torch.float64)
        conditioning = {"text", "text_padding", "reference" if name.startswith("cogvideox") else "image"}
        if call.site == "joint":
            factor[is_video.nonzero(), torch.tensor([k in conditioning for k in keys]).nonzero()[:, 0]] = 1.35
        bias = torch.zeros_like(factor)
        if call.site in ("self", "joint"):
            columns = torch.tensor([k == "reference" for k in keys]).nonzero()[:, 0]
            first = queries.index("video")
            shift, count = (1, FRAMES + 1) if name == "framepack" else (0, FRAMES)
            start = first if name == "framepack" else first - SIZE
            for row in range(first, first + queries.count("video")):
                frame = (row - start) // SIZE + shift
                bias[row, columns] = -0.7 * math.log(1 + frame) / math.log(count)
        close(out, explicit(call, factor, bias)[1], dtype)


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


# --- Neutral, restored, nested ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_neutral_strength_and_recording_change_no_bit_and_leave_nothing(name, dtype):
    model, inputs = make(name, dtype)
    plain, attributes = forward(model, inputs), {n: set(m.__dict__) for n, m in model.named_modules()}
    neutral = [AlignVid(1.0, window="all", blocks="all")] + ([DyMoS(0.0)] if name in IMAGE_TO_VIDEO else [])
    with steer(model, *neutral, steps=10, **options(name)):
        assert torch.equal(forward(model, inputs), plain)
        with record(model, frames=True, received=True, largest=True, **options(name)) as recording:
            assert torch.equal(forward(model, inputs), plain)
    assert len(recording.to_frame())
    with pytest.raises(KeyError), steer(model, AlignVid(1.5, window="all"), **options(name)):
        steered = forward(model, inputs)
        with steer(model, AlignVid(2.0, window="all", sites=("self",))):
            assert not torch.equal(forward(model, inputs), steered)
        assert torch.equal(forward(model, inputs), steered)
        raise KeyError("leaves in the middle")
    assert not torch.equal(steered, plain)
    assert torch.equal(forward(model, inputs), plain)
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == attributes


def test_contexts_may_close_in_any_order():
    model, inputs = make("wan2.1-i2v")
    plain = forward(model, inputs)
    first, second = ExitStack(), ExitStack()
    first.enter_context(steer(model, AlignVid(1.5, window="all")))
    second.enter_context(steer(model, AlignVid(1.2, window="all")))
    first.close()
    with_second = forward(model, inputs)
    second.close()
    with steer(model, AlignVid(1.2, window="all")):
        assert torch.equal(forward(model, inputs), with_second)
    assert torch.equal(forward(model, inputs), plain)


# --- Statistics ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", IMAGE_TO_VIDEO)
def test_statistics_are_exact_under_steering(name, calls):
    model, inputs = make(name)
    with steer(model, AlignVid(1.4, window="all", blocks="all"), DyMoS(0.9, steps=1), steps=5, **options(name)):
        forward(model, inputs)
    for call, _ in calls:
        video = call.queries.video
        rows = torch.arange(video.start, video.stop)
        found = statistics(call, rows, received=True, largest=True)
        factor = call.video.number * (1 if call.video.per_key is None else call.video.per_key.transpose(-1, -2))
        bias = torch.zeros(len(rows), call.key.shape[2], dtype=torch.float64)
        if call.bias is not None:
            bias[:, call.reference] = call.bias[rows].double()[:, None]
        z = call.scale * call.query[:, :, rows].double() @ call.key.double().transpose(-1, -2) * factor + bias
        if call.mask is not None:
            z = z.masked_fill(~call.rows_of_mask(rows), float("-inf"))
        p = z.softmax(-1)
        exact = {("entropy", ""): torch.special.entr(p).sum(-1), ("largest", ""): p.amax(-1)}
        names = expected_keys(name, call.site)
        for group in set(names) & call.layout.groups:
            exact["mass", group] = p[..., [k == group for k in names]].sum(-1)
        for frame in range(FRAMES) if call.site in ("self", "joint") else ():
            exact["frame_mass", frame] = p[..., call.keys.frames == frame].sum(-1)
        inside = [k in ("text", "reference" if name.startswith("cogvideox") else "image") for k in names]
        if any(inside):
            within = p[..., inside] / p[..., inside].sum(-1, keepdim=True)
            exact["conditioning_entropy", ""] = torch.special.entr(within).sum(-1)
        assert found["rows"].keys() == exact.keys()
        for key, value in exact.items():
            close(found["rows"][key], value, torch.float32)
        close(found["received"], p.mean(2), torch.float32)


def test_recording_says_what_it_saw(tmp_path):
    model, inputs = make("wan2.1-i2v")
    with record(model, frames=True, received=True, queries=3) as recording:
        forward(model, inputs)
        forward(model, dict(inputs, timestep=torch.tensor([500.0])))
    table = recording.to_frame()
    assert set(table.step) == {0, 1} and set(table.branch) == {"cond"} and set(table.queries_per_frame) == {3}
    mass = table[table.statistic == "mass"].groupby(["step", "block", "site", "query_frame"]).value.sum()
    assert (mass - 1).abs().max() < 1e-5
    by_frame = table[(table.statistic == "frame_mass")].groupby(["step", "block", "query_frame"]).value.sum()
    assert (by_frame - 1).abs().max() < 1e-5
    assert recording.attention_received(1, "0", "cond", "self").sum() == pytest.approx(1, abs=1e-5)
    recording.save(tmp_path / "deep" / "attention.csv")
    assert len((tmp_path / "deep" / "attention.csv").read_text().splitlines()) == len(table) + 1


# --- Refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AlignVid(0), "above 0, not 0"),
        (lambda: AlignVid(float("nan")), "not nan"),
        (lambda: AlignVid(1.2, window=(0.5, 1.2)), "0 <= from < to <= 1"),
        (lambda: AlignVid(1.2, window="erly"), "early, middle, late, all"),
        (lambda: AlignVid(1.2, groups="words"), "'words'"),
        (lambda: AlignVid(1.2, sites=("k_txt",)), "k_txt"),
        (lambda: DyMoS(float("inf")), "finite number, not inf"),
        (lambda: DyMoS(1.0, steps=0), "(0, 1], not 0"),
        (lambda: DyMoS(1.0, schedule="cubic"), "'cubic'"),
        (lambda: DyMoS.published("sora"), "cogvideox-5b"),
    ],
)
def test_bad_settings_are_named(build, words):
    with pytest.raises(ValueError) as error:
        build()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("wan2.1-i2v", AlignVid(1.2, blocks=(9,)), "no block 9"),
        ("wan2.1-i2v", AlignVid(1.2, blocks="calibrated"), "no calibrated list"),
        ("framepack", AlignVid(1.2, blocks="calibrated"), "framepack-f1"),
        ("wan-t2v", AlignVid(1.2, sites=("k_image",)), "no image attention"),
        ("cogvideox-t2v", AlignVid(1.2, groups="image"), "no 'image' keys"),
        ("wan-t2v", DyMoS(1.0), "reference frame"),
    ],
)
def test_methods_that_a_model_cannot_have_are_refused(name, method, words):
    model, _ = make(name)
    with pytest.raises(ValueError) as error, steer(model, method):
        pass
    assert words in str(error.value)
    assert "forward" not in model.__dict__


def test_models_and_backends_that_cannot_be_seen_are_refused():
    with pytest.raises(TypeError, match="WanTransformer3DModel"), steer(torch.nn.Linear(2, 2), AlignVid(1.2)):
        pass
    model, inputs = make("wan2.1-i2v")
    model.set_attention_backend("flex")
    with pytest.raises(RuntimeError, match="flex"), steer(model, AlignVid(1.2)):
        pass
    model.set_attention_backend("native")
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :226]
    with pytest.raises(ValueError, match="512 text tokens, not 226"), steer(model, AlignVid(1.2, window="all")):
        forward(model, inputs)
    with pytest.raises(ValueError, match="give steps="), steer(model, AlignVid(1.2)):
        forward(model, make("wan2.1-i2v")[1])
