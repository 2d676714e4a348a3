"""Helios: self-attention over history and video, then cross-attention to the text; what was made before is in the sequence.

Token order: long, middle and short history, then the video that is being made. The reference is the first frame of the
short history if the pipeline keeps it there: the image that it was given, in later parts of a video made from text the
first frame of that video. Some models let only the video attend to the text. A model that amplifies its history multiplies
its keys by a learned factor of each head before the attention: methods see, scale and record those keys.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from . import wan
from .family import Family, Tiny, numbered
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames

HISTORY = (("long", 4), ("mid", 2))  # and by how much they are coarser than the video, in time and space


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """History in the order in which the model puts it before the video."""
    patch, hidden, text = transformer.config.patch_size, inputs["hidden_states"], inputs["encoder_hidden_states"]
    grid = tuple(n // p for n, p in zip(hidden.shape[2:], patch, strict=True))
    size, device, parts, reference = grid[1] * grid[2], hidden.device, [], None
    for name, coarser in HISTORY:
        latents = inputs.get(f"latents_history_{name}")
        if latents is not None and inputs.get(f"indices_latents_history_{name}") is not None:
            frames, rows, columns = (-(-n // (p * coarser)) for n, p in zip(latents.shape[2:], patch, strict=True))
            parts.append(("history", frames * rows * columns, -1))
    short, indices = inputs.get("latents_history_short"), inputs.get("indices_latents_history_short")
    if short is not None and indices is not None:
        start, rest = sum(n for _, n, _ in parts), short.shape[2] // patch[0] * size
        if int(indices.flatten()[0]) == 0 and bool((short[:, :, 0] != 0).any()):
            parts, rest, reference = [*parts, ("reference", size, -1)], rest - size, slice(start, start + size)
        parts.append(("history", rest, -1))
    video = video_frames(grid[0], size, False)
    sequences = {
        "video": sequence(device, *parts, *video),
        "text": text_sequence(device, text.abs().sum(-1) > 0),
    }
    if transformer.config.guidance_cross_attn:
        sequences["text queries"] = sequence(device, *video)
    return make_layout(sequences, grid, reference)


def tiny_model(batch, grid, words, *, image, amplified):
    """image: whether the short history begins with one. amplified: learned factors on its keys."""
    from diffusers import HeliosTransformer3DModel

    torch.manual_seed(0)
    model = HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
        num_layers=3, rope_dim=(4, 4, 4), is_amplify_history=amplified, guidance_cross_attn=amplified,
    )  # fmt: skip
    for block in model.blocks if amplified else ():
        nn.init.constant_(block.attn1.history_key_scale, -2.0)  # a factor of 2.1; larger ones would only test rounding
    f, h, w = grid
    latents = lambda frames: torch.randn(batch, 4, frames, 2 * h, 2 * w)  # noqa: E731
    text, short, indices = torch.randn(batch, 9, 16), latents(2), torch.arange(19 + f)[None].expand(batch, -1)
    text[:, words:] = 0
    short[:, :, 0] *= int(image)
    return model, dict(
        hidden_states=latents(f), timestep=torch.full((batch,), 900.0), encoder_hidden_states=text,
        indices_hidden_states=indices[:, 19:], latents_history_short=short,
        indices_latents_history_short=torch.cat([indices[:, :1], indices[:, 18:19]], 1), latents_history_mid=latents(2),
        indices_latents_history_mid=indices[:, 16:18], latents_history_long=latents(16),
        indices_latents_history_long=indices[:, :16],
    )  # fmt: skip


def tiny(image=True, amplified=False) -> Tiny:
    """A Tiny of Helios's shape."""

    def keys(site, grid, words, batch):
        frames, rows, columns = grid
        size = rows * columns
        if site == "text":
            return ["text"] * words + ["text_padding"] * (9 - words)
        history = 4 * -(-rows // 4) * -(-columns // 4) + -(-rows // 2) * -(-columns // 2)
        first = ["reference" if image else "history"] * size
        return ["history"] * history + first + ["history"] * size + ["video"] * frames * size

    make = functools.partial(tiny_model, image=image, amplified=amplified)
    return Tiny(make, ("self", "text"), keys, image_to_video=image)


FAMILY = Family(
    title="Helios",
    reference="the first frame of the short history before the video",
    pipelines=("HeliosPipeline",),
    refused_pipelines={
        "HeliosPyramidPipeline": "it samples at several resolutions with a schedule for each and does not tell its step"
    },
    tiny={"helios": tiny(), "helios-amplified": tiny(amplified=True), "helios-t2v": tiny(image=False)},
    class_name="HeliosTransformer3DModel",
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.blocks),
    sites=lambda transformer: {"self", "text"},
    groups=lambda transformer: {"text", "video", "text_padding", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    prompt_text=wan.prompt_text,
    block_outputs=("hidden_states",),
)
