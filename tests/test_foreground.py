"""Foreground masks, ratios and the calibrated list, on cases whose answer is known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from families import make
from random_testbed import cogvideox_backbone, query_and_key
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from analysis.attention import foreground_ratio as foreground
from analysis.attention.calibrated_blocks import calibrate, jaccard, write_preset
from analysis.attention.foreground_masks import inner_points, load_sam2, sam2_mask, two_means
from analysis.attention.foreground_ratio import agreement, foreground_ratios, measure, pca_mask, pixel_mask
from analysis.attention.latent_estimates import estimates, noisy_and_prediction
from analysis.study.parameters import load_parameters
from analysis.videos.generate import load_pipeline
from analysis.videos.study_videos import study_cells
from methods import AlignVid, steer
from methods.core import block_lists
from methods.core.block_lists import choose_blocks
from methods.families import WAN, describe
from testbed import cogvideox
from testbed.benchmark import draw_benchmark
from testbed.world import render

GRID = (5, 8, 8)


# Masks ---------------------------------------------------------------------------------------------------------------
def test_a_token_is_foreground_if_half_of_its_pixels_are_coloured():
    video = np.full((17, 64, 64, 3), 128, np.uint8)
    video[0, 0:8, 0:8] = (214, 39, 40)  # one whole token of the first latent frame
    video[5:9, 8:16, 16:20] = (45, 75, 215)  # half a token of the third one, over all of its four frames
    video[9:13, 8:16, 16:19] = (45, 75, 215)  # less than half
    video[13:14, 8:16, 16:24] = (45, 75, 215)  # one frame of four
    mask = pixel_mask(video, GRID).reshape(GRID)
    assert np.argwhere(mask).tolist() == [[0, 0, 0], [2, 1, 2]]


def test_the_worlds_objects_are_foreground_and_its_backgrounds_are_not():
    for _, scene, event in draw_benchmark(3)[:8]:
        mask = pixel_mask(render(scene, event, executed=False), GRID).reshape(GRID)
        for thing in scene.objects:
            assert mask[:, int(thing.y) // 8, int(thing.x) // 8].all()
        assert mask.mean() < 0.16 * len(scene.objects)


@pytest.mark.parametrize("grid", [(5, 7, 8), (4, 8, 8), (1, 8, 8)])
def test_a_grid_that_does_not_fit_the_video_is_refused(grid):
    with pytest.raises(ValueError, match="token grid"):
        pixel_mask(np.zeros((17, 64, 64, 3), np.uint8), grid)


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2)])
def test_pca_finds_a_planted_object(patch):
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(16, *[g * p for g, p in zip(GRID, patch, strict=True)]))
    planted = np.zeros(GRID, bool)
    for f in range(5):  # it moves
        planted[f, 2:5, f : f + 3] = True
    where = np.kron(planted, np.ones(patch)).astype(bool)
    latent[:, where] += 6 * rng.choice([-1, 1], size=16)[:, None]
    assert (pca_mask(latent, patch) == planted.ravel()).all()
    assert (pca_mask(-latent, patch) == planted.ravel()).all()


def test_a_subject_that_fills_the_frame_is_the_foreground():
    """The background is what holds the border, however small it is."""
    colours = np.random.default_rng(0).normal(0, 0.1, (9, 12, 3)).astype(np.float32)
    colours[1:-1, 1:-1] += 5
    for sign in (1, -1):
        mask = two_means(sign * colours)
        assert mask.mean() > 0.6 and mask[1:-1, 1:-1].all() and mask.sum() == 7 * 10


def test_agreement_of_masks():
    truth = np.array([True, True, False, False, False, False])
    found = np.stack([truth, ~truth, [True, False, True, False, False, False]])
    result = agreement(found, truth)
    assert result["iou"] == pytest.approx([1, 0, 1 / 3])
    assert result["balanced accuracy"] == pytest.approx([1, 0, (1 / 2 + 3 / 4) / 2])


# Ratios --------------------------------------------------------------------------------------------------------------
def test_uniform_attention_has_no_preference():
    mask = np.arange(320) < 40
    ratios = foreground_ratios(np.full((10, 320), 1 / 320), mask, 5)
    assert ratios["mass"] == pytest.approx(np.full(10, 40 / 320))
    assert ratios["per token"] == pytest.approx(np.full(10, 0.5))
    assert np.isnan(ratios["tokens"]).all()  # no token stands out


def test_attention_on_the_foreground_alone_and_none_of_it():
    mask = np.arange(100) < 10
    received = np.stack([mask / 10, ~mask / 90])
    ratios = foreground_ratios(received, mask, 1)
    assert ratios["mass"] == pytest.approx([1, 0])
    assert ratios["per token"] == pytest.approx([1, 0])
    assert ratios["tokens"][0] == 1


def test_ratios_by_hand_and_over_leading_axes():
    received = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    mask = np.array([True, False, False, True, False, False])
    other = np.array([False, True, False, False, False, False])
    ratios = foreground_ratios(np.broadcast_to(received, (2, 3, 6)), np.stack([mask, other]), 1)
    assert all(r.shape == (2, 3) for r in ratios.values())
    assert ratios["mass"][:, 0] == pytest.approx([0.5, 0.2])
    assert ratios["tokens"][:, 0] == pytest.approx([1, 0])  # mean 0.167, deviation 0.111: the first token alone
    assert ratios["per token"][:, 0] == pytest.approx([0.25 / (0.25 + 0.125), 0.2 / (0.2 + 0.16)])


def test_an_empty_mask_has_no_ratio_per_token():
    ratios = foreground_ratios(np.full((1, 4), 0.25), np.zeros(4, bool), 1)
    assert np.isnan(ratios["per token"]).all() and ratios["mass"] == 0


def test_tokens_are_high_within_their_own_frame():
    """F.2 groups the tokens by frame: a reference frame that receives most of all does not hide what later frames look at."""
    received = np.array([[0.3, 0.3, 0.2, 0.02, 0.01, 0.01]])  # two frames of three tokens
    mask = np.array([False, False, False, True, False, False])
    assert foreground_ratios(received, mask, 2)["tokens"] == [1]
    assert foreground_ratios(received, mask, 1)["tokens"] == [0]


# The list ------------------------------------------------------------------------------------------------------------
def scores(values):
    """Scores with `values` (prompts, blocks) as the ratio."""
    rows = [(f"s{i}", "clean", "tokens", b, v) for i, row in enumerate(values) for b, v in enumerate(row)]
    return pd.DataFrame(rows, columns=["sample", "mask", "definition", "block", "ratio"])


def test_clear_blocks_are_picked_in_every_resample():
    result = calibrate(scores([[0.6, 0.4, 0.7, 0.3], [0.8, 0.2, 0.6, 0.45]]))
    assert result.blocks == [0, 2]
    assert result.ratio == pytest.approx([0.7, 0.3, 0.65, 0.375])
    assert result.stability() == (1, 1, 1)
    assert result.in_first_half() == (0.5, 0.5, 0.5)


def test_a_block_on_the_line_is_picked_in_some_resamples():
    result = calibrate(scores([[0.9, 0.7], [0.9, 0.29]] * 20), threshold=0.5)
    share = result.resampled.mean(0)
    assert share[0] == 1 and 0.3 < share[1] < 0.7
    assert result.stability()[1:] == (0.5, 1.0) and 0.6 < result.stability()[0] < 0.9


def test_an_empty_list_and_missing_values():
    assert np.isnan(calibrate(scores([[0.1, 0.2]] * 3)).in_first_half()).all()
    with pytest.raises(ValueError, match="2 values are missing"):
        calibrate(scores([[0.1, np.nan], [np.nan, 0.3]]))
    with pytest.raises(ValueError, match="'mass'"):
        calibrate(scores([[0.1, 0.2]]), "mass")


def test_overlap_of_lists():
    a = np.array([[True, True, False], [False, False, False]])
    assert jaccard(a, np.array([True, False, True])).tolist() == [1 / 3, 0]
    assert jaccard(a[1], a[1]) == 1


def test_a_preset_keeps_the_lists_of_other_backbones(tmp_path):
    path, parameters = tmp_path / "preset.json", load_parameters()
    other = {"family": "WanTransformer3DModel", "count": 40, "blocks": [7], "source": "elsewhere"}
    path.write_text(json.dumps([other]))
    for name, values in (("wan-i2v", [0.6, 0.4, 0.7]), ("cogvideox-i2v", [0.4, 0.9]), ("wan-i2v", [0.3, 0.4, 0.7])):
        folder = tmp_path / name.split("-")[0]
        folder.mkdir(exist_ok=True)
        scores([values] * 3).to_csv(folder / "ratios.csv", index=False)
        assert write_preset(parameters, [name], tmp_path, path)[name] == [i for i, v in enumerate(values) if v > 0.5]
    cogvideox, wan, kept = json.loads(path.read_text())
    assert kept == other and wan["blocks"] == [2] and wan["count"] == 3
    assert cogvideox["family"] == "CogVideoXTransformer3DModel" and cogvideox["blocks"] == [1]
    assert cogvideox["source"] == "foreground ratio above 0.5, tokens, mask clean, cogvideox-i2v, 3 prompts"
    assert path.read_text().endswith("]\n")
    with pytest.raises(ValueError, match=r"elsewhere/wan/ratios\.csv: run"):
        write_preset(parameters, ["wan-t2v"], tmp_path / "elsewhere", path)


def test_the_pixels_mask_is_refused_outside_the_testbed(tmp_path):
    parameters = load_parameters()
    real = parameters.backbones["wan-i2v"].model_copy(update={"checkpoint": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"})
    parameters = parameters.model_copy(update={"backbones": {"wan-i2v": real}})
    (tmp_path / "wan").mkdir()
    scores([[0.6, 0.4]] * 3).assign(mask="pixels").to_csv(tmp_path / "wan/ratios.csv", index=False)
    with pytest.raises(ValueError, match="in the testbed's world alone"):
        write_preset(parameters, ["wan-i2v"], tmp_path, tmp_path / "preset.json", mask="pixels")


def test_the_prompts_of_a_calibration_are_not_those_of_the_benchmark():
    parameters = load_parameters()
    with foreground.own_prompts(parameters, "wan-i2v", foreground.SEED) as asked:
        own, images = zip(*[(c.prompt, i.read_bytes()) for c, i in study_cells(asked, "wan-i2v", 8)], strict=True)
    benchmark = {image.read_bytes() for _, image in study_cells(parameters, "wan-i2v", 467)}
    assert len(own) == 8 and not benchmark & set(images)
    with (
        pytest.raises(ValueError, match="seed 7 is the benchmark's"),
        foreground.own_prompts(parameters, "wan-i2v", parameters.benchmark.seed),
    ):
        pass


def test_the_shipped_preset_steers_the_testbed():
    transformer = WanTransformer3DModel.from_pretrained("testbed/checkpoints/wan-i2v", subfolder="transformer")
    known = json.loads(block_lists.CALIBRATED.read_text())
    entry = next(e for e in known if (e["family"], e["count"]) == (WAN, len(transformer.blocks)))
    model = describe(transformer)
    assert choose_blocks(model, "calibrated") == frozenset(entry["blocks"])
    assert 0 < len(entry["blocks"]) < entry["count"]
    with steer(transformer, AlignVid(1.35, blocks="calibrated")):
        pass
    with pytest.raises(ValueError, match="analysis foreground"):
        choose_blocks(replace(model, blocks=model.blocks[:7]), "calibrated")


# --- SAM 2, where its weights are at hand: here a tiny one with random weights ---------------------------------------
def tiny_sam2():
    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(
        hidden_size=12, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 2, 1, 1],
        embed_dim_per_stage=[12, 24, 48, 96], num_attention_heads_per_stage=[1, 1, 2, 4],
        window_size_per_stage=[8, 4, 8, 4], global_attention_blocks=[2],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]], fpn_hidden_size=32,
    )  # fmt: skip
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_attention_heads=4, iou_head_hidden_dim=32
        ),
    )
    return Sam2Model(config)


def test_points_lie_inside_each_part():
    mask = np.zeros((20, 30), bool)
    mask[2:9, 3:10], mask[12:15, 20:23] = True, True
    points = inner_points(mask)
    assert points.tolist() == [[6, 5], [21, 13]]
    assert inner_points(np.zeros((4, 4), bool)).shape == (0, 2)


def test_sam2_is_asked_at_the_points_of_two_means(tmp_path):
    tiny_sam2().save_pretrained(tmp_path / "sam2")
    latent = np.random.default_rng(0).normal(0, 0.1, (4, 2, 8, 8)).astype(np.float32)
    latent[:, :, 2:5, 3:6] += 5
    mask = pca_mask(latent, segmenter=str(tmp_path / "sam2"))
    assert mask.shape == (128,) and mask.dtype == bool
    model = load_sam2(str(tmp_path / "sam2"))
    image = np.zeros((16, 16, 3), np.uint8)
    assert not sam2_mask(model, image, np.zeros((0, 2))).any()  # nothing proposed, nothing found
    one, other = (sam2_mask(model, image, np.array([p], float)) for p in ((3, 4), (12, 9)))
    assert np.array_equal(sam2_mask(model, image, np.array([(3, 4), (12, 9)], float)), one | other)
    with pytest.raises(ValueError, match="no SAM 2 weights at nowhere"):
        load_sam2("nowhere")


# Two families: what is predicted, and the attention of one video -----------------------------------------------------
def test_estimates_of_a_flow_undo_the_mixing():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 16, 3, 4, 4, dtype=torch.float64)
    for step, level in enumerate(scheduler.sigmas[:4].tolist()):
        found = estimates(scheduler, step, (1 - level) * clean + level * noise, noise - clean)
        assert torch.allclose(found["noise"], noise) and torch.allclose(found["clean"], clean)
        assert torch.equal(found["velocity"], noise - clean)


def test_estimates_of_a_v_prediction_undo_the_mixing():
    scheduler = cogvideox.build_scheduler()
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 16, 3, 4, 4, dtype=torch.float64)
    for step, time in enumerate(scheduler.timesteps):
        x, v = scheduler.add_noise(clean, noise, time[None]), scheduler.get_velocity(clean, noise, time[None])
        found = estimates(scheduler, step, x, v)
        assert torch.allclose(found["noise"], noise, atol=1e-6) and torch.allclose(found["clean"], clean, atol=1e-6)
        assert torch.equal(found["velocity"], v)


def test_other_predictions_and_families_are_refused():
    scheduler = cogvideox.build_scheduler()
    scheduler.register_to_config(prediction_type="epsilon")
    with pytest.raises(ValueError, match="'epsilon'; flow_prediction and v_prediction"):
        estimates(scheduler, 0, torch.zeros(1), torch.zeros(1))
    model, inputs = make("hunyuan-1.5")
    with pytest.raises(ValueError, match="not for HunyuanVideo15"):
        noisy_and_prediction(model, inputs, inputs["hidden_states"])


@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "cogvideox-1.5"])
def test_latents_have_channels_first_and_no_condition(name):
    model, inputs = make(name)
    with torch.no_grad():
        output = model(**inputs, return_dict=False)[0]
    x, v = noisy_and_prediction(model, inputs, output)
    assert x.shape == v.shape and x.shape[0] == model.config.out_channels
    given = inputs["hidden_states"][0]
    if name.startswith("wan"):
        assert torch.equal(x, given[:16]) and torch.equal(v, output[0])
    else:
        assert torch.equal(x[:, 1], given[1, :4]) and torch.equal(v[:, 1], output[0, 1])


def test_joint_attention_received_and_masks_of_one_video(tmp_path, monkeypatch):
    """Against an explicit softmax in float64, and against what the sampler ends at."""
    backbone = cogvideox_backbone(tmp_path)
    parameters = load_parameters().model_copy(update={"backbones": {"joint": backbone}})
    ((cell, image),) = study_cells(parameters, "joint", 1)
    pipe, calls, latents, decoded = load_pipeline(backbone), [], [], []
    for block in pipe.transformer.transformer_blocks:
        block.attn1.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    plain, decode = foreground.pca_mask, pipe.vae.decode
    monkeypatch.setattr(foreground, "pca_mask", lambda x, *a: (latents.append((x, *a)), plain(x, *a))[1])
    monkeypatch.setattr(pipe.vae, "decode", lambda z, **k: (decoded.append(z), decode(z, **k))[1])
    measured = measure(cell, image, backbone)
    assert measured.received.shape == (2, 10, 192)
    assert {k: m.shape for k, m in measured.masks.items()} == dict.fromkeys(foreground.MASKS, (2, 192))
    for step, block in ((0, 0), (1, 4), (1, 9)):
        attention = pipe.transformer.transformer_blocks[block].attn1
        query, key = query_and_key(attention, calls[10 * step + block])
        weights = (query[:, 24:] @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean((0, 1))
        expected = (weights[24:] / weights[24:].sum()).numpy()
        assert np.allclose(measured.received[step, block], expected, rtol=1e-3) and weights[:24].sum() > 0.01
    # Per step the estimates of noise, velocity and clean video; DDIM ends at the last clean one.
    assert len(latents) == 6 and all(rest == [(1, 1, 1), None] for _, *rest in latents)
    assert np.allclose(latents[-1][0] / pipe.vae.config.scaling_factor, decoded[0][0].numpy(), atol=1e-4)
    first = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[0]]
    assert first == 0 and np.allclose(
        latents[2][0], -latents[1][0], atol=1e-6
    )  # pure noise: v is minus the clean video
