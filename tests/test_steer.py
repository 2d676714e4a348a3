"""Steering transformers of the five families: neutral, exact, and gone afterwards."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from families import FAMILIES, GRID, IMAGE_TO_VIDEO, expected_keys, forward, is_joint, make, options, sites_of

from methods import AlignVid, DyMoS, FocalGuidance, record, steer
from methods.core.backends import SEEN
from methods.core.block_lists import PUBLISHED_BLOCKS, choose_blocks
from methods.families import GROUPS, Block, attention_modules, describe


@pytest.mark.parametrize("name", FAMILIES)
def test_layout_names_every_key(name, calls):
    model, inputs = make(name)
    sites = [s if s == "self" else f"k_{s}" for s in sites_of(name) if s != "joint"] or ["self"]
    with steer(model, AlignVid(1.2, sites=sites, blocks="all", window="all"), **options(name)):
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
    changed = dict(inputs, hidden_states=inputs["hidden_states"].clone())
    FAMILIES[name].first_frame(changed["hidden_states"], GRID).mul_(-1).add_(1)
    site = "joint" if is_joint(name) else "self"
    method = AlignVid(1.2, sites=("self",), blocks=[0], window="all", groups="all")
    for i in (inputs, changed):
        with steer(model, method, **options(name)):
            forward(model, i)
    (first, _), (second, _) = [c for c in calls if c[0].site == site]
    # Text-dependent modulation is the same in both, so only frame 0's keys differ in the first block.
    different = (first.key != second.key).any(-1).any(1)[0]
    assert different.tolist() == (first.keys.frames == 0).tolist()


@pytest.mark.parametrize("name", [n for n in FAMILIES if is_joint(n)])
def test_alignvid_scales_text_and_image_tokens_and_no_video_key(name, calls):
    """Section 4.2: conditioning tokens are scaled for video queries, video keys, the reference frame's among them, are not."""
    model, inputs = make(name)
    with steer(model, AlignVid(1.5, window="all", blocks="all"), **options(name)):
        forward(model, inputs)
    for call, _ in calls:
        scaled = call.video_logits.per_key[-1, 0, :, 0] != 1
        assert scaled.tolist() == [k in ("text", "text_padding", "image") for k in expected_keys(name, "joint")]
        assert call.other_logits.per_key is None and call.other_logits.number == 1


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
        (lambda: AlignVid(1.2, window="erly"), "early, middle, late, all, early-by-time"),
        (lambda: AlignVid(1.2, energy=True), "None, centred, absolute, not True"),
        (lambda: AlignVid(1.2, groups="words"), "'words'"),
        (lambda: AlignVid(1.2, sites=("k_txt",)), "k_txt"),
        (lambda: DyMoS(float("inf")), "finite number, not inf"),
        (lambda: DyMoS(1.0, window=(0, 0)), "0 <= from < to <= 1"),
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
        ("cogvideox-i2v", AlignVid(1.2, groups="image"), "no 'image' keys"),
        ("cogvideox-t2v", AlignVid(1.2, groups="conditioning+reference"), "no 'reference' keys"),
        ("wan-t2v", DyMoS(1.0), "reference frame"),
    ],
)
def test_methods_that_a_model_cannot_have_are_refused(name, method, words):
    model, _ = make(name)
    with pytest.raises(ValueError) as error, steer(model, method):
        pass
    assert words in str(error.value)
    assert "forward" not in model.__dict__


def test_a_wan_of_forty_blocks_has_the_published_list_only_if_it_is_the_published_model():
    forty = tuple(Block(i, str(i)) for i in range(40))
    for name in ("wan2.1-i2v", "wan2.1-flf2v", "wan2.2-a14b", "wan-t2v"):
        model = replace(describe(make(name)[0]), blocks=forty)
        if name == "wan2.1-i2v":
            assert choose_blocks(model, "calibrated") == frozenset(PUBLISHED_BLOCKS["wan2.1-i2v-14b"])
            continue
        with pytest.raises(ValueError, match=r"Wan 2\.1 I2V 14B, which this is not"):
            choose_blocks(model, "calibrated")


UNSEEN = [b for b in AttentionBackendName if b.value not in SEEN]


@pytest.mark.parametrize("backend", UNSEEN, ids=lambda b: b.value)
def test_attention_is_native_only_where_a_method_acts(backend, monkeypatch):
    """A user's backend, here one that doubles what PyTorch's gives, stays bit for bit where nothing acts."""
    assert {"flex", "flash", "sage", "flash_hub", "xformers"} <= {b.value for b in UNSEEN}
    seen = []

    def doubled(query, key, value, attn_mask=None, scale=None, **_):
        seen.append(query)
        q, k, v = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale)
        return 2 * out.permute(0, 2, 1, 3)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, backend, doubled)
    monkeypatch.setitem(
        _AttentionBackendRegistry._supported_arg_names, backend, {"query", "key", "value", "attn_mask", "scale"}
    )
    model, inputs = make("wan2.1-i2v")
    processors = [module.processor for _, _, module in attention_modules(model)]
    for p in processors:
        p._attention_backend = backend  # what set_attention_backend does, where it is installed
    plain, plain_calls = forward(model, inputs), len(seen)
    with steer(model, AlignVid(1.2, window="late", blocks="all"), steps=10, allow_inactive=True) as steering:
        assert torch.equal(forward(model, inputs), plain)
    assert steering.report().left_alone == {backend.value: 8}
    seen.clear()
    with steer(model, AlignVid(1.2, window="all", blocks=[1])) as steering:
        steered = forward(model, inputs)
    assert len(seen) == plain_calls - 2  # image and text attention of block 1
    assert steering.report().made_native == {backend.value: 1} and steering.report().left_alone == {backend.value: 7}
    assert f"attention backend {backend.value}: 1 calls made native" in str(steering.report())
    for p in processors[2:4]:
        p._attention_backend = AttentionBackendName.NATIVE
    processors[2]._attention_backend = backend
    with steer(model, AlignVid(1.2, window="all", blocks=[1])):
        assert torch.equal(forward(model, inputs), steered)
    assert [p._attention_backend for p in processors] == [backend] * 3 + [AttentionBackendName.NATIVE] + [backend] * 4


@pytest.mark.parametrize("name", ["wan2.1-i2v", "hunyuan-1.5"])
def test_context_parallel_models_are_refused(name):
    model, _ = make(name)
    for _, _, module in attention_modules(model):
        processor = module.processor
        assert hasattr(processor, "_parallel_config")  # the attribute in which diffusers keeps it
        processor._parallel_config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=2))
    for method in (AlignVid(1.2), DyMoS(1.0)):
        with pytest.raises(RuntimeError, match="context parallel"), steer(model, method):
            pass


def test_attention_that_a_cache_serves_is_noticed():
    model, inputs = make("cogvideox-i2v")
    block = model.transformer_blocks[0].attn1
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (
        hidden_states,
        encoder_hidden_states,
    )  # no attention is computed
    with pytest.raises(RuntimeError, match="block 0: 0 calls"), steer(model, AlignVid(1.2, window="all")):
        forward(model, inputs)


def test_unknown_models_and_inputs_are_refused():
    with pytest.raises(TypeError, match="WanTransformer3DModel"), steer(torch.nn.Linear(2, 2), AlignVid(1.2)):
        pass
    model, inputs = make("wan2.1-i2v")
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :226]
    with pytest.raises(ValueError, match="512 text tokens, not 226"), steer(model, AlignVid(1.2, window="all")):
        forward(model, inputs)
    with pytest.raises(ValueError, match="give steps="), steer(model, AlignVid(1.2)):
        forward(model, make("wan2.1-i2v")[1])


def test_a_method_that_cannot_act_twice_is_refused_the_second_time():
    class Once(AlignVid):
        once = True

    model, inputs = make("wan2.1-i2v")
    method = Once(1.5, window="all", blocks="all")
    with pytest.raises(ValueError, match="the same Once is attached already"), steer(model, method, method):
        pass
    with steer(model, method):
        first = forward(model, inputs)
        with pytest.raises(ValueError, match="cannot act twice"), steer(model, Once(1.5, window="all", blocks="all")):
            pass
        assert torch.equal(forward(model, inputs), first)
    assert FocalGuidance.once
