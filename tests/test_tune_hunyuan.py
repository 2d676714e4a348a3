"""Post-training of HunyuanVideo-type models: what the transformer is given is what its pipeline gives it, and what is tuned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from PIL import Image
from random_testbed import CLIP, hunyuan_backbone, small_clips, untrained_guidance

from analysis.tuning import hunyuan_video
from analysis.tuning.encode_clips import Shards, encode_clips
from analysis.tuning.training_loop import Tuning, tune, tuned_parameters
from analysis.tuning.tuned_families import module_of
from analysis.videos.generate import load_pipeline
from methods.focal_anchors.pipeline_run import current_run
from methods.focal_anchors.projection import load_projection
from next_testbed import hunyuan

WEAK = (1, 4)  # the second dual block and the first single one
SHORT = Tuning(steps=2, batch=2, lr=1e-2, warmup=0, text_dropout=0.3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return hunyuan_backbone(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def pipe(backbone):
    return load_pipeline(backbone)


@pytest.fixture(scope="module")
def full(pipe, tmp_path_factory):
    return untrained_guidance(tmp_path_factory.mktemp("start"), pipe.transformer, WEAK)


@pytest.fixture(scope="module")
def clips(pipe, full, backbone, tmp_path_factory):
    folder, slots = tmp_path_factory.mktemp("clips"), hunyuan_video.text_slots(pipe.transformer, backbone)
    encode_clips(pipe, full, small_clips(), folder, slots=slots, call=backbone.call)
    return Shards(folder, 3, slots)


def test_the_model_is_given_what_its_pipeline_gives_it(pipe, clips):
    video, caption = small_clips().read(1)
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    with torch.no_grad():
        pipe(image=Image.fromarray(video[0]), prompt=caption, height=64, width=64, num_frames=9, num_inference_steps=1,
             output_type="latent", generator=torch.Generator().manual_seed(1),
             **hunyuan.call_arguments(3.0, image_to_video=True))  # fmt: skip
        pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        exact = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae_scaling_factor
    handle.remove()
    clip, draw = clips[1], torch.Generator().manual_seed(0)
    time, noise = hunyuan_video.draw_time(pipe, draw), torch.randn(exact.shape)
    (inputs, target), (with_caption, without) = hunyuan_video.noised(pipe, clip, clip.text, time, noise), seen
    empty, _ = hunyuan_video.noised(pipe, clip, clips.empty, time, noise)
    assert inputs.keys() | {"guidance", "attention_kwargs", "return_dict"} == with_caption.keys()
    for mine, given in ((inputs, with_caption), (empty, without)):
        for name in ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections"):
            assert torch.allclose(mine[name].float(), given[name].float(), atol=1e-6), name
        assert torch.allclose(mine["hidden_states"][:, :, :1], given["hidden_states"][:, :, :1], atol=1e-6)
    level = float(time) / 1000
    assert 0 < level < 1 and torch.allclose(clip.latent, exact, atol=1e-5)
    noisy = (1 - level) * clip.latent.double() + level * noise.double()
    assert torch.allclose(inputs["hidden_states"][:, :, 1:].double(), noisy[:, :, 1:], atol=1e-5)
    assert torch.allclose(target, noise - clip.latent, atol=1e-5) and clip.caption == caption and clip.found.words


def test_the_attention_of_weak_blocks_and_the_projection_are_tuned_and_nothing_stays_behind(
    pipe, clips, full, tmp_path
):
    chosen = tuned_parameters(pipe.transformer, frozenset(WEAK))
    assert {n.split(".attn.")[0] for n in chosen} == {"transformer_blocks.1", "single_transformer_blocks.0"}
    before = {n: p.detach().clone() for n, p in pipe.transformer.named_parameters()}
    found = {}
    for name, guidance in (("control", None), ("full", full)):
        projection = load_projection(full.projection, pipe.transformer, CLIP) if guidance else None
        file = tmp_path / f"{name}.safetensors"
        tensors, losses, _ = tune(pipe, guidance, frozenset(WEAK), clips, SHORT, file, projection=projection)
        assert np.isfinite(losses).all() and tensors.keys() == chosen.keys()
        moved = {n for n, p in tensors.items() if not torch.equal(p, before[n])}
        assert moved == chosen.keys()
        if projection is not None:
            assert projection.leave.weight.any()
        assert all(torch.equal(p, before[n]) for n, p in pipe.transformer.named_parameters())
        found[name] = losses
    assert found["control"] != found["full"] and current_run(pipe).prompt is None


def test_nothing_is_lost_on_the_clean_frame(pipe, clips):
    """The loss is that of the frames which the model has to predict."""
    from analysis.tuning.training_loop import clip_loss

    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = clip_loss(pipe, pipe.transformer, None, clips[0], clips.empty, draw, 0.0, None)
        draw = torch.Generator().manual_seed(0)
        time = hunyuan_video.draw_time(pipe, draw)
        torch.rand(1, generator=draw)
        noise = torch.randn(clips[0].latent.shape, generator=draw)
        inputs, target = hunyuan_video.noised(pipe, clips[0], clips[0].text, time, noise)
        out = pipe.transformer(**inputs, return_dict=False)[0].double()
    assert float(loss) == pytest.approx(float((out - target.double())[:, :, 1:].square().mean()), rel=1e-5)


def test_models_that_take_the_reference_otherwise_are_refused():
    class Holder:
        transformer = make("hunyuan-latent-concat")[0]

    with pytest.raises(ValueError, match="image_condition_type is 'latent_concat'"):
        hunyuan_video.check_pipeline(Holder, 9)
    with pytest.raises(ValueError, match="a LTXVideoTransformer3DModel cannot be tuned; WanTransformer3DModel"):
        module_of(make("ltx-i2v")[0])


def test_a_distilled_model_is_told_the_scale_that_stands_for_no_guidance(pipe, clips):
    given = clips[0], clips[0].text, torch.tensor([500.0]), torch.randn(clips[0].latent.shape)
    assert "guidance" not in hunyuan_video.noised(pipe, *given)[0]
    pipe.transformer.register_to_config(guidance_embeds=True)
    try:
        assert hunyuan_video.noised(pipe, *given)[0]["guidance"].tolist() == [1000.0]
    finally:
        pipe.transformer.register_to_config(guidance_embeds=False)
