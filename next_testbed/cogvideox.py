"""The CogVideoX-type backbone on the second edition's words: as in `testbed/cogvideox.py`, with another vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from transformers import T5Config, T5EncoderModel

from testbed.cogvideox import (
    Denoiser,
    build_scheduler,
    build_transformer,
    build_vae,
    condition_channels,
    diffuse,
    encode_references,
    image_to_video_from,
    sample_timesteps,
    set_statistics,
    statistics,
)

from .models import SLOTS, build_tokenizer, text_encoder_settings, tokenize_for_t5
from .pretrained import take_text_encoder

__all__ = ["build_vae", "diffuse", "encode_references", "image_to_video_from", "sample_timesteps", "set_statistics",
           "statistics"]  # fmt: skip
tokenize = tokenize_for_t5
CLEAN_FRAMES = 0  # latent frames that the model is given clean, and need not predict


def build_text_encoder() -> T5EncoderModel:
    """A two-layer T5 encoder, trained on captions before the transformers and frozen, as T5 is."""
    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **text_encoder_settings()))


def build_denoiser(folder: Path) -> Denoiser:
    """The text-to-video model to be trained; a text encoder in `<folder>/text.safetensors` is taken and frozen."""
    return take_text_encoder(Denoiser(build_text_encoder(), build_transformer(image_to_video=False)), folder)


def model_input(noisy: torch.Tensor, condition: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """What the image-to-video transformer is given: the noisy latents with the reference in more channels."""
    return torch.cat([noisy, condition_channels(condition, frames)], dim=1)


def call_arguments(scale: float, *, image_to_video: bool) -> dict:
    """What the pipelines are called with besides prompt, size and reference, for guidance of `scale`."""
    return {"guidance_scale": scale, "negative_prompt": "", "max_sequence_length": SLOTS}


def text_to_video_pipeline(vae, text_encoder, transformer, clip=None) -> CogVideoXPipeline:
    """Assemble the text-to-video pipeline from trained parts."""
    return CogVideoXPipeline(build_tokenizer(), text_encoder, vae, transformer, build_scheduler())


def image_to_video_pipeline(vae, text_encoder, transformer, clip=None) -> CogVideoXImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts; it has no image encoder."""
    return CogVideoXImageToVideoPipeline(build_tokenizer(), text_encoder, vae, transformer, build_scheduler())
