"""What the post-training of a Wan 2.1 image-to-video model encodes of a clip and gives its transformer: what the model's
pipeline gives it. Latents are (1, C, F, h, w); flow matching. The other modules here with a lineage's name have the same
functions.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from testbed.wan import diffuse, sample_timesteps

from .encoded import Encoded, Text

PIPELINE = "WanImageToVideoPipeline"
TUNED = "cross-attention (`attn2`)"
OBJECTIVE = "flow-matching loss, logit-normal times"
CLEAN_FRAMES = 0  # latent frames for which nothing is predicted
SLOTS = 512  # text tokens; those without a word are zero, and are not stored


def text_slots(transformer, backbone) -> int:
    """Text tokens that a backbone's pipeline gives its transformer."""
    return SLOTS


def check_pipeline(pipe, frames: int) -> None:
    """Nothing to refuse."""


def attention_of(index: int, transformer) -> str:
    """Where the names of the parameters begin that are tuned in a block."""
    return f"blocks.{index}.attn2."


def encode_empty(pipe, slots: int, call: dict) -> dict[str, torch.Tensor]:
    """`text` of the empty caption, the rows that are not zero."""
    return {"text": _words(pipe.encode_prompt("", do_classifier_free_guidance=False, max_sequence_length=slots)[0][0])}


@torch.no_grad()
def encode(pipe, video: np.ndarray, caption: str, *, slots: int, seed: int, call: dict) -> dict[str, torch.Tensor]:
    """`text` of the caption, `latent` and `condition` (C, F, h, w) of a clip, uint8 (T, H, W, 3), and `image`, tokens of its
    first frame."""
    text = pipe.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=slots)[0][0]
    frames, height, width = video.shape[:3]
    device, vae = pipe.transformer.device, pipe.vae
    first = Image.fromarray(video[0])
    image = pipe.encode_image(first, device)[0]
    pixels = pipe.video_processor.preprocess(first, height=height, width=width).to(device, torch.float32)
    _, condition = pipe.prepare_latents(pixels, 1, vae.config.z_dim, height, width, frames, torch.float32, device)
    clip = torch.from_numpy(video).permute(3, 0, 1, 2)[None].to(vae.device).float() / 127.5 - 1
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    latent = (vae.encode(clip.to(vae.dtype)).latent_dist.mode().float().cpu() - mean) / std
    return {"text": _words(text), "latent": latent[0], "condition": condition[0], "image": image}


def _words(text: torch.Tensor) -> torch.Tensor:
    return text[text.abs().sum(-1) > 0]


def draw_time(pipe, draw: torch.Generator) -> torch.Tensor:
    """A timestep (1,) in (0, 1000), logit-normal and shifted towards noise."""
    return sample_timesteps(draw, 1)


def noised(pipe, clip: Encoded, text: Text, timestep: torch.Tensor, noise: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """(inputs of the transformer, target) of an encoded clip."""
    noisy, target = diffuse(clip.latent, noise, timestep)
    inputs = {
        "hidden_states": torch.cat([noisy, clip.condition], 1), "timestep": timestep, "encoder_hidden_states": text.states,
        "encoder_hidden_states_image": clip.image,
    }  # fmt: skip
    return inputs, target
