"""CogVideoX and CogVideoX-1.5: joint attention over text, then video. There are no tokens of an image encoder."""

from __future__ import annotations

from torch import nn

from .family import Family, numbered
from .tokens import Layout, make_layout, sequence, video_frames


def image_to_video(transformer: nn.Module) -> bool:
    """Whether the latents have extra channels for the reference."""
    return transformer.config.in_channels > transformer.config.out_channels


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """The text, then the video; with a reference, latent frame 0 is its frame."""
    config, hidden, text = transformer.config, inputs["hidden_states"], inputs["encoder_hidden_states"]
    p, pt = config.patch_size, config.patch_size_t or 1
    grid = (-(-hidden.shape[1] // pt), hidden.shape[3] // p, hidden.shape[4] // p)
    size, words, reference = grid[1] * grid[2], text.shape[1], image_to_video(transformer)
    joint = sequence(hidden.device, ("text", words, -1), *video_frames(grid[0], size, reference))
    return make_layout({"joint": joint}, grid, slice(words, words + size) if reference else None)


FAMILY = Family(
    class_name="CogVideoXTransformer3DModel",
    attention={"attn1": "joint"},
    blocks=lambda transformer: numbered(transformer.transformer_blocks),
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video"},
    image_to_video=image_to_video,
    layout=layout,
)
