"""FramePack and FramePack-F1: joint attention, two kinds of block, earlier frames in the sequence.

Token order: history at a quarter and at half resolution; clean frames, of which the first is the reference; the video that
is being made; then image tokens, words and padding.
"""

from __future__ import annotations

import torch
from torch import nn

from .family import Family, Tiny, double_and_single
from .hunyuan_video import prompt_text
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


def tiny_model(batch, grid, words):
    """With history at three resolutions."""
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    torch.manual_seed(0)
    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(4, 6, 6), image_condition_type=None, has_image_proj=True, image_proj_dim=8, has_clean_x_embedder=True,
    )  # fmt: skip
    f, h, w = grid
    mask = torch.ones(batch, 9)
    mask[:, words:] = 0
    latents = lambda frames: torch.randn(batch, 4, frames, 2 * h, 2 * w)  # noqa: E731
    return model, dict(
        hidden_states=latents(f), timestep=torch.full((batch,), 900.0), encoder_hidden_states=torch.randn(batch, 9, 16),
        encoder_attention_mask=mask, pooled_projections=torch.randn(batch, 8), image_embeds=torch.randn(batch, 3, 8),
        indices_latents=torch.arange(20, 20 + f), guidance=torch.full((batch,), 6000.0),
        latents_clean=latents(2), indices_latents_clean=torch.tensor([0, 19]),
        latents_history_2x=latents(2), indices_latents_history_2x=torch.tensor([17, 18]),
        latents_history_4x=latents(16), indices_latents_history_4x=torch.arange(1, 17),
    )  # fmt: skip


def tiny_keys(site, grid, words, batch):
    """Groups of the keys; the padding of a single sample is cut off."""
    frames, rows, columns = grid
    size = rows * columns
    history = ["history"] * (4 * -(-rows // 4) * -(-columns // 4) + -(-rows // 2) * -(-columns // 2))
    text = ["image"] * 3 + ["text"] * words + ["text_padding"] * (0 if batch == 1 else 9 - words)
    return history + ["reference"] * size + ["history"] * size + ["video"] * frames * size + text


FAMILY = Family(
    title="FramePack, FramePack-F1",
    reference="a clean frame before the video; image tokens among the text",
    pipelines=("HunyuanVideoFramepackPipeline",),
    prompt_text=prompt_text,
    tiny={"framepack": Tiny(tiny_model, ("joint",), tiny_keys)},
    class_name="HunyuanVideoFramepackTransformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video", "text_padding", "image", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    distilled_guidance=True,
)
