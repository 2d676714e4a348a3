"""SkyReels-V2, image-to-video and text-to-video: attention and token order of Wan.

Refused is diffusion forcing. Every frame then has a time of its own, the call is given a moving window of the video whose
first frame need not be the reference, and steps cannot be told by the time; with causal blocks a mask hides later frames.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from . import wan
from .tokens import Layout

FORCING = (
    "diffusion forcing gives each frame a time of its own and the transformer a window of the video whose first frame "
    "need not be the reference"
)
FORCING_PIPELINES = (
    "SkyReelsV2DiffusionForcingImageToVideoPipeline",
    "SkyReelsV2DiffusionForcingPipeline",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
)


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Wan's. Raises ValueError for a call with diffusion forcing."""
    if inputs.get("enable_diffusion_forcing"):
        raise ValueError(f"SkyReels-V2: {FORCING}")
    return wan.layout(transformer, inputs, image_tokens)


def refuse(transformer: nn.Module) -> str | None:
    """Causal blocks are for diffusion forcing."""
    return FORCING if transformer.config.num_frame_per_block > 1 else None


def tiny(channels, image=None):
    """A Tiny of Wan's, as a SkyReels-V2."""

    def make(batch, grid, words):
        from diffusers import SkyReelsV2Transformer3DModel

        return wan.tiny_model(
            batch, grid, words, channels=channels, image=image, transformer=SkyReelsV2Transformer3DModel
        )

    return replace(wan.tiny(channels, image, reference=bool(image)), make=make)


FAMILY = replace(
    wan.FAMILY,
    without_reference={},
    class_name="SkyReelsV2Transformer3DModel",
    title="SkyReels-V2",
    reference="channels beside the latents; keys of an image encoder",
    pipelines=("SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Pipeline"),
    refused_pipelines=dict.fromkeys(FORCING_PIPELINES, FORCING),
    tiny={"skyreels-v2-i2v": tiny(36, 257), "skyreels-v2-t2v": tiny(16)},
    layout=layout,
    refuse=refuse,
)
