"""Moran's I against esda, the maps against an explicit query and key, and the rule that picks weak layers."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from families import make
from hypothesis import given
from hypothesis import strategies as st
from random_testbed import cogvideox_backbone, query_and_key

from analysis.attention.morans_i import morans_i
from analysis.attention.semantic_layers import (
    SPACES,
    WordMaps,
    block_scores,
    is_keyword,
    keyword_maps,
    normalised,
    record_maps,
    weak_layers,
    word_positions,
)
from analysis.study.parameters import load_parameters
from analysis.videos.generate import load_pipeline, sample_video
from analysis.videos.study_videos import study_cells
from methods.families import describe
from testbed.models import SLOTS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from esda.moran import Moran
    from libpysal.weights import lat2W


def grid(height, width, seed):
    return np.random.default_rng(seed).normal(size=(height, width))


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_morans_i_is_that_of_esda(height, width, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = lat2W(height, width, rook=False)
        values = grid(height, width, seed)
        expected = Moran(values.ravel(), weights, transformation="B", permutations=0).I
    assert abs(float(morans_i(values)) - expected) < 1e-10


@given(st.integers(2, 8), st.integers(2, 8), st.floats(0.01, 100), st.floats(-100, 100), st.sampled_from([-1, 1]))
def test_morans_i_ignores_scale_and_shift(height, width, scale, shift, sign):
    maps = grid(height, width, 0)
    assert morans_i(sign * scale * maps + shift) == pytest.approx(morans_i(maps), abs=1e-9)


def test_morans_i_of_known_patterns():
    row, column = np.indices((8, 8))
    assert morans_i((row + column) % 2) < 0
    assert morans_i((np.indices((40, 40))[1] < 20).astype(float)) > 0.9
    assert np.isnan(morans_i(np.full((3, 5, 4), 0.1))).all()
    noise = np.random.default_rng(0).normal(size=(2000, 8, 8))
    assert abs(morans_i(noise).mean() + 1 / 63) < 0.01
    stacked = np.stack([grid(5, 4, s) for s in range(6)]).reshape(2, 3, 5, 4)
    assert morans_i(stacked).shape == (2, 3) and morans_i(stacked)[1, 2] == morans_i(stacked[1, 2])


def test_normalised_maps_span_zero_to_one_over_all_frames():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5, 6)) * 7 + 2
    result = normalised(maps)
    assert np.allclose(result.min((1, 2, 3)), 0) and np.allclose(result.max((1, 2, 3)), 1)
    assert result[0, 0].max() < 1 or result[0, 1].max() < 1
    assert np.isnan(normalised(np.ones((2, 3, 3)))).all()


def scores(by_block, noise=0.0):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"sample": f"s{s}", "step": t, "block": b, "morans_i": value + noise * rng.normal()}
            for s in range(12)
            for t in range(2)
            for b, value in enumerate(by_block)
        ]
    )


def test_weak_layers_are_those_below_the_midpoint():
    table = weak_layers(scores([0.6, 0.1, 0.5, 0.3, 0.4]))
    assert table["block"].tolist() == [0, 1, 2, 3, 4]
    assert table["weak"].tolist() == [False, True, False, True, False]  # the midpoint is 0.35
    assert table["share"].tolist() == [0, 1, 0, 1, 0]
    assert np.allclose(table["morans_i"], [0.6, 0.1, 0.5, 0.3, 0.4])


def test_shares_of_uncertain_layers_lie_between():
    noisy = scores([0.6, 0.1, 0.35], noise=0.2)
    table = weak_layers(noisy, resamples=400)
    assert table["share"][0] == 0 and table["share"][1] == 1 and 0 < table["share"][2] < 1
    assert table.equals(weak_layers(noisy.sample(frac=1, random_state=0), resamples=400))
    with pytest.raises(ValueError, match="no Moran's I"):
        weak_layers(noisy.iloc[4:])


@pytest.fixture(scope="module")
def recorded():
    """One video in two steps: its recorder, words, and what went into the cross-attention of every block."""
    parameters = load_parameters()
    backbone = parameters.backbones["wan-i2v"].model_copy(update={"steps": 2})
    ((cell, image),) = study_cells(parameters, "wan-i2v", 1)
    pipe = load_pipeline(backbone)
    transformer = pipe.transformer
    words = word_positions(pipe.tokenizer, cell.prompt)
    calls, outputs = [], []
    hooks = [b.attn2.register_forward_pre_hook(lambda _, args: calls.append(args[:2])) for b in transformer.blocks]
    hooks += [b.register_forward_hook(lambda _, args, out: outputs.append(out)) for b in transformer.blocks]
    plain = {n: len(m._forward_hooks) for n, m in transformer.named_modules()}
    with record_maps(pipe, list(words.values())) as recorder:
        video, _ = sample_video(cell, backbone, image)
    for hook in hooks:
        hook.remove()
    left = {n: len(m._forward_hooks) for n, m in transformer.named_modules()}
    again, _ = sample_video(cell, backbone, image)
    return {
        "recorder": recorder, "words": words, "calls": calls, "outputs": outputs, "transformer": transformer,
        "unchanged": np.array_equal(video, again), "hooks": [plain, left], "prompt": cell.prompt,
    }  # fmt: skip


def test_words_are_found_at_their_tokens(recorded):
    words = recorded["words"]
    assert recorded["prompt"].startswith("a yellow square and a purple circle. then the yellow square changes to cyan.")
    assert words["yellow"] == [1, 10] and words["circle"] == [6] and words["cyan"] == [14]
    assert [w for w in words if is_keyword(w)] == ["yellow", "square", "purple", "circle", "cyan"]


def test_maps_of_every_step_and_block(recorded):
    maps, words = recorded["recorder"].maps, recorded["words"]
    assert set(maps) == {(space, step, block) for space in SPACES for step in range(2) for block in range(10)}
    assert {m.shape for m in maps.values()} == {(len(words), 5, 8, 8)}
    assert all(np.isfinite(m).all() for m in maps.values())
    assert max(np.abs(m).max() for (space, *_), m in maps.items() if space == "hidden") <= 1 + 1e-6


@pytest.mark.parametrize(("step", "block"), [(0, 0), (1, 4), (1, 9)])
def test_attention_maps_are_query_times_key(recorded, step, block):
    transformer, (hidden, context) = recorded["transformer"], recorded["calls"][10 * step + block]
    attention, heads = transformer.blocks[block].attn2, transformer.config.num_attention_heads
    with torch.no_grad():
        query = attention.norm_q(attention.to_q(hidden))[0].double().unflatten(1, (heads, -1))
        key = attention.norm_k(attention.to_k(context[:, -512:]))[0].double().unflatten(1, (heads, -1))
    z = torch.einsum("ihd,jhd->ij", query, key) / heads / query.shape[-1] ** 0.5
    expected = torch.stack([z[:, p].mean(1) for p in recorded["words"].values()]).reshape(-1, 5, 8, 8)
    assert np.allclose(recorded["recorder"].maps["attention", step, block], expected.numpy(), atol=1e-5)


def test_hidden_maps_are_cosines_with_the_embedded_text(recorded):
    context, output = recorded["calls"][13][1][0, -512:].double(), recorded["outputs"][13][0].double()
    position = recorded["words"]["circle"][0]
    cosine = output @ context[position] / output.norm(dim=1) / context[position].norm()
    found = recorded["recorder"].maps["hidden", 1, 3][list(recorded["words"]).index("circle")]
    assert np.allclose(found, cosine.reshape(5, 8, 8).numpy(), atol=1e-5)


def test_recording_changes_nothing_and_leaves_nothing(recorded):
    assert recorded["unchanged"]
    before, after = recorded["hooks"]
    blocks = [f"blocks.{i}" for i in range(10)]
    assert after == {n: count - (n in blocks) for n, count in before.items()}  # less the test's own


def test_rows_of_one_video(recorded):
    words = list(recorded["words"])
    table = pd.DataFrame(block_scores(recorded["recorder"], words, "x"))
    assert len(table) == 2 * 2 * 2 * 10 and table.notna().all().all()
    assert table["morans_i"].between(-1, 1).all() and table["std"].between(0, 0.5).all()
    keywords = [i for i, w in enumerate(words) if is_keyword(w)]
    expected = morans_i(recorded["recorder"].maps["hidden", 1, 5][keywords]).mean()
    row = table.query("words == 'keywords' and space == 'hidden' and step == 1 and block == 5")
    assert row["morans_i"].item() == pytest.approx(expected)
    maps = keyword_maps(recorded["recorder"], words, "x")
    assert set(maps["word"]) == {"yellow", "cyan"} and len(maps) == 2 * 2 * 1 * 10 * 64
    assert maps["value"].between(0, 1).all()


# Joint attention -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """One video of a random CogVideoX model in two steps: its recorder, words, and what went into and out of its parts."""
    backbone = cogvideox_backbone(tmp_path_factory.mktemp("cogvideox"))
    parameters = load_parameters()
    parameters = parameters.model_copy(update={"backbones": {"joint": backbone}})
    ((cell, image),) = study_cells(parameters, "joint", 1)
    pipe = load_pipeline(backbone)
    transformer, calls, outputs, texts = pipe.transformer, [], [], []
    hooks = [
        b.attn1.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
        for b in transformer.transformer_blocks
    ]
    hooks += [b.register_forward_hook(lambda _, args, out: outputs.append(out)) for b in transformer.transformer_blocks]
    hooks.append(transformer.patch_embed.register_forward_hook(lambda _, args, out: texts.append(args[0])))
    words = word_positions(pipe.tokenizer, cell.prompt)
    with record_maps(pipe, list(words.values())) as recorder:
        video, _ = sample_video(cell, backbone, image)
    for hook in hooks:
        hook.remove()
    again, _ = sample_video(cell, backbone, image)
    with record_maps(pipe, [[SLOTS]]), pytest.raises(ValueError, match=f"token {SLOTS}; the model gets {SLOTS}"):
        sample_video(cell, backbone, image)
    return {
        "recorder": recorder, "words": words, "calls": calls, "outputs": outputs, "texts": texts,
        "transformer": transformer, "unchanged": np.array_equal(video, again),
    }  # fmt: skip


def test_joint_maps_of_every_step_and_block(joint):
    maps, words = joint["recorder"].maps, joint["words"]
    assert set(maps) == {(space, step, block) for space in SPACES for step in range(2) for block in range(10)}
    assert {m.shape for m in maps.values()} == {(len(words), 3, 8, 8)}
    table = pd.DataFrame(block_scores(joint["recorder"], list(words), "x"))
    assert len(table) == 2 * 2 * 2 * 10 and table.notna().all().all()
    assert joint["unchanged"]


@pytest.mark.parametrize(("step", "block"), [(0, 0), (1, 4), (1, 9)])
def test_joint_attention_maps_are_video_query_times_text_key(joint, step, block):
    attention = joint["transformer"].transformer_blocks[block].attn1
    query, key = query_and_key(attention, joint["calls"][10 * step + block])
    z = (query[:, SLOTS:] @ key[:, :SLOTS].mT).mean(0) / query.shape[-1] ** 0.5
    expected = torch.stack([z[:, p].mean(1) for p in joint["words"].values()]).reshape(-1, 3, 8, 8)
    found = joint["recorder"].maps["attention", step, block]
    assert np.allclose(found, expected.numpy(), atol=1e-4) and expected.std() > 0.05


@pytest.mark.parametrize(("step", "block"), [(0, 0), (1, 4), (1, 9)])
def test_joint_hidden_maps_are_cosines_with_the_text_that_enters_the_blocks(joint, step, block):
    project, video = joint["transformer"].patch_embed.text_proj, joint["outputs"][10 * step + block][0][0].double()
    text = joint["texts"][step][0].double() @ project.weight.detach().double().T + project.bias.detach().double()
    position = joint["words"]["circle"][0]
    cosine = video @ text[position] / video.norm(dim=1) / text[position].norm()
    found = joint["recorder"].maps["hidden", step, block][list(joint["words"]).index("circle")]
    assert np.allclose(found, cosine.reshape(3, 8, 8).numpy(), atol=1e-5)


def test_families_whose_text_tokens_are_others_are_refused():
    with pytest.raises(ValueError, match="not from HunyuanVideo15"):
        WordMaps([[0]]).check(describe(make("hunyuan-1.5")[0]))
