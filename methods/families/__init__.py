"""One file per family of video transformers: its blocks, and which token is what in a forward pass.

A family is a `Family` object named FAMILY in a file of its own; FAMILIES finds it by the class name of the transformer.
"""

from __future__ import annotations

import inspect

from torch import nn

from . import cogvideox, framepack, hunyuan_video, hunyuan_video_15, wan
from .family import Block, Family, Model
from .tokens import GROUPS, Layout, Tokens

FAMILIES: dict[str, Family] = {
    module.FAMILY.class_name: module.FAMILY for module in (wan, hunyuan_video, hunyuan_video_15, framepack, cogvideox)
}
WAN, HUNYUAN, HUNYUAN15, FRAMEPACK, COGVIDEOX = FAMILIES

__all__ = [
    "COGVIDEOX", "FAMILIES", "FRAMEPACK", "GROUPS", "HUNYUAN", "HUNYUAN15", "WAN", "Block", "Family", "Layout", "Model",
    "Tokens", "attention_modules", "block_modules", "describe", "family_of", "family_of_pipeline", "inputs_by_name",
    "layout_of",
]  # fmt: skip


def family_of(transformer: nn.Module) -> Family:
    """The Family of a transformer. Raises TypeError for a class that is not one of FAMILIES."""
    name = type(transformer).__name__
    if name not in FAMILIES:
        raise TypeError(f"cannot steer a {name}; the families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_pipeline(pipeline: str) -> str:
    """Class name of the transformer that a pipeline class has: WanTransformer3DModel for WanImageToVideoPipeline.

    Raises ValueError for a pipeline whose transformer is not one of FAMILIES.
    """
    stems = {name.split("Transformer")[0]: name for name in FAMILIES}
    fits = [stem for stem in stems if pipeline.startswith(stem)]
    if not fits:
        raise ValueError(
            f"no family of transformers is known for the pipeline {pipeline!r}; known are {', '.join(stems)}"
        )
    return stems[max(fits, key=len)]  # HunyuanVideo15ImageToVideoPipeline starts with HunyuanVideo, too


def block_modules(transformer: nn.Module) -> list[tuple[Block, nn.Module]]:
    """Every block with its module, in order of execution. Raises TypeError for a class that is not one of FAMILIES."""
    return family_of(transformer).blocks(transformer)


def attention_modules(transformer: nn.Module) -> list[tuple[Block, str, nn.Module]]:
    """(block, kind, module) of every attention module in order of execution; kind: "self", "cross" or "joint".

    Raises TypeError for a class that is not one of FAMILIES.
    """
    attention = family_of(transformer).attention.items()
    return [(b, kind, getattr(m, name)) for b, m in block_modules(transformer) for name, kind in attention]


def describe(transformer: nn.Module) -> Model:
    """What a method may ask about a transformer. Raises TypeError for a class that is not one of FAMILIES."""
    return family_of(transformer).describe(transformer)


def inputs_by_name(transformer: nn.Module, args: tuple, kwargs: dict) -> dict:
    """The arguments of a forward call by name, positional ones included."""
    names = list(inspect.signature(type(transformer).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs


def layout_of(transformer: nn.Module, inputs: dict, image_tokens: int | None = None) -> Layout:
    """The token layout of the forward call with the arguments `inputs` (by name).

    image_tokens: how many of HunyuanVideo's text tokens are image tokens, which its transformer does not know.
    Raises ValueError for a text length that Wan 2.1 image-to-video would split wrongly.
    """
    return family_of(transformer).layout(transformer, inputs, image_tokens)
