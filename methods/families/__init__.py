"""One file per family of video transformers: its blocks, and which token is what in a forward pass.

A family is a `Family` object named FAMILY in a file of its own here, or one that another package names in the entry-point
group `i2v_steering.families`. FAMILIES finds it by the class name of the transformer. REFUSED says of other classes why
they cannot be steered.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace
from importlib.metadata import entry_points

from torch import nn

from .family import Block, Family, Model, Tiny
from .refused import REFUSED
from .tokens import GROUPS, Layout, Tokens

ENTRY_POINTS = "i2v_steering.families"


def _find_families() -> dict[str, Family]:
    """class name of the transformer -> Family. Raises TypeError for an entry point that is no Family, ValueError for a
    class name that two families have."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    found = [family for m in modules for family in getattr(m, "FAMILIES", [getattr(m, "FAMILY", None)]) if family]
    for point in entry_points(group=ENTRY_POINTS):
        family = point.load()
        if not isinstance(family, Family):
            raise TypeError(
                f"the entry point {point.name!r} of {ENTRY_POINTS} is a {type(family).__name__}, not a Family"
            )
        found.append(family)
    by_name = {family.class_name: family for family in found}
    if len(by_name) < len(found):
        names = [family.class_name for family in found]
        raise ValueError(f"two families are for {next(n for n in names if names.count(n) > 1)}")
    return by_name


FAMILIES: dict[str, Family] = _find_families()
WAN, COGVIDEOX = "WanTransformer3DModel", "CogVideoXTransformer3DModel"
HUNYUAN, HUNYUAN15 = "HunyuanVideoTransformer3DModel", "HunyuanVideo15Transformer3DModel"
FRAMEPACK = "HunyuanVideoFramepackTransformer3DModel"
SKYREELS_V2, CHRONOEDIT = "SkyReelsV2Transformer3DModel", "ChronoEditTransformer3DModel"

__all__ = [
    "CHRONOEDIT", "COGVIDEOX", "FAMILIES", "FRAMEPACK", "GROUPS", "HUNYUAN", "HUNYUAN15", "REFUSED", "SKYREELS_V2", "WAN", "Block", "Family", "Layout",
    "Model", "Tiny", "Tokens", "attention_modules", "block_modules", "describe", "family_of", "family_of_pipeline",
    "inputs_by_name", "layout_of",
]  # fmt: skip


def family_of(transformer: nn.Module) -> Family:
    """The Family of a transformer. Raises TypeError for a class that is not one of FAMILIES."""
    name = type(transformer).__name__
    if name in REFUSED:
        raise TypeError(f"cannot steer a {name}: {REFUSED[name]}")
    if name not in FAMILIES:
        raise TypeError(f"cannot steer a {name}; the families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_pipeline(pipeline: str) -> str:
    """Class name of the transformer that a pipeline class has: WanTransformer3DModel for WanImageToVideoPipeline.

    Raises ValueError for a pipeline whose transformer is not one of FAMILIES.
    """
    for family in FAMILIES.values():
        if pipeline in family.pipelines:
            return family.class_name
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


def describe(transformer: nn.Module, pipe=None) -> Model:
    """What a method may ask about a transformer, run by this pipeline if there is one.

    Raises TypeError for a class that is not one of FAMILIES and for a model that cannot be steered.
    """
    return family_of(transformer).describe(transformer, pipe)


def inputs_by_name(transformer: nn.Module, args: tuple, kwargs: dict) -> dict:
    """The arguments of a forward call by name, positional ones included."""
    names = list(inspect.signature(type(transformer).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs


def layout_of(transformer: nn.Module, inputs: dict, image_tokens: int | None = None, pipe=None) -> Layout:
    """The token layout of the forward call with the arguments `inputs` (by name), made by this pipeline if there is one.

    image_tokens: how many of HunyuanVideo's text tokens are image tokens, which its transformer does not know.
    Raises ValueError for a text length that Wan 2.1 image-to-video would split wrongly.
    """
    family = family_of(transformer)
    found = family.layout(transformer, inputs, image_tokens)
    if found.reference is None or family.has_reference(transformer, pipe):
        return found
    return _without_reference(found)


def _without_reference(layout: Layout) -> Layout:
    """The layout with the reference frame taken for video: what fills the model's image channels is no reference."""
    reference, video = GROUPS.index("reference"), GROUPS.index("video")
    sequences = {
        name: replace(tokens, groups=tokens.groups.masked_fill(tokens.groups == reference, video))
        for name, tokens in layout.sequences.items()
    }
    return replace(layout, sequences=sequences, reference=None, groups=layout.groups - {"reference"})
