"""What the post-training of a CogVideoX image-to-video model encodes of a clip and gives its transformer: what the model's
pipeline gives it. Latents are (1, F, C, h, w) there; noise and target are those of the pipeline's own scheduler.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from methods.families import COGVIDEOX


def is_joint(transformer) -> bool:
    """Whether a transformer has joint attention that can be tuned: CogVideoX."""
    return type(transformer).__name__ == COGVIDEOX


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


@torch.no_grad()
def encode_latents(pipe, video: np.ndarray, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """`latent` and `condition` (F, C, h, w) of a clip, uint8 (T, H, W, 3): scaled latents of the clip, and the reference's
    followed by zeros. The pipeline draws the reference's from the autoencoder's distribution, here with `seed`."""
    frames, height, width = video.shape[:3]
    device, vae = pipe.transformer.device, pipe.vae
    pixels = pipe.video_processor.preprocess(Image.fromarray(video[0]), height=height, width=width).to(device, dtype)
    channels, draw = pipe.transformer.config.in_channels // 2, torch.Generator().manual_seed(seed)
    _, condition = pipe.prepare_latents(pixels, 1, channels, frames, height, width, dtype, device, draw)
    clip = torch.from_numpy(video).permute(3, 0, 1, 2)[None].to(vae.device).float() / 127.5 - 1
    latent = vae.encode(clip.to(vae.dtype)).latent_dist.mode().float().cpu() * pipe.vae_scaling_factor_image
    return {"latent": latent[0].transpose(0, 1), "condition": condition[0]}


def draw_time(pipe, draw: torch.Generator) -> torch.Tensor:
    """A timestep (1,), uniform: the schedule itself says how noise is shared out."""
    return torch.randint(0, pipe.scheduler.config.num_train_timesteps, (1,), generator=draw)


def noised(pipe, clip, text: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """(inputs of the transformer, target) of an encoded clip: velocity of the scheduler, positions of the pipeline."""
    transformer, scale = pipe.transformer, pipe.vae_scale_factor_spatial
    noisy = pipe.scheduler.add_noise(clip.latent, noise, timestep)
    inputs = {
        "hidden_states": torch.cat([noisy, clip.condition], 2), "timestep": timestep, "encoder_hidden_states": text,
    }  # fmt: skip
    if transformer.config.use_rotary_positional_embeddings:
        frames, _, rows, columns = clip.latent.shape[1:]
        inputs["image_rotary_emb"] = pipe._prepare_rotary_positional_embeddings(
            rows * scale, columns * scale, frames, transformer.device
        )
    if transformer.config.ofs_embed_dim is not None:
        inputs["ofs"] = torch.full((1,), 2.0)
    return inputs, pipe.scheduler.get_velocity(clip.latent, noise, timestep)
