"""Modular pipelines are steered as ordinary ones: their schedulers say the step, and their guiders name the branches."""

from __future__ import annotations

import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks
from tiny_pipelines import build, video

from methods import AlignVid, record, steer

PARTS = ("text_encoder", "tokenizer", "vae", "transformer", "scheduler")


def modular(pipe):
    """The modular text-to-video pipeline of Wan with the parts of a classic one."""
    made = WanBlocks().init_pipeline()
    made.update_components(**{name: pipe.components[name] for name in PARTS})
    made.update_components(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    return made


def latents(pipe, steps=4):
    with torch.inference_mode():
        return pipe(
            prompt="a cat dances", negative_prompt="blurry", height=32, width=48, num_frames=9, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(3), output="latents",
        )  # fmt: skip


def test_a_modular_pipeline_gives_the_classic_pipelines_steered_video_bit_for_bit():
    classic, inputs = build("wan-t2v")
    pipe, method = modular(classic), AlignVid(1.5, window=(0, 0.5), blocks="all")
    plain = latents(pipe)
    with steer(pipe, method) as steering, record(pipe, blocks=[0], queries=1) as recording:
        steered = latents(pipe)
    table = recording.to_frame()
    assert sorted(table.step.unique()) == [0, 1, 2, 3] and set(table.branch) == {"cond", "uncond"}
    assert "steps 0-1 of 4" in str(steering.report())
    assert not torch.equal(steered, plain) and torch.equal(latents(pipe), plain)
    with steer(classic, method):
        assert torch.equal(video(classic, inputs, 4), steered)


def test_a_modular_run_in_which_a_method_never_acts_is_an_error_when_the_context_ends():
    pipe = modular(build("wan-t2v")[0])
    never = AlignVid(1.5, window=("noise", 0.02, 0.01))
    with pytest.raises(RuntimeError, match="AlignVid never acted in this run of 4 steps"), steer(pipe, never):
        latents(pipe)
