"""The studies of attention in HunyuanVideo-type models: the text stands behind the video and the image's tokens, and blocks are
of two kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_testbed import hunyuan_backbone

from analysis.attention import foreground_ratio
from analysis.attention.latent_estimates import estimates, noisy_and_prediction
from analysis.attention.semantic_layers import SPACES, WordMaps, record_maps, word_positions
from analysis.study.parameters import load_parameters
from analysis.videos.generate import load_pipeline, sample_video
from analysis.videos.sample_video import pipeline_inputs
from analysis.videos.study_videos import study_cells
from next_testbed import hunyuan

IMAGE_TOKENS, VIDEO = 64 // hunyuan.KEPT, 3 * 64


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return hunyuan_backbone(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def study(backbone):
    """A cell of the benchmark and its reference."""
    parameters = load_parameters().model_copy(update={"backbones": {"hunyuan": backbone}})
    ((cell, image),) = study_cells(parameters, "hunyuan", 1)
    return cell, image


@torch.no_grad()
def test_maps_are_those_of_the_words_behind_the_images_tokens(backbone, study, monkeypatch):
    (cell, image), pipe, calls, texts, outputs = study, load_pipeline(backbone), [], [], []
    observe = WordMaps.observe
    monkeypatch.setattr(WordMaps, "observe", lambda self, call, out: (calls.append(call), observe(self, call, out)))
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    hooks = [b.register_forward_hook(lambda _, args, out: outputs.append(out[0])) for b in blocks]
    hooks.append(pipe.transformer.context_embedder.register_forward_hook(lambda _, args, out: texts.append(out)))
    words = word_positions(pipe.tokenizer, cell.prompt)
    with record_maps(pipe, list(words.values())) as recorder:
        video, _ = sample_video(cell, backbone, image)
    for hook in hooks:
        hook.remove()
    assert np.array_equal(video, sample_video(cell, backbone, image)[0])
    count = hunyuan.DUAL + hunyuan.SINGLE
    assert set(recorder.maps) == {(s, step, block) for s in SPACES for step in range(2) for block in range(count)}
    assert list(words) == list(dict.fromkeys(cell.prompt.replace(".", "").split()))
    first = VIDEO + IMAGE_TOKENS
    for step, block in ((0, 0), (1, hunyuan.DUAL - 1), (1, count - 1)):
        call = calls[count * step + block]
        assert call.block.index == block
        z = (call.query[0, :, :VIDEO].double() @ call.key[0, :, first:].double().mT).mean(0) * call.scale
        expected = torch.stack([z[:, p].mean(1) for p in words.values()]).reshape(-1, 3, 8, 8)
        assert np.allclose(recorder.maps["attention", step, block], expected.numpy(), atol=1e-4)
        video, text = outputs[count * step + block][0].double(), texts[step][0, IMAGE_TOKENS:].double()
        word = list(words)[-1]
        cosines = [video @ text[p] / video.norm(dim=1) / text[p].norm() for p in words[word]]
        found = recorder.maps["hidden", step, block][list(words).index(word)]
        assert np.allclose(found, torch.stack(cosines).mean(0).reshape(3, 8, 8).numpy(), atol=1e-5)


def test_the_foreground_is_looked_for_in_all_blocks(backbone, study):
    measured = foreground_ratio.measure(*study, backbone)
    count = hunyuan.DUAL + hunyuan.SINGLE
    assert measured.received.shape == (2, count, VIDEO) and np.allclose(measured.received.sum(-1), 1, atol=1e-4)
    assert {k: m.shape for k, m in measured.masks.items()} == dict.fromkeys(foreground_ratio.MASKS, (2, VIDEO))


def test_nothing_is_predicted_for_the_clean_reference_frame(backbone):
    pipe = load_pipeline(backbone)
    given, prediction = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 16, 3, 8, 8)
    x, v = noisy_and_prediction(pipe.transformer, {"hidden_states": given}, prediction)
    assert torch.equal(x, given[0]) and torch.equal(v[:, 1:], prediction[0, :, 1:]) and not v[:, 0].any()
    pipe.scheduler.set_timesteps(2)
    assert torch.equal(estimates(pipe.scheduler, 0, x, v)["clean"][:, 0], x[:, 0])


def test_guidance_of_a_model_that_was_not_distilled_is_true_classifier_free_guidance(backbone, study):
    (cell, image), pipe = study, load_pipeline(backbone)
    plain = sample_video(cell, backbone, image)[0]
    guided = replace(cell, guidance_scale=3.0)
    assert not np.array_equal(sample_video(guided, backbone, image)[0], plain)
    own = backbone.model_copy(update={"call": backbone.call | {"true_cfg_scale": 2.0}})
    with pytest.raises(ValueError, match="it is 2 in `call`, and the guidance scale is 3"):
        pipeline_inputs(pipe, guided, own, None)
