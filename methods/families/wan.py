"""Wan 2.1 and 2.2 (A14B, 5B), image-to-video and text-to-video: self-attention, then cross-attention to image and text.

Token order: video; keys of the image encoder (Wan 2.1 only); text keys, 512 of them, padding included.
"""

from __future__ import annotations

from torch import nn

from .family import Family, numbered
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames


def has_image_attention(transformer: nn.Module) -> bool:
    """Whether the cross-attention has a branch for the tokens of an image encoder (Wan 2.1 image-to-video)."""
    return transformer.config.added_kv_proj_dim is not None


def image_to_video(transformer: nn.Module) -> bool:
    """Whether a reference can be given. Wan 2.2 5B serves both tasks: only the call shows whether one is."""
    config = transformer.config
    return config.in_channels > config.out_channels or config.in_channels == 48


def sites(transformer: nn.Module) -> set[str]:
    """Attentions of a block."""
    return {"self", "text"} | ({"image"} if has_image_attention(transformer) else set())


def groups(transformer: nn.Module) -> set[str]:
    """Groups that keys can belong to, the reference's apart."""
    return {"text", "video", "text_padding"} | ({"image"} if has_image_attention(transformer) else set())


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Raises ValueError for a text length that diffusers would split wrongly into image and text keys."""
    config, hidden, text = transformer.config, inputs["hidden_states"], inputs["encoder_hidden_states"]
    grid = tuple(n // p for n, p in zip(hidden.shape[2:], config.patch_size, strict=True))
    size, device, timestep = grid[1] * grid[2], hidden.device, inputs["timestep"]
    # Wan 2.2 5B has one time per token: the tokens of a reference, the first frame, have time 0.
    clean_first_frame = (
        timestep.ndim == 2 and bool((timestep[:, :size] == 0).all()) and bool((timestep[:, size:] > 0).any())
    )
    reference = clean_first_frame or config.in_channels > config.out_channels
    sequences = {"video": sequence(device, *video_frames(grid[0], size, reference))}
    if text.shape[1] != 512 and has_image_attention(transformer):
        raise ValueError(
            f"Wan 2.1 image-to-video takes 512 text tokens, not {text.shape[1]}: diffusers splits image and text keys "
            "at 512 (leave max_sequence_length at 512)"
        )
    sequences["text"] = text_sequence(device, text.abs().sum(-1) > 0)
    image = inputs.get("encoder_hidden_states_image")
    if image is not None:
        # First and last frame (FLF2V) come as two images of one sample.
        count = image.shape[0] * image.shape[1] // text.shape[0]
        sequences["image"] = sequence(device, ("image", count, -1))
    return make_layout(sequences, grid, slice(0, size) if reference else None)


FAMILY = Family(
    class_name="WanTransformer3DModel",
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.blocks),
    sites=sites,
    groups=groups,
    image_to_video=image_to_video,
    layout=layout,
)
