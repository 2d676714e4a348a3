"""FramePack and FramePack-F1: joint attention, two kinds of block, earlier frames in the sequence.

Token order: history at a quarter and at half resolution; clean frames, of which the first is the reference; the video that
is being made; then image tokens, words and padding.
"""

from __future__ import annotations

import torch
from torch import nn

from .family import Family, double_and_single
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames, video_then_text


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """History, clean frames with the reference first, the video, then image and text tokens."""
    config, hidden = transformer.config, inputs["hidden_states"]
    p, pt = config.patch_size, config.patch_size_t
    grid = (hidden.shape[2] // pt, hidden.shape[3] // p, hidden.shape[4] // p)
    size, device = grid[1] * grid[2], hidden.device
    parts = []
    for latents, indices, shrink in (
        (inputs.get("latents_history_4x"), inputs.get("indices_latents_history_4x"), 4),
        (inputs.get("latents_history_2x"), inputs.get("indices_latents_history_2x"), 2),
    ):
        if latents is not None and indices is not None:
            frames, rows, columns = (-(-n // (s * shrink)) for n, s in zip(latents.shape[2:], (pt, p, p), strict=True))
            parts.append(("history", frames * rows * columns, -1))
    clean, reference = inputs.get("latents_clean"), None
    if clean is not None and inputs.get("indices_latents_clean") is not None:
        start = sum(n for _, n, _ in parts)
        reference = slice(start, start + size)  # the start image comes first among the clean frames
        parts += [("reference", size, -1), ("history", (clean.shape[2] // pt - 1) * size, -1)]
    mask, images = inputs["encoder_attention_mask"], inputs["image_embeds"].shape[1]
    batch, length = mask.shape[0], images + mask.shape[1]
    count = images + mask.bool().sum(1)
    if batch == 1:  # diffusers cuts the text of a single sample to its valid tokens
        length = int(count[0])
    valid = torch.arange(length, device=device)[None] < count[:, None]
    text = text_sequence(device, valid, images)
    joint = video_then_text(sequence(device, *parts, *video_frames(grid[0], size, False)), text)
    return make_layout({"joint": joint}, grid, reference)


FAMILY = Family(
    class_name="HunyuanVideoFramepackTransformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video", "text_padding", "image", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    distilled_guidance=True,
)
