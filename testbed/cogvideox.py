"""The CogVideoX-type backbone: text and video in one joint attention, text first and not masked.

A 17 x 64 x 64 clip becomes 5 x 8 x 8 latents of 16 channels and, with patches of one latent pixel, as many video tokens
behind 24 text tokens (226 in the real model: pass `max_sequence_length=24`). The image-to-video model sees the latent of
the reference, followed by zeros, in 16 more input channels. Training is v-prediction on the schedule of CogVideoX-2B.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn
from transformers import T5Config, T5EncoderModel

from .models import HEAD_DIM, HEADS, LATENT_CHANNELS, LAYERS, SLOTS, TEXT_DIM, build_tokenizer, text_encoder_settings
from .world import FRAMES, SIZE

SIDE = SIZE // 8  # of a latent frame


def build_vae() -> AutoencoderKLCogVideoX:
    """(B, 3, 1 + 4 n, 64, 64) in [-1, 1] -> (B, 16, 1 + n, 8, 8). 2.2 M parameters."""
    widths = (8, 24, 48, 64)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=widths,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=SIZE,
        sample_width=SIZE,
        scaling_factor=1.0,
    )


def build_text_encoder() -> T5EncoderModel:
    """A two-layer T5 encoder, trained on captions before the transformers and frozen, as T5 is."""
    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **text_encoder_settings()))


def build_transformer(*, image_to_video: bool) -> CogVideoXTransformer3DModel:
    """Ten blocks with rotary positions; the image-to-video variant has 32 input channels."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS * (2 if image_to_video else 1),
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=TEXT_DIM,
        num_layers=LAYERS,
        sample_width=SIDE,
        sample_height=SIDE,
        sample_frames=FRAMES,
        patch_size=1,
        max_text_seq_length=SLOTS,
        use_rotary_positional_embeddings=True,
    )


def image_to_video_from(text_to_video: CogVideoXTransformer3DModel) -> CogVideoXTransformer3DModel:
    """The image-to-video transformer that computes what `text_to_video` does until it is tuned: the input channels of
    the reference start at zero."""
    model = build_transformer(image_to_video=True)
    state = dict(text_to_video.state_dict())
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = torch.cat([kernel, torch.zeros_like(kernel)], dim=1)
    model.load_state_dict(state)
    return model


class Denoiser(nn.Module):
    """What is trained on latents: the transformer, behind its text encoder."""

    def __init__(self, text_encoder: T5EncoderModel, transformer: CogVideoXTransformer3DModel):
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer

    def forward(self, latents, timestep, ids, lengths=None, image_tokens=None):
        """latents (B, C, F, 8, 8), timestep (B,) in 0..999, ids (B, SLOTS) -> v (B, 16, F, 8, 8). `lengths` and
        `image_tokens`, which the Wan backbone needs, are not used."""
        text = self.text_encoder(ids).last_hidden_state
        positions = get_3d_rotary_pos_embed(
            HEAD_DIM, ((0, 0), (SIDE, SIDE)), (SIDE, SIDE), latents.shape[2], device=latents.device
        )
        video = latents.transpose(1, 2)
        out = self.transformer(video, text, timestep, image_rotary_emb=positions, return_dict=False)[0]
        return out.transpose(1, 2)


def build_scheduler() -> CogVideoXDDIMScheduler:
    """CogVideoX-2B's schedule: scaled linear, no signal at the last timestep, shifted towards noise."""
    return CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        clip_sample=False,
    )


def sample_timesteps(generator: torch.Generator, count: int) -> torch.Tensor:
    """Timesteps 0..999, uniform: the schedule's shift already leans towards noise."""
    return torch.randint(0, 1000, (count,), generator=generator)


def diffuse(clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(noisy latents, target of the model) at timesteps (B,); latents are (B, C, F, H, W)."""
    scheduler = build_scheduler()
    return scheduler.add_noise(clean, noise, timestep), scheduler.get_velocity(clean, noise, timestep)


def encode_references(encode, references: list[torch.Tensor]) -> torch.Tensor:
    """Latents of the references (3, 1, H, W), single frames as in the pipeline -> (N, 16, 1, 8, 8)."""
    return encode(references)


def condition_channels(condition: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """(B, 16, 1, 8, 8) latents of the reference -> (B, 16, len(frames), 8, 8), zero behind the first."""
    return nn.functional.pad(condition, (0, 0, 0, 0, 0, len(frames) - 1))


def set_statistics(vae: AutoencoderKLCogVideoX, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Note one scaling factor in the configuration; these pipelines know neither a mean nor a factor per channel."""
    vae.register_to_config(scaling_factor=round(1 / (std.square() + mean.square()).mean().sqrt().item(), 4))


def statistics(vae_config: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (16,) by which latents are normalised."""
    return torch.zeros(LATENT_CHANNELS), torch.full((LATENT_CHANNELS,), 1 / vae_config["scaling_factor"])


def text_to_video_pipeline(vae, text_encoder, transformer) -> CogVideoXPipeline:
    """Assemble the text-to-video pipeline from trained parts."""
    return CogVideoXPipeline(build_tokenizer(), text_encoder, vae, transformer, build_scheduler())


def image_to_video_pipeline(vae, text_encoder, transformer, vision=None) -> CogVideoXImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts; it has no image encoder."""
    return CogVideoXImageToVideoPipeline(build_tokenizer(), text_encoder, vae, transformer, build_scheduler())
