"""The Wan-type backbone on the second edition's words: as in `testbed/wan.py`, with another vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from transformers import CLIPModel, UMT5Config, UMT5EncoderModel

from testbed.wan import (
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

from .models import build_image_processor, build_tokenizer, text_encoder_settings, tokenize_for_t5, vision_half
from .pretrained import take_text_encoder

__all__ = ["build_vae", "diffuse", "encode_references", "image_to_video_from", "sample_timesteps", "set_statistics",
           "statistics"]  # fmt: skip
tokenize = tokenize_for_t5
CLEAN_FRAMES = 0  # latent frames that the model is given clean, and need not predict


def build_text_encoder() -> UMT5EncoderModel:
    """A two-layer UMT5 encoder, trained along with both transformers."""
    return UMT5EncoderModel(UMT5Config(**text_encoder_settings()))


def build_denoiser(folder: Path) -> Denoiser:
    """The text-to-video model to be trained; a text encoder in `<folder>/text.safetensors` is taken and frozen."""
    return take_text_encoder(Denoiser(build_text_encoder(), build_transformer(image_to_video=False)), folder)


def model_input(noisy: torch.Tensor, condition: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """What the image-to-video transformer is given: the noisy latents with the reference in more channels."""
    return torch.cat([noisy, condition_channels(condition, frames)], dim=1)


def call_arguments(scale: float, *, image_to_video: bool) -> dict:
    """What the pipelines are called with besides prompt, size and reference, for guidance of `scale`."""
    return {"guidance_scale": scale, "negative_prompt": ""}


def text_to_video_pipeline(vae, text_encoder, transformer, clip: CLIPModel) -> WanPipeline:
    """Assemble the text-to-video pipeline from trained parts; it has no use for CLIP."""
    return WanPipeline(build_tokenizer(), text_encoder, vae, build_scheduler(), transformer)


def image_to_video_pipeline(vae, text_encoder, transformer, clip: CLIPModel) -> WanImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts; the vision half of `clip` is its image encoder."""
    return WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=build_scheduler(),
        image_processor=build_image_processor(),
        image_encoder=vision_half(clip),
        transformer=transformer,
    )
