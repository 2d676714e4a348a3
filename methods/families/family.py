"""What this package knows about a family of transformers: its blocks, its token layout and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .tokens import Layout


@dataclass(frozen=True)
class Block:
    """A transformer block: its position among all blocks and its name (`0`, `1` ... or, with two kinds, `single.3`)."""

    index: int
    name: str


@dataclass(frozen=True)
class Model:
    """What a method may ask about the transformer it is attached to.

    family: class name of the transformer. sites: kinds of attention it has, "self", "image" and "text", or "joint".
    groups: the token groups (names of families.tokens.GROUPS) that its keys can belong to.
    image_to_video: whether it can be given a reference frame.
    """

    transformer: nn.Module
    family: str
    blocks: tuple[Block, ...]
    sites: frozenset[str]
    groups: frozenset[str]
    image_to_video: bool


def no_image_tokens(transformer: nn.Module, pipe, branch: str) -> None:
    """For families whose forward call itself says how many tokens come from an image encoder."""
    return None


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    class_name: of the transformer in diffusers.
    attention: attribute of a block -> kind of the attention module there, "self", "cross" or "joint", in order.
    blocks(transformer): every block with its module, in order of execution.
    sites, groups, image_to_video: functions of the transformer, see `Model`.
    layout(transformer, inputs, image_tokens): the token layout of the forward call with the arguments `inputs`.
    distilled_guidance: whether the pipeline's `guidance_scale` is an input of the model, not classifier-free guidance.
    image_tokens(transformer, pipe, branch): image tokens in the text stream where the forward call does not say.
    """

    class_name: str
    attention: dict[str, str]
    blocks: Callable[[nn.Module], list[tuple[Block, nn.Module]]]
    sites: Callable[[nn.Module], set[str]]
    groups: Callable[[nn.Module], set[str]]
    image_to_video: Callable[[nn.Module], bool]
    layout: Callable[[nn.Module, dict, int | None], Layout]
    distilled_guidance: bool = False
    image_tokens: Callable[[nn.Module, object, str], int | None] = no_image_tokens

    def describe(self, transformer: nn.Module) -> Model:
        """The Model of a transformer of this family."""
        image_to_video = self.image_to_video(transformer)
        groups = self.groups(transformer) | ({"reference"} if image_to_video else set())
        blocks = tuple(block for block, _ in self.blocks(transformer))
        sites = frozenset(self.sites(transformer))
        return Model(transformer, self.class_name, blocks, sites, frozenset(groups), image_to_video)


def numbered(modules: nn.ModuleList) -> list[tuple[Block, nn.Module]]:
    """The blocks of a transformer that has one kind of block, named by their position."""
    return [(Block(i, str(i)), module) for i, module in enumerate(modules)]


def double_and_single(transformer: nn.Module) -> list[tuple[Block, nn.Module]]:
    """The blocks of a HunyuanVideo: `double.0` ..., then `single.0` ...; without single-stream blocks `0` ..."""
    double, single = list(transformer.transformer_blocks), list(getattr(transformer, "single_transformer_blocks", []))
    prefix = "double." if single else ""
    names = [f"{prefix}{i}" for i in range(len(double))] + [f"single.{i}" for i in range(len(single))]
    return [(Block(i, n), module) for i, (n, module) in enumerate(zip(names, [*double, *single], strict=True))]
