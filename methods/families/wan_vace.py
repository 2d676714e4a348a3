"""Wan-VACE: attention and token order of Wan text-to-video, steered by a control video whose hints are added to the blocks.

Attentions of the `vace_blocks`, which make the hints, are left alone. Reference images, if there are any, are frames before
the video, and the first of them is the reference: the others are `history`. Only the pipeline knows how many there are; a
control video alone is no reference.
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import replace

import torch
from torch import nn

from . import wan
from .tokens import Layout, make_layout, sequence, video_frames

IMAGES = weakref.WeakKeyDictionary()  # transformer -> reference images in the current or last video


def watch(pipe):
    """Note how many reference images the pipeline puts before the video."""
    from ..core.interception import replace_attribute

    prepare = getattr(pipe, "prepare_video_latents", None)
    if prepare is None:
        return lambda: None
    parts = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    transformers = [getattr(p, "_orig_mod", p) for p in parts if p is not None]

    def noting(video, mask, reference_images=None, *args, **kwargs):
        for transformer in transformers:
            IMAGES[transformer] = len(reference_images[0]) if reference_images is not None else 0
        return prepare(video, mask, reference_images, *args, **kwargs)

    undo = replace_attribute(pipe, "prepare_video_latents", noting)

    def forget():
        undo()
        for transformer in transformers:
            IMAGES.pop(transformer, None)

    return forget


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Wan's, with the frames of the reference images before it."""
    images, found = IMAGES.get(transformer, 0), wan.layout(transformer, inputs, image_tokens)
    if not images:
        return found
    frames, rows, columns = found.grid
    size, grid = rows * columns, (frames - images, rows, columns)
    parts = [("reference", size, -1), ("history", (images - 1) * size, -1), *video_frames(grid[0], size, False)]
    video = sequence(inputs["hidden_states"].device, *parts)
    return make_layout({**found.sequences, "video": video}, grid, slice(0, size))


def tiny_model(batch, grid, words, *, images):
    """images: how many reference images stand before the video, which the pipeline would note."""
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    model = WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=3, rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=96,
    )  # fmt: skip
    if images:
        IMAGES[model] = images
    f, h, w = grid[0] + images, *grid[1:]
    text = torch.randn(batch, 512, 16)
    text[:, words:] = 0
    return model, dict(
        hidden_states=torch.randn(batch, 16, f, 2 * h, 2 * w), timestep=torch.full((batch,), 900.0),
        encoder_hidden_states=text, control_hidden_states=torch.randn(batch, 96, f, 2 * h, 2 * w),
    )  # fmt: skip


def tiny(images):
    """A Tiny of Wan-VACE's shape."""

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        if site == "text":
            return ["text"] * words + ["text_padding"] * (512 - words)
        before = ["reference"] * size + ["history"] * (images - 1) * size if images else []
        return before + ["video"] * grid[0] * size

    make = functools.partial(tiny_model, images=images)
    first = lambda hidden, grid: hidden[:, :, images : images + 1]  # noqa: E731
    return replace(wan.tiny(16), make=make, keys=keys, image_to_video=images > 0, first_frame=first)


FAMILY = replace(
    wan.FAMILY,
    without_reference={},
    class_name="WanVACETransformer3DModel",
    title="Wan-VACE",
    reference="frames before the video, whose content the control blocks add",
    pipelines=("WanVACEPipeline",),
    tiny={"wan-vace": tiny(0), "wan-vace-references": tiny(2)},
    groups=lambda transformer: {"text", "video", "text_padding", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    watch=watch,
)
