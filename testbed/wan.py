"""The Wan-type backbone: the classes of Wan 2.1, each small enough to be trained on two cores.

Token counts follow the real pipeline: 512 text tokens (padded with zeros, not masked), the CLIP tokens of the reference
image in front of them, 16 latent channels, 36 input channels (noise, 4 mask, 16 condition). A 17 x 64 x 64 clip becomes
5 x 8 x 8 latents and, with patches of one latent pixel, as many video tokens. Text enters by cross-attention. Training is
flow matching: the target is noise - data at x_t = (1 - t) data + t noise.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import CLIPVisionModel, UMT5Config, UMT5EncoderModel

from .folding import folded_padding
from .models import (
    HEAD_DIM,
    HEADS,
    IMAGE_DIM,
    LATENT_CHANNELS,
    LAYERS,
    SLOTS,
    TEXT_DIM,
    build_image_processor,
    build_tokenizer,
    text_encoder_settings,
)
from .world import FRAMES

FFN_DIM = 256
FLOW_SHIFT = 3.0


def build_vae() -> AutoencoderKLWan:
    """(B, 3, 1 + 4 n, 64, 64) in [-1, 1] -> (B, 16, 1 + n, 8, 8). 1.9 M parameters."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
    )


def build_text_encoder() -> UMT5EncoderModel:
    """A two-layer UMT5 encoder, trained along with both transformers."""
    return UMT5EncoderModel(UMT5Config(**text_encoder_settings()))


def build_transformer(*, image_to_video: bool) -> WanTransformer3DModel:
    """Ten blocks; the image-to-video variant has 36 input channels and the image half of the cross-attention."""
    width = HEADS * HEAD_DIM
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS + (4 + LATENT_CHANNELS if image_to_video else 0),
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=FFN_DIM,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=IMAGE_DIM if image_to_video else None,
        added_kv_proj_dim=width if image_to_video else None,
        rope_max_seq_len=32,
    )


def image_to_video_from(text_to_video: WanTransformer3DModel) -> WanTransformer3DModel:
    """The image-to-video transformer that computes what `text_to_video` does until it is tuned.

    New input channels start at zero, and so do the values of the image keys, so that the reference has no say at first.
    """
    model = build_transformer(image_to_video=True)
    old, new = text_to_video.state_dict(), model.state_dict()
    for name, value in old.items():
        if name == "patch_embedding.weight":
            new[name] = torch.zeros_like(new[name])
            new[name][:, :LATENT_CHANNELS] = value
        else:
            new[name] = value
    for name in new:
        if ".add_v_proj." in name:
            new[name] = torch.zeros_like(new[name])
    model.load_state_dict(new)
    return model


class Denoiser(nn.Module):
    """The parts that are trained together: text encoder and transformer."""

    def __init__(self, text_encoder: UMT5EncoderModel, transformer: WanTransformer3DModel):
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer

    def forward(self, latents, timestep, ids, lengths, image_tokens=None):
        """latents (B, C, F, 8, 8), timestep (B,) in 0..1000, ids (B, SLOTS), image_tokens (B, 65, 64) -> velocity."""
        mask = torch.arange(SLOTS, device=ids.device)[None] < lengths[:, None]
        text = self.text_encoder(ids, mask.long()).last_hidden_state * mask[..., None]
        with folded_padding(self.transformer, lengths, SLOTS):
            return self.transformer(
                latents, timestep, text, encoder_hidden_states_image=image_tokens, return_dict=False
            )[0]


def sample_timesteps(generator: torch.Generator, count: int, shift: float = 2.0) -> torch.Tensor:
    """Timesteps in (0, 1000): logit-normal, shifted towards noise as the sampler's flow shift does."""
    t = torch.sigmoid(torch.randn(count, generator=generator) * 1.1)
    return 1000 * (shift * t / (1 + (shift - 1) * t))


def diffuse(clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(noisy latents, target of the model) at timesteps (B,); latents are (B, C, F, H, W)."""
    t = (timestep / 1000).view(-1, 1, 1, 1, 1)
    return (1 - t) * clean + t * noise, noise - clean


@torch.no_grad()
def encode_references(encode, references: list[torch.Tensor]) -> torch.Tensor:
    """The pipeline's condition: references (3, 1, H, W), each followed by grey frames, encoded -> (N, 16, 5, 8, 8)."""
    grey = torch.zeros(3, FRAMES - 1, *references[0].shape[2:])
    return encode([torch.cat([r, grey], 1) for r in references])


def condition_channels(condition: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """(B, 16, 5, 8, 8) latents of the reference -> (B, 20, len(frames), 8, 8) of the named latent frames: 4 mask
    channels (1 in frame 0) in front."""
    condition = condition[:, :, frames]
    mask = torch.zeros_like(condition[:, :4])
    mask[:, :, 0] = 1
    return torch.cat([mask, condition], dim=1)


def set_statistics(vae: AutoencoderKLWan, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Note each latent channel's mean and standard deviation (16,) in the configuration, where the pipeline reads them."""
    vae.register_to_config(
        latents_mean=[round(v, 4) for v in mean.tolist()], latents_std=[round(v, 4) for v in std.tolist()]
    )


def statistics(vae_config: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (16,) by which latents are normalised."""
    return torch.tensor(vae_config["latents_mean"]), torch.tensor(vae_config["latents_std"])


def build_scheduler() -> UniPCMultistepScheduler:
    """Wan's flow-matching scheduler."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )


def text_to_video_pipeline(vae, text_encoder, transformer) -> WanPipeline:
    """Assemble the text-to-video pipeline from trained parts."""
    return WanPipeline(build_tokenizer(), text_encoder, vae, build_scheduler(), transformer)


def image_to_video_pipeline(vae, text_encoder, transformer, vision: CLIPVisionModel) -> WanImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts."""
    return WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=build_scheduler(),
        image_processor=build_image_processor(),
        image_encoder=vision,
        transformer=transformer,
    )
