"""Focal Guidance: every equation against a few lines of float64, and the whole method in the embedded pipeline."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from diffusers import WanImageToVideoPipeline
from families import make
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_pipelines import build

from analysis.study.parameters import load_parameters
from analysis.study.video_files import read_video
from analysis.videos.generate import generate
from methods import AlignVid, DyMoS, FocalGuidance, LowPassGuidance, record, steer
from methods.focal_anchors.pipeline_run import _runs, current_run, forget_run
from methods.focal_guidance import keyword_maps
from methods.registry import from_dict, to_dict

CLIP, CHECKPOINT = "testbed/checkpoints/clip", "testbed/checkpoints/wan-i2v"
PROMPT = "a yellow square and a purple circle. then the yellow square changes to cyan."
WEAK = (2, 3)


@pytest.fixture(scope="module")
def pipe():
    pipe = WanImageToVideoPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture():
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[36:56, 6:26] = (240, 220, 40)
    pixels[8:28, 38:58] = (180, 50, 190)
    return Image.fromarray(pixels)


def video(pipe, guidance=1.0, steps=3, prompt=PROMPT, **more):
    with torch.no_grad():
        return pipe(
            image=picture(), prompt=prompt, negative_prompt="", height=64, width=64, num_frames=9,
            num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(3),
            output_type="latent", **more,
        ).frames  # fmt: skip


def settings(**changed):
    return {"weak": WEAK, "sign": 1, "select": -1.0} | changed


# --- The parts, in a running pipeline --------------------------------------------------------------------------------
def block_io(pipe, index):
    """What enters each block's forward and the text values of its attention in one call, by hooks of the test's own."""
    seen = {"hidden": [], "context": []}
    handle = pipe.transformer.blocks[index].norm1.register_forward_pre_hook(
        lambda m, a: seen["hidden"].append(a[0].clone())
    )
    other = pipe.transformer.blocks[index].attn2.register_forward_pre_hook(
        lambda m, a: seen["context"].append(a[1].clone())
    )
    return seen, lambda: (handle.remove(), other.remove())


@torch.no_grad()
def explicit_values(pipe, found, index):
    """V_k^vis (K, C) in float64: image embedder and value projection written out."""
    embedder, attention = pipe.transformer.condition_embedder.image_embedder, pipe.transformer.blocks[index].attn2
    x = embedder(found.anchors[None]).double()[0]
    return x @ attention.add_v_proj.weight.double().T + attention.add_v_proj.bias.double()


@torch.no_grad()
def test_text_values_take_up_the_anchors(pipe, calls):
    """Eq. 8: the output of the text branch is attention over the changed values."""
    method = FocalGuidance(CLIP, **settings(text=0.7, latent=0, cache=0))
    with steer(pipe, method):
        video(pipe, steps=1)
    found = method.anchors(pipe)
    assert {c.block.index for c, _ in calls} == set(WEAK) and {c.site for c, _ in calls} == {"text"}
    for call, out in calls:
        attention = pipe.transformer.blocks[call.block.index].attn2
        text = pipe.transformer.condition_embedder.text_embedder(pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False,
                                                                                   max_sequence_length=512)[0])  # fmt: skip
        value = attention.to_v(text).double()
        for k, at in enumerate(found.tokens):
            value[:, list(at)] += 0.7 * explicit_values(pipe, found, call.block.index)[k]
        value = value.unflatten(-1, (call.value.shape[1], -1)).transpose(1, 2)
        p = (call.scale * call.query.double() @ call.key.double().transpose(-1, -2)).softmax(-1)
        assert torch.allclose(out.double(), p @ value, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("source", ["previous", "earlier"])
def test_latents_and_cache_change_what_enters_weak_blocks(pipe, source):
    """Eqs. 9 to 13, with the inputs of all blocks noted by hooks of the test's own."""
    method = FocalGuidance(
        CLIP, **settings(text=0, latent=0.3, cache=0.2, cache_threshold=0.05, cache_from=source)
    )  # fmt: skip
    count = len(pipe.transformer.blocks)
    notes = [block_io(pipe, i) for i in range(count)]
    outputs = [[] for _ in range(count)]
    handles = [
        b.register_forward_hook(lambda m, a, o, i=i: outputs[i].append(o.clone()))
        for i, b in enumerate(pipe.transformer.blocks)
    ]
    with steer(pipe, method):
        video(pipe, steps=2)
    for handle in handles:
        handle.remove()
    for _, undo in notes:
        undo()
    found = method.anchors(pipe)
    frame = 64
    for step in range(2):
        for index in WEAK:
            entered = outputs[index - 1][step].double()  # the block before gives what would enter
            visual = explicit_values(pipe, found, index)
            expected = entered.clone()
            weights = found.weights.flatten(1).double()
            weights = weights / weights.amax(1, keepdim=True)
            expected[:, :frame] += 0.3 * weights.T @ visual
            if source == "previous":
                sources = [(step - 1, i) for i in range(count) if i not in WEAK] if step else []
            else:
                sources = [(step, i) for i in range(index) if i not in WEAK]
            maps = []
            for s, i in sources:
                context = notes[i][0]["context"][s][:, -512:].double()
                attention = pipe.transformer.blocks[i].attn2
                features = torch.stack([context[:, list(at)].mean(1) for at in found.tokens], 1)
                value = features @ attention.to_v.weight.double().T + attention.to_v.bias.double()
                z = notes[i][0]["hidden"][s].double()
                maps.append(F.cosine_similarity(value[:, :, None], z[:, None], dim=-1))
            if maps:
                cached = torch.stack(maps).mean(0)
                cached = torch.where(cached > 0.05, cached, 0.0)
                expected += 0.2 * torch.einsum("bkl,kc->blc", cached, visual)
            got = notes[index][0]["hidden"][step].double()
            assert (got - expected).abs().max() < 1e-4 * max(1, expected.abs().max())
    assert len({key[1] for key in current_run(pipe).similarity_maps}) <= 2  # no more than two steps are kept


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**31))
def test_keyword_maps_are_cosines(batch, words, tokens, size, seed):
    """Eq. 10."""
    g = torch.Generator().manual_seed(seed)
    v, z = torch.randn(batch, words, size, generator=g), torch.randn(batch, tokens, size, generator=g)
    exact = F.cosine_similarity(v.double()[:, :, None], z.double()[:, None], dim=-1)
    assert torch.allclose(keyword_maps(v, z).double(), exact, atol=1e-6)


@torch.no_grad()
def test_attention_maps_are_the_layers_own_attention_among_the_words(pipe, calls):
    """`cache_map="attention"`: a softmax over the words written out, of every responsive block at the last step."""
    method = FocalGuidance(CLIP, **settings(text=0, latent=0, cache=0.2, cache_map="attention"))
    with steer(pipe, method):
        video(pipe, steps=2)
    found, maps = method.anchors(pipe), current_run(pipe).similarity_maps[method, 1]
    assert sorted(maps) == [i for i in range(len(pipe.transformer.blocks)) if i not in WEAK]
    words = len(pipe.tokenizer(PROMPT)["input_ids"])
    for call, _ in calls:
        if call.context.step == 1 and call.block.index in maps:
            p = (call.scale * call.query.double() @ call.key.double()[:, :, :words].mT).softmax(-1).mean(1)
            exact = torch.stack([p[..., list(at)].sum(-1) for at in found.tokens], 1)
            assert torch.allclose(maps[call.block.index].double(), exact, atol=1e-5)


@torch.no_grad()
def test_the_injection_does_not_depend_on_the_number_of_tokens(pipe):
    """Eq. 9: with weights of at most 1, a token of a frame with more tokens is changed as much as one of a frame with few."""
    from methods.core.forward_context import ForwardContext
    from methods.families import describe

    model, largest = describe(pipe.transformer), {"peak": [], "sum": []}
    with steer(pipe, FocalGuidance(CLIP, **settings())):
        video(pipe, steps=1)
    for injection, found in largest.items():
        method = FocalGuidance(CLIP, **settings(text=0, latent=0.3, cache=0, injection=injection))
        context = ForwardContext(0, 2, 999.0, "cond", 1.0, pipe)
        for side in (8, 32):
            tokens = torch.zeros(1, 2 * side * side, pipe.transformer.config.num_attention_heads
                                 * pipe.transformer.config.attention_head_dim)  # fmt: skip
            out = method.edit_block(model, context, model.blocks[WEAK[0]], (2, side, side), tokens, None)
            found.append(out.norm(dim=-1).max().item())
    assert largest["peak"][1] == pytest.approx(largest["peak"][0], rel=1e-4)
    assert largest["sum"][1] < largest["sum"][0] / 10


def test_strength_zero_changes_no_bit_and_nothing_stays_behind(pipe):
    names = {n: set(m.__dict__) for n, m in pipe.transformer.named_modules()}
    plain, guided = video(pipe), video(pipe, guidance=3.0)
    with steer(pipe, FocalGuidance(CLIP, **settings(text=0, latent=0, cache=0))):
        assert torch.equal(video(pipe), plain) and torch.equal(video(pipe, guidance=3.0), guided)
    for part in ({"text": 0.5}, {"latent": 0.2}, {"cache": 0.2}):
        with steer(pipe, FocalGuidance(CLIP, **settings(**({"text": 0, "latent": 0, "cache": 0} | part)))):
            changed = video(pipe, guidance=3.0)
            assert changed.isfinite().all() and not torch.equal(changed, guided)
            assert torch.equal(video(pipe, guidance=3.0), changed)
    assert torch.equal(video(pipe), plain)
    assert {n: set(m.__dict__) for n, m in pipe.transformer.named_modules()} == names
    assert not {"encode_prompt", "encode_image"} & set(vars(pipe))


def test_it_composes_and_is_recorded(pipe):
    methods = [FocalGuidance(CLIP, **settings()), AlignVid(1.35, window="all"), DyMoS(0.6, window=(0, 0.5))]
    with steer(pipe, *methods), record(pipe, queries=2) as recording:
        together = video(pipe)
    with steer(pipe, *methods[1:]):
        assert not torch.equal(video(pipe), together)
    assert len(recording.to_frame())


def test_a_real_sized_layout_of_wan_runs():
    """257 image tokens, two attention heads, anchors of a CLIP model that does not belong: refused by its size."""
    pipe, inputs = build("wan2.1-i2v")
    method = FocalGuidance(CLIP, **settings(weak=(1, 2)))
    with pytest.raises(ValueError, match="same encoder"), steer(pipe, method):
        pipe(**inputs, num_inference_steps=1, output_type="latent")


# --- Refusals --------------------------------------------------------------------------------------------------------
def test_a_prompt_without_keywords_warns_and_changes_nothing(pipe):
    plain = video(pipe)
    with steer(pipe, FocalGuidance(CLIP, **settings(select=0.999))), pytest.warns(UserWarning, match=r"above 0\.999"):
        assert torch.equal(video(pipe), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with steer(pipe, FocalGuidance(CLIP, **settings())):
            video(pipe)


def test_what_wraps_the_pipeline_inside_the_context_stays_and_we_pass_through(pipe):
    plain = video(pipe)
    with steer(pipe, FocalGuidance(CLIP, **settings()), LowPassGuidance(space="image")):
        ours = pipe.encode_prompt, pipe.encode_image, pipe.prepare_latents
        for name, wrapped in zip(("encode_prompt", "encode_image", "prepare_latents"), ours, strict=True):
            setattr(pipe, name, lambda *args, wrapped=wrapped, **kwargs: wrapped(*args, **kwargs))
    forget_run(pipe)
    assert torch.equal(video(pipe), plain) and pipe not in _runs
    for name in ("encode_prompt", "encode_image", "prepare_latents"):
        delattr(pipe, name)
    assert torch.equal(video(pipe), plain)


def test_the_manifest_says_that_a_video_was_not_changed(tmp_path, monkeypatch):
    """The video is made, counts as it is, and its row says why the guidance did nothing; also when it is made no more."""
    parameters = load_parameters()
    sweep = parameters.sweeps["focal"].model_copy(update={"samples": 1, "methods": ["none", "strict", "loose"]})
    backbone = parameters.backbones["wan-i2v"].model_copy(update={"steps": 1})
    strict, loose = ([parameters.methods["focal-full"][0] | {"select": select}] for select in (0.999, -1.0))
    parameters = parameters.model_copy(
        update={"sweeps": {"s": sweep}, "backbones": {"wan-i2v": backbone},
                "methods": {"none": [], "strict": strict, "loose": loose}}
    )  # fmt: skip
    monkeypatch.setattr(type(parameters), "runs", tmp_path)
    tmp_path = tmp_path / "wan/s"
    for _ in range(2):
        with ThreadPoolExecutor(1) as executor:
            assert generate(parameters, "s", executor) == 0
        rows = pd.read_csv(tmp_path / "manifest.csv", keep_default_na=False).set_index("method")
        assert list(rows["status"]) == ["ok"] * 3 and rows["reason"]["none"] == rows["reason"]["loose"] == ""
        assert "above 0.999" in rows["reason"]["strict"] and "this video is not changed" in rows["reason"]["strict"]
    same = [read_video(tmp_path / f"{rows['key'][name]}.mkv") for name in ("none", "strict")]
    assert np.array_equal(*same)
    parameters = parameters.model_copy(update={"sweeps": {"s": sweep.model_copy(update={"methods": ["none"]})}})
    with ThreadPoolExecutor(1) as executor:
        generate(parameters, "s", executor)
    assert len(list(tmp_path.glob("*.mkv"))) == 1 and not list(tmp_path.glob("*.txt"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": -1}, "text must be a finite number"), ({"latent": float("nan")}, "latent"), ({"sign": 0}, r"\(-1, 1\)"),
        ({"select": 2}, r"\[-1, 1\]"), ({"region": -0.1}, r"\[0, 1\]"), ({"cache_from": "next"}, "previous"),
        ({"readout": "word"}, "phrase"), ({"injection": "mean"}, "peak"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(changed, words):
    with pytest.raises(ValueError, match=words):
        FocalGuidance(CLIP, **settings(**changed))


def test_what_it_cannot_work_with_is_refused(pipe):
    model, _ = make("wan2.1-i2v")
    cases = [
        (pipe, FocalGuidance(CLIP, weak=(40,)), "no block 40"),
        (pipe, FocalGuidance("nowhere", weak=(1,)), "no CLIP model at nowhere"),
        (pipe, FocalGuidance(f"{CHECKPOINT}/image_encoder", weak=(1,)), "no text half"),
        (model, FocalGuidance(CLIP, weak=(1,)), "steer a pipeline"),
        (make("cogvideox-i2v")[0], FocalGuidance(CLIP, weak=(1,)), "needs a trained `projection`"),
        (make("wan-t2v")[0], FocalGuidance(CLIP, weak=(1,)), "the image attention of Wan 2.1"),
    ]
    for target, method, words in cases:
        with pytest.raises(ValueError, match=words), steer(target, method):
            pass
    with steer(pipe, FocalGuidance(CLIP, **settings())), pytest.raises(ValueError, match="one video at a time"):
        video(pipe, prompt=[PROMPT, PROMPT])


def test_settings_survive_a_dictionary():
    method = FocalGuidance(CLIP, **settings(text=0.4))
    assert from_dict(to_dict(method)) == method
    with pytest.raises(ValueError, match="focal needs clip"):
        from_dict({"method": "focal"})


@pytest.mark.parametrize("kind", ["skyreels-v2", "chronoedit"])
def test_models_of_wans_shape_are_guided_as_wan_is(kind, pipe):
    """Wan's weights in the transformer and the pipeline of SkyReels-V2 and ChronoEdit give Wan's video."""
    from diffusers import (
        ChronoEditPipeline,
        ChronoEditTransformer3DModel,
        SkyReelsV2ImageToVideoPipeline,
        SkyReelsV2Transformer3DModel,
    )

    model, pipeline = {
        "skyreels-v2": (SkyReelsV2Transformer3DModel, SkyReelsV2ImageToVideoPipeline),
        "chronoedit": (ChronoEditTransformer3DModel, ChronoEditPipeline),
    }[kind]
    config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
    transformer = model(**config).eval()
    transformer.load_state_dict(pipe.transformer.state_dict())
    parts = {k: v for k, v in pipe.components.items() if k not in ("transformer", "transformer_2")}
    other = pipeline(transformer=transformer, **parts)
    other.set_progress_bar_config(disable=True)
    # These pipelines tell the autoencoder's scale by the number of its time steps, which the embedded one has fewer of.
    other.vae_scale_factor_spatial, other.vae_scale_factor_temporal = (
        pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    )  # fmt: skip
    method = FocalGuidance(CLIP, **settings(text=1.0, latent=0.5, cache=0.5))
    # ChronoEdit makes more than two frames only while it reasons about time.
    more = {"enable_temporal_reasoning": True, "num_temporal_reasoning_steps": 3} if kind == "chronoedit" else {}
    plain = video(pipe, 3.0)
    assert torch.allclose(video(other, 3.0, **more), plain, atol=1e-4)
    with steer(pipe, method):
        expected = video(pipe, 3.0)
    with steer(other, method):
        found = video(other, 3.0, **more)
    assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(found, plain, atol=1e-2)
