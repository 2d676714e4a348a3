"""HunyuanVideo image-to-video, token_replace and latent_concat: joint attention, two kinds of block.

Token order: video; then the text stream, which holds image tokens, words and padding.
"""

from __future__ import annotations

import torch
from torch import nn

from .family import Family, double_and_single
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames, video_then_text


def image_to_video(transformer: nn.Module) -> bool:
    """Whether the model was made for a reference image."""
    return transformer.config.image_condition_type is not None


def groups(transformer: nn.Module) -> set[str]:
    """Groups that keys can belong to, the reference's apart."""
    return {"text", "video", "text_padding"} | ({"image"} if image_to_video(transformer) else set())


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """image_tokens: how many text tokens are image tokens, which the transformer itself does not know."""
    config, hidden = transformer.config, inputs["hidden_states"]
    grid = (
        hidden.shape[2] // config.patch_size_t,
        hidden.shape[3] // config.patch_size,
        hidden.shape[4] // config.patch_size,
    )
    size, device, mask = grid[1] * grid[2], hidden.device, inputs["encoder_attention_mask"]
    reference = image_to_video(transformer)
    # The model takes the first sum(mask) text tokens for valid, wherever the ones of the mask are.
    valid = torch.arange(mask.shape[1], device=device)[None] < mask.sum(1, keepdim=True)
    text = text_sequence(device, valid, (image_tokens or 0) if reference else 0)
    joint = video_then_text(sequence(device, *video_frames(grid[0], size, reference)), text)
    return make_layout({"joint": joint}, grid, slice(0, size) if reference else None)


def image_tokens(transformer: nn.Module, pipe, branch: str) -> int | None:
    """Image tokens in the text stream by the rule of the pipeline; None without its text encoder."""
    vision = getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "vision_config", None)
    if vision is None:
        return None
    # The pipeline keeps every second token, every fourth for token_replace; of the negative prompt always every second.
    every = 4 if transformer.config.image_condition_type == "token_replace" and branch != "uncond" else 2
    return -(-((vision.image_size // vision.patch_size) ** 2) // every)


FAMILY = Family(
    class_name="HunyuanVideoTransformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=groups,
    image_to_video=image_to_video,
    layout=layout,
    distilled_guidance=True,
    image_tokens=image_tokens,
)
