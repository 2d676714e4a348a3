"""CogVideoX and CogVideoX-1.5: joint attention over text, then video. There are no tokens of an image encoder."""

from __future__ import annotations

import functools

import torch
from torch import nn

from .family import Family, Tiny, numbered
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


def tiny_model(batch, grid, words, *, channels, time_patch=None):
    """words is ignored: CogVideoX does not know which text tokens are padding."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=4, time_embed_dim=8,
        text_embed_dim=8, num_layers=4, sample_width=8, sample_height=4, sample_frames=9, patch_size=2,
        patch_size_t=time_patch, temporal_compression_ratio=4, max_text_seq_length=6,
        use_rotary_positional_embeddings=time_patch is not None, patch_bias=time_patch is None,
    )  # fmt: skip
    f, h, w = grid
    return model, dict(
        hidden_states=torch.randn(batch, f * (time_patch or 1), channels, 2 * h, 2 * w),
        encoder_hidden_states=torch.randn(batch, 6, 8), timestep=torch.full((batch,), 900),
    )  # fmt: skip


def tiny(channels, time_patch=None, reference=True) -> Tiny:
    """A Tiny of CogVideoX's shape."""

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        return ["text"] * 6 + ["reference" if reference else "video"] * size + ["video"] * (grid[0] - 1) * size

    make = functools.partial(tiny_model, channels=channels, time_patch=time_patch)
    first = lambda hidden, grid: hidden[:, : time_patch or 1]  # noqa: E731
    return Tiny(make, ("joint",), keys, image_to_video=reference, first_frame=first)


FAMILY = Family(
    title="CogVideoX, CogVideoX-1.5",
    reference="channels beside the latents",
    pipelines=("CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXVideoToVideoPipeline"),
    without_reference={"CogVideoXFunControlPipeline": "a control video"},
    tiny={"cogvideox-i2v": tiny(8), "cogvideox-t2v": tiny(4, reference=False), "cogvideox-1.5": tiny(8, 2)},
    class_name="CogVideoXTransformer3DModel",
    attention={"attn1": "joint"},
    blocks=lambda transformer: numbered(transformer.transformer_blocks),
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video"},
    image_to_video=image_to_video,
    layout=layout,
)
