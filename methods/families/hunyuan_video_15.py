"""HunyuanVideo-1.5: joint attention.

Token order: video; then image tokens, words and padding, with the valid tokens of each sample first.
"""

from __future__ import annotations

import torch
from torch import nn

from .family import Family, double_and_single
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames, video_then_text


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """The video, then image and text tokens with the valid ones of each sample first."""
    config, hidden, image = transformer.config, inputs["hidden_states"], inputs["image_embeds"]
    grid = (
        hidden.shape[2] // config.patch_size_t,
        hidden.shape[3] // config.patch_size,
        hidden.shape[4] // config.patch_size,
    )
    size, device = grid[1] * grid[2], hidden.device
    reference = not bool((image == 0).all())  # text-to-video passes an image of zeros
    images = image.shape[1] if reference else 0
    words = inputs["encoder_attention_mask"].bool().sum(1) + inputs["encoder_attention_mask_2"].bool().sum(1)
    total = image.shape[1] + inputs["encoder_attention_mask"].shape[1] + inputs["encoder_attention_mask_2"].shape[1]
    valid = torch.arange(total, device=device)[None] < (images + words)[:, None]
    text = text_sequence(device, valid, images)
    joint = video_then_text(sequence(device, *video_frames(grid[0], size, reference)), text)
    return make_layout({"joint": joint}, grid, slice(0, size) if reference else None)


FAMILY = Family(
    class_name="HunyuanVideo15Transformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video", "text_padding", "image"},
    image_to_video=lambda transformer: True,
    layout=layout,
)
