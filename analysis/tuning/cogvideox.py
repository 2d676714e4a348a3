"""What the post-training of a CogVideoX image-to-video model encodes of a clip and gives its transformer: what the model's
pipeline gives it. Latents are (1, F, C, h, w); noise and target are those of the pipeline's own scheduler. The functions are
those of wan.py.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .encoded import Encoded, Text

PIPELINE = "CogVideoXImageToVideoPipeline"
TUNED = "joint attention (`attn1`)"
OBJECTIVE = "v-prediction, uniform times"
CLEAN_FRAMES = 0


def text_slots(transformer, backbone) -> int:
    """Text tokens that a backbone's pipeline gives its transformer."""
    return backbone.max_sequence_length or transformer.config.max_text_seq_length


def check_pipeline(pipe, frames: int) -> None:
    """Raise ValueError for a pipeline whose target or whose frames are not those of the training."""
    kind = pipe.scheduler.config.prediction_type
    if kind != "v_prediction":
        raise ValueError(f"the tuning of CogVideoX is v-prediction; this scheduler's prediction_type is {kind!r}")
    latent, patch = (frames - 1) // pipe.vae_scale_factor_temporal + 1, pipe.transformer.config.patch_size_t or 1
    if latent % patch:
        raise ValueError(
            f"{frames} frames are {latent} latent ones, which patches of {patch} do not divide: the pipeline would add some"
        )


def attention_of(index: int, transformer) -> str:
    """Where the names of the parameters begin that are tuned in a block."""
    return f"transformer_blocks.{index}.attn1."


def encode_empty(pipe, slots: int, call: dict) -> dict[str, torch.Tensor]:
    """`text` of the empty caption."""
    return {"text": pipe.encode_prompt("", do_classifier_free_guidance=False, max_sequence_length=slots)[0][0]}


@torch.no_grad()
def encode(pipe, video: np.ndarray, caption: str, *, slots: int, seed: int, call: dict) -> dict[str, torch.Tensor]:
    """`text` of the caption, and `latent` and `condition` (F, C, h, w) of a clip, uint8 (T, H, W, 3): scaled latents of the
    clip, and the reference's followed by zeros. The pipeline draws the reference's from the autoencoder's distribution, here
    with `seed`."""
    text = pipe.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=slots)[0][0]
    dtype, frames, height, width = text.dtype, *video.shape[:3]
    device, vae = pipe.transformer.device, pipe.vae
    pixels = pipe.video_processor.preprocess(Image.fromarray(video[0]), height=height, width=width).to(device, dtype)
    channels, draw = pipe.transformer.config.in_channels // 2, torch.Generator().manual_seed(seed)
    _, condition = pipe.prepare_latents(pixels, 1, channels, frames, height, width, dtype, device, draw)
    clip = torch.from_numpy(video).permute(3, 0, 1, 2)[None].to(vae.device).float() / 127.5 - 1
    latent = vae.encode(clip.to(vae.dtype)).latent_dist.mode().float().cpu() * pipe.vae_scaling_factor_image
    return {"text": text, "latent": latent[0].transpose(0, 1), "condition": condition[0]}


def draw_time(pipe, draw: torch.Generator) -> torch.Tensor:
    """A timestep (1,), uniform: the schedule itself says how noise is shared out."""
    return torch.randint(0, pipe.scheduler.config.num_train_timesteps, (1,), generator=draw)


def noised(pipe, clip: Encoded, text: Text, timestep: torch.Tensor, noise: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """(inputs of the transformer, target) of an encoded clip: velocity of the scheduler, positions of the pipeline."""
    transformer, scale = pipe.transformer, pipe.vae_scale_factor_spatial
    noisy = pipe.scheduler.add_noise(clip.latent, noise, timestep)
    inputs = {
        "hidden_states": torch.cat([noisy, clip.condition], 2), "timestep": timestep, "encoder_hidden_states": text.states,
    }  # fmt: skip
    if transformer.config.use_rotary_positional_embeddings:
        frames, _, rows, columns = clip.latent.shape[1:]
        inputs["image_rotary_emb"] = pipe._prepare_rotary_positional_embeddings(
            rows * scale, columns * scale, frames, transformer.device
        )
    if transformer.config.ofs_embed_dim is not None:
        inputs["ofs"] = torch.full((1,), 2.0)
    return inputs, pipe.scheduler.get_velocity(clip.latent, noise, timestep)
