"""Focal Guidance in HunyuanVideo's joint attention, where the text stands behind the video and the image's tokens: the
equations against a few lines of float64, in dual and in single stream blocks of a small random pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from families import make
from random_testbed import CLIP, picture, projections, spread_biases_too

from methods import DyMoS, FocalGuidance, LowPassGuidance, steer
from methods.focal_anchors.keywords import find_anchors, load_clip
from methods.focal_anchors.projection import encode_reference, sizes
from next_testbed import hunyuan
from next_testbed.models import SLOTS

PROMPT = "we see a yellow square and a purple circle. the yellow square pushes the purple circle."
DUAL, SINGLE, FRAME = 2, 2, 64
WEAK = (1, 2)  # the second dual block and the first single one


@pytest.fixture(scope="module")
def pipe():
    """The small image-to-video pipeline with random weights, spread so that attention is not uniform."""
    torch.manual_seed(0)
    transformer = hunyuan.build_transformer(image_to_video=True).eval()
    transformer.transformer_blocks = transformer.transformer_blocks[:DUAL]
    transformer.single_transformer_blocks = transformer.single_transformer_blocks[:SINGLE]
    llava = hunyuan.build_text_encoder().eval()
    parts = hunyuan.build_vae().eval(), llava, spread_biases_too(transformer), hunyuan.build_clip().eval()
    pipe = hunyuan.image_to_video_pipeline(*parts)
    assert sizes(transformer, CLIP)[0] == 64
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def files(pipe, tmp_path_factory):
    """Files of a random projection and of one that was not trained."""
    files, trained = projections(tmp_path_factory.mktemp("projection"), pipe.transformer)
    return files | {"module": trained}


def video(pipe, guidance=1.0, steps=2, prompt=PROMPT):
    with torch.no_grad():
        return pipe(
            image=picture(), prompt=prompt, height=64, width=64, num_frames=5, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(3), output_type="latent",
            **hunyuan.call_arguments(guidance, image_to_video=True),
        ).frames  # fmt: skip


def guidance(files, **changed):
    settings = {"weak": WEAK, "sign": 1, "select": -1.0, "projection": files["trained"]} | changed
    return FocalGuidance(CLIP, **settings)


def blocks(pipe):
    return [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]


def value_weight(pipe, index):
    attention = blocks(pipe)[index].attn
    return (attention.add_v_proj if index < DUAL else attention.to_v).weight.double()


def explicit_visual(pipe, files, found, index):
    """V_k^vis (K, C) in float64: the projection's tokens by the weight of the text's values alone."""
    with torch.no_grad():
        tokens = files["module"].double()(found.anchors.double())
    files["module"].float()
    return tokens @ value_weight(pipe, index).T


class Given:
    """What every block is given, before and after the guidance."""

    def __init__(self, pipe):
        self.before, self.after, self.handles = [], [], []
        for index, block in enumerate(blocks(pipe)):
            note = lambda m, a, k, i=index: self.before.append((i, k.get("hidden_states", a[0] if a else None).clone()))  # noqa: E731
            self.handles.append(block.register_forward_pre_hook(note, with_kwargs=True))
            inner = block.norm1 if index < DUAL else block.norm
            seen = lambda m, a, k, i=index: self.after.append((i, (a[0] if a else k["hidden_states"]).clone()))  # noqa: E731
            self.handles.append(inner.register_forward_pre_hook(seen, with_kwargs=True))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("weak", WEAK)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_words_values_take_up_the_anchors(pipe, files, calls, scale, weak):
    """Eqs. 7 and 8, at the places where the words stand: behind the video and every fourth of the image's tokens."""
    method = guidance(files, text=0.7, latent=0, cache=0, weak=(weak,))
    with steer(pipe, method):
        video(pipe, scale, steps=1)
    found = method.anchors(pipe)
    words = PROMPT.replace(".", " .").split()
    assert {"yellow", "square", "circle"} <= set(found.words)
    for word, at in zip(found.words, found.tokens, strict=True):
        assert [words[i] for i in at] == [word] * len(at)  # one token is one word here
    with steer(pipe, replace(method, projection=files["zero"])):
        video(pipe, scale, steps=1)
    (call, _), (plain, _) = calls  # one each: the unconditional branch is left alone
    assert call.block.index == plain.block.index == weak
    expected, visual = plain.value.double(), explicit_visual(pipe, files, found, weak)
    first = 2 * FRAME + 64 // hunyuan.KEPT  # two latent frames, and the image's tokens
    for k, at in enumerate(found.tokens):
        expected[:, :, [first + i for i in at]] += 0.7 * visual[k].unflatten(0, (expected.shape[1], -1))[:, None]
    assert (call.value.double() - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_reference_takes_up_the_anchors_in_the_conditional_branch(pipe, files, scale):
    """Eq. 9, in dual and in single stream blocks; the black image and the negative prompt beside it change nothing."""
    method = guidance(files, text=0, latent=0.3, cache=0)
    with Given(pipe) as given, steer(pipe, method):
        video(pipe, scale, steps=1)
    found = method.anchors(pipe)
    weights = found.weights.flatten(1).double()
    weights = weights / weights.amax(1, keepdim=True)
    for (index, before), (_, after) in zip(given.before[:4], given.after[:4], strict=True):
        expected = before.double().clone()
        if index in WEAK:
            expected[:, :FRAME] += 0.3 * weights.T @ explicit_visual(pipe, files, found, index)
        after = after[:, : before.shape[1]].double()  # a single stream block puts the text behind its video
        assert (after - expected).abs().max() < 1e-4 * expected.abs().max()
    if scale > 1:
        for (_, before), (_, after) in zip(given.before[4:8], given.after[4:8], strict=True):
            assert torch.equal(after[:, : before.shape[1]], before)


@torch.no_grad()
@pytest.mark.parametrize("cache_map", ["cosine", "attention"])
def test_the_cache_is_that_of_the_other_blocks(pipe, files, calls, cache_map):
    """Eqs. 10 to 13 with the maps of the first dual block, the only responsive one before the weak ones."""
    method = guidance(
        files, text=0, latent=0, cache=0.2, cache_threshold=0.02, cache_from="earlier", cache_map=cache_map
    )
    with Given(pipe) as given, steer(pipe, method):
        video(pipe, steps=1)
    found, (call, _) = method.anchors(pipe), next(c for c in calls if c[0].block.index == 0)
    first = 2 * FRAME + 64 // hunyuan.KEPT
    if cache_map == "cosine":
        values = torch.stack([call.value[0, :, [first + i for i in at]].mean(1).flatten() for at in found.tokens])
        tokens = call.block_input.hidden_states[0]
        maps = F.cosine_similarity(values.double()[:, None], tokens.double()[None], dim=-1)
    else:
        count = int((call.keys.groups[-1] == 0).sum())
        logits = call.scale * call.query[0].double() @ call.key[0].double().transpose(-1, -2)
        weights = logits[:, : 2 * FRAME, first : first + count].softmax(-1).mean(0)  # (L, words)
        maps = torch.stack([weights[:, list(at)].sum(-1) for at in found.tokens])
    cached = torch.where(maps > 0.02, maps, 0.0)
    before, after = (next(t for i, t in notes if i == WEAK[0]).double()[0] for notes in (given.before, given.after))
    expected = before + 0.2 * cached.T @ explicit_visual(pipe, files, found, WEAK[0])
    assert (cached > 0).double().mean() > 0 and (after - expected).abs().max() < 1e-4 * expected.abs().max()


def test_anchors_are_those_of_the_image_that_the_pipeline_was_given(pipe, files):
    method = guidance(files)
    others = [DyMoS(0.6, window=(0, 0.5)), LowPassGuidance(window="all", space="image", guidance=3.0)]
    image = pipe.video_processor.preprocess(picture(), 64, 64)
    words = [[i] for i, _ in enumerate(PROMPT.replace(".", "").split())]
    exact = find_anchors(
        *load_clip(CLIP), PROMPT, words, encode_reference(CLIP, image), sign=1, select=-1.0, region=0.5
    )
    for methods in ([method], [*others, method]):
        with steer(pipe, *methods):
            assert video(pipe, 3.0).isfinite().all()
        found = method.anchors(pipe)
        assert found.words == exact.words and torch.allclose(found.anchors, exact.anchors, atol=1e-4)


def test_what_is_neutral_changes_no_bit_and_nothing_stays_behind(pipe, files):
    plain, guided = video(pipe), video(pipe, 3.0)
    for neutral in ({"text": 0, "latent": 0, "cache": 0}, {"projection": files["zero"], "cache": 1.0}):
        with steer(pipe, guidance(files, **neutral)):
            assert torch.equal(video(pipe), plain) and torch.equal(video(pipe, 3.0), guided)
    for part in ({"text": 0.5}, {"latent": 0.2}, {"cache": 0.2}):
        with steer(pipe, guidance(files, **({"text": 0, "latent": 0, "cache": 0} | part))):
            changed = video(pipe, 3.0)
            assert changed.isfinite().all() and not torch.equal(changed, guided)
    assert torch.equal(video(pipe), plain)
    assert not {"encode_prompt", "prepare_latents", "check_inputs"} & set(vars(pipe))


def test_words_behind_the_last_text_token_are_ignored_and_other_models_refused(pipe, files):
    method = guidance(files)
    with steer(pipe, method):
        assert video(pipe, 3.0, prompt="a yellow square. " * 8 + "a purple circle.").isfinite().all()
    assert set(method.anchors(pipe).words) == {"a", "yellow", "square"}
    assert max(i for at in method.anchors(pipe).tokens for i in at) < SLOTS
    with pytest.raises(ValueError, match="not this Hunyuan"), steer(make("skyreels-v1")[0], guidance(files)):
        pass
    with pytest.raises(ValueError, match="trained `projection`"), steer(pipe, guidance(files, projection=None)):
        pass
