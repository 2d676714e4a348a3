"""What the post-training of a HunyuanVideo image-to-video model (token_replace) encodes of a clip and gives its transformer: what
the model's pipeline gives it. Latents are (1, C, F, h, w), the first frame that of the reference, clean; flow matching. The
functions are those of wan.py.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from methods.families import block_modules
from testbed.wan import diffuse, sample_timesteps

from .encoded import Encoded, Text

PIPELINE = "HunyuanVideoImageToVideoPipeline"
TUNED = "joint attention (`attn`)"
OBJECTIVE = "flow-matching loss, logit-normal times"
CLEAN_FRAMES = 1
SLOTS = 256  # text tokens by default
KEPT = 4  # the pipeline keeps every fourth image token


def text_slots(transformer, backbone) -> int:
    """The pipeline's `max_sequence_length`."""
    return backbone.max_sequence_length or SLOTS


def check_pipeline(pipe, frames: int) -> None:
    """Raise ValueError for a model that takes the reference otherwise."""
    kind = pipe.transformer.config.image_condition_type
    if kind != "token_replace":
        raise ValueError(
            f"the tuning of HunyuanVideo is that of token_replace; this model's image_condition_type is {kind!r}"
        )


def attention_of(index: int, transformer) -> str:
    """Where the names of the parameters begin that are tuned in a block."""
    kind, number = block_modules(transformer)[index][0].name.split(".")
    return f"{'single_' if kind == 'single' else ''}transformer_blocks.{number}.attn."


def encode_empty(pipe, slots: int, call: dict) -> dict[str, torch.Tensor]:
    """`text`, `mask` and `pooled` of the empty caption, beside the black image that the pipeline gives the negative prompt."""
    side = pipe.text_encoder.config.vision_config.image_size
    return _text(pipe, Image.new("RGB", (side, side), 0), "", slots, call)


def _text(pipe, image: Image.Image, caption: str, slots: int, call: dict, **kept) -> dict[str, torch.Tensor]:
    given = {k: call[k] for k in ("prompt_template", "prompt_2") if k in call}
    states, pooled, mask = pipe.encode_prompt(image=image, prompt=caption, max_sequence_length=slots, **given, **kept)
    return {"text": states[0], "pooled": pooled[0], "mask": mask[0]}


@torch.no_grad()
def encode(pipe, video: np.ndarray, caption: str, *, slots: int, seed: int, call: dict) -> dict[str, torch.Tensor]:
    """`text`, `mask` and `pooled` of the caption with the first frame, `latent` (C, F, h, w) of a clip, uint8 (T, H, W, 3), and
    `condition` (C, 1, h, w) of its first frame."""
    frames, height, width = video.shape[:3]
    device, vae, first = pipe.transformer.device, pipe.vae, Image.fromarray(video[0])
    pixels = pipe.video_processor.preprocess(first, height=height, width=width).to(device, vae.dtype)
    channels = pipe.transformer.config.out_channels
    _, condition = pipe.prepare_latents(
        pixels, 1, channels, height, width, frames, torch.float32, device, torch.Generator().manual_seed(seed),
        image_condition_type="token_replace",
    )  # fmt: skip
    clip = torch.from_numpy(video).permute(3, 0, 1, 2)[None].to(vae.device).float() / 127.5 - 1
    latent = vae.encode(clip.to(vae.dtype)).latent_dist.mode().float().cpu() * pipe.vae_scaling_factor
    # With `image_embed_interleave` the pipeline tells the prompt's call from the negative prompt's.
    kept = call.get("image_embed_interleave", KEPT)
    return _text(pipe, first, caption, slots, call, image_embed_interleave=kept) | {
        "latent": latent[0], "condition": condition[0],
    }  # fmt: skip


def draw_time(pipe, draw: torch.Generator) -> torch.Tensor:
    """A timestep (1,) in (0, 1000), logit-normal and shifted towards noise by the root of the sampler's shift."""
    return sample_timesteps(draw, 1, shift=pipe.scheduler.config.shift**0.5)


def noised(pipe, clip: Encoded, text: Text, timestep: torch.Tensor, noise: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """(inputs of the transformer, target) of an encoded clip: the reference's latents in the place of the first frame."""
    noisy, target = diffuse(clip.latent, noise, timestep)
    inputs = {
        "hidden_states": torch.cat([clip.condition, noisy[:, :, 1:]], 2), "timestep": timestep,
        "encoder_hidden_states": text.states, "encoder_attention_mask": text.mask, "pooled_projections": text.pooled,
    }  # fmt: skip
    if pipe.transformer.config.guidance_embeds:  # a model distilled with guidance: the scale that stands for none
        inputs["guidance"] = torch.full((1,), 1000.0)
    return inputs, target
