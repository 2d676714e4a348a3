"""Focal Guidance's keywords and anchors: which words are chosen, where they point, and where that lies in the frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import WanImageToVideoPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis.attention.keyword_anchors import localisation, object_mask
from methods.focal_anchors.keywords import (
    find_anchors,
    load_clip,
    preceded,
    region_weights,
    similarity,
    tokens_of,
    words_in,
)
from methods.focal_anchors.placement import place, share_seen
from testbed.benchmark import draw_benchmark
from testbed.world import COLOURS, SHAPES, render

CLIP, CHECKPOINT = "testbed/checkpoints/clip", "testbed/checkpoints/wan-i2v"
PROMPT = "a yellow square and a purple circle. then the yellow square changes to cyan."


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


# --- Keywords and anchors --------------------------------------------------------------------------------------------
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 8), st.sampled_from([-1, 1]), st.integers(0, 2**31))
def test_similarity_is_the_signed_cosine(words, patches, size, sign, seed):
    """Eq. 6."""
    g = torch.Generator().manual_seed(seed)
    t, v = torch.randn(words, size, generator=g), torch.randn(patches, size, generator=g)
    a, b = t.double().numpy(), v.double().numpy()
    exact = sign * (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert np.abs(similarity(t, v, sign).numpy() - exact).max() < 1e-5


@given(st.integers(1, 4), st.integers(2, 12), st.floats(0, 1), st.integers(0, 2**31))
def test_region_weights_are_scaled_cut_and_normalised(words, patches, region, seed):
    s = torch.randn(words, patches, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row, found in zip(s.numpy(), region_weights(s, region).numpy(), strict=True):
        scaled = (row - row.min()) / (row.max() - row.min())
        kept = np.where(scaled >= region, scaled, 0)
        assert np.allclose(found, kept / kept.sum(), atol=1e-9) and found.argmax() == row.argmax()


def test_words_are_found_in_both_tokenizers(pipe):
    _, clip_tokenizer = load_clip(CLIP)
    words = [w for w, _, _ in words_in(PROMPT)]
    assert words == PROMPT.replace(".", "").split()
    assert [w for w, _, _ in words_in("it's a well-lit room, no. 7")] == ["it's", "a", "well-lit", "room", "no", "7"]
    for tokenizer, clean in (
        (pipe.tokenizer, lambda t: t.strip("▁")),
        (clip_tokenizer, lambda t: t.replace("</w>", "")),
    ):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(PROMPT)["input_ids"])
        for word, at in zip(words, tokens_of(tokenizer, PROMPT), strict=True):
            assert "".join(clean(tokens[i]) for i in at) == word


@torch.no_grad()
def test_anchors_are_weighted_sums_of_patches(pipe):
    clip, clip_tokenizer = load_clip(CLIP)
    patches = pipe.encode_image(picture(), "cpu")[0]
    found = find_anchors(
        clip, clip_tokenizer, PROMPT, tokens_of(pipe.tokenizer, PROMPT), patches, sign=1, select=0.0, region=0.5
    )
    assert set(found.words) <= {w for w, _, _ in words_in(PROMPT)} and found.words
    assert found.similarity.shape[1:] == (8, 8) and found.anchors.shape == (len(found.words), 64)
    for k, word in enumerate(found.words):
        exact = (found.weights[k].flatten()[:, None].double() * patches[1:].double()).sum(0)
        assert torch.allclose(found.anchors[k].double(), exact, atol=1e-5)
        assert found.highest[word] > 0.0 and found.similarity[k].max().item() <= found.highest[word] + 1e-6
    flipped = find_anchors(
        clip, clip_tokenizer, PROMPT, tokens_of(pipe.tokenizer, PROMPT), patches, sign=-1, select=-1.0, region=0.5
    )
    both = find_anchors(
        clip, clip_tokenizer, PROMPT, tokens_of(pipe.tokenizer, PROMPT), patches, sign=1, select=-1.0, region=0.5
    )
    assert torch.allclose(flipped.similarity, -both.similarity)


def test_a_phrase_is_a_word_with_the_one_before_it():
    assert preceded("a red square. then the square moves") == [
        "a", "a red", "red square", "then", "then the", "the square", "square moves"]  # fmt: skip


@torch.no_grad()
def test_phrases_point_at_the_object_and_literal_tokens_do_not(pipe):
    """Of the colours and shapes in references of the benchmark: area under the curve of similarity against the object."""
    (clip, clip_tokenizer), areas = load_clip(CLIP), {"tokens": [], "phrase": []}
    passed = {"literal": [0, 0], "prominent": [0, 0]}  # words that name an object, and words that name nothing
    total = [0, 0]
    for sample, scene, event in draw_benchmark(7)[:24]:
        image = render(scene, event, executed=False, frames=1)[0]
        patches = pipe.encode_image(Image.fromarray(image), "cpu")[0]
        named = {o.colour: o.colour for o in scene.objects} | {o.shape: o.colour for o in scene.objects}
        one_of_a_kind = {w for w in named if [w in (o.colour, o.shape) for o in scene.objects].count(True) == 1}
        common = (clip, clip_tokenizer, sample["prompt"], tokens_of(pipe.tokenizer, sample["prompt"]), patches)
        for readout, found in areas.items():
            anchors = find_anchors(*common, sign=1, select=-1.0, region=0.5, readout=readout)
            for word in one_of_a_kind & set(anchors.words):
                on = object_mask(image, named[word], 8)
                found.append(localisation(anchors.similarity[anchors.words.index(word)].numpy(), on))
        literal = find_anchors(*common, sign=-1, select=-0.25, region=0.5)
        prominent = find_anchors(*common, sign=1, select=0.1, region=0.5, readout="phrase", keywords="prominence")
        for word in literal.highest:
            if (kind := 0 if word in named else 1 if word not in COLOURS and word not in SHAPES else None) is not None:
                total[kind] += 1
                passed["literal"][kind] += word in literal.words
                passed["prominent"][kind] += word in prominent.words
    assert np.nanmean(areas["phrase"]) > 0.7 > 0.55 > np.nanmean(areas["tokens"])
    objects, others = (np.array([passed[k][kind] for k in passed]) / total[kind] for kind in (0, 1))
    assert abs(objects[0] - others[0]) < 0.15 and objects[1] - others[1] > 0.4


@pytest.mark.parametrize(("height", "width"), [(480, 832), (832, 480), (64, 64)])
def test_anchors_lie_where_the_encoder_saw_them(height, width):
    """Wan 2.1's image processor crops the centre of the shorter side: the patches span no more than that of the frame."""
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()  # as published: shorter side to 224, centre of 224 x 224
    for image in (
        Image.new("RGB", (width, height)),
        torch.zeros(1, 3, height, width),
        [Image.new("RGB", (width, height))],
    ):
        assert share_seen(processor, image) == pytest.approx((min(1, width / height), min(1, height / width)))
    whole = CLIPImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)
    assert share_seen(whole, Image.new("RGB", (width, height))) == (1.0, 1.0)
    # A bright spot of the picture is at the same place in pixels and in tokens.
    pixels = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2 + min(height, width) // 4, width // 2 + min(height, width) // 4
    pixels[y - 9 : y + 9, x - 9 : x + 9] = 255
    seen = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0, 0]
    patches = torch.from_numpy(seen.reshape(16, 14, 16, 14).mean((1, 3)))
    rows, columns = height // 16, width // 16
    placed = place((patches - patches.min())[None], rows, columns, share_seen(processor, Image.fromarray(pixels)))[0]
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    assert abs(row + 0.5 - y / 16) <= 1.5 and abs(column + 0.5 - x / 16) <= 1.5  # a patch is 1.9 tokens wide
    inside = place(torch.ones(1, 16, 16), rows, columns, share_seen(processor, Image.fromarray(pixels)))[0]
    assert inside.sum() == pytest.approx((min(height, width) / 16) ** 2) and inside.max() <= 1 + 1e-6
    if width > height:
        assert inside[:, 0].max() == 0 == inside[:, -1].max()


@given(st.integers(1, 4), st.integers(1, 4))
def test_patches_that_span_the_frame_are_averaged(rows, columns):
    maps = torch.rand(2, 4 * 3, 4 * 3)
    exact = F.adaptive_avg_pool2d(maps[None], (rows, columns))[0] if 12 % rows == 12 % columns == 0 else None
    placed = place(maps, rows, columns, (1.0, 1.0))
    assert exact is None or torch.allclose(placed, exact, atol=1e-6)
    assert torch.allclose(placed.mean((1, 2)), maps.mean((1, 2)), atol=1e-6)
