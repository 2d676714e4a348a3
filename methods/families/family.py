"""What this package knows about a family of transformers: its blocks, its token layout and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
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


def nothing_to_watch(pipe) -> Callable[[], None]:
    """For families whose forward call says all that a layout needs."""
    return lambda: None


def prompt_alone(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """For families whose tokenizer is given the prompt as it is."""
    return prompt, 0, 0


def no_other_text(inputs: dict) -> int:
    """For families whose text keys begin with the prompt."""
    return 0


@dataclass(frozen=True)
class Tiny:
    """A random transformer of a family, small enough for a test, and what is true of it.

    make(batch, grid, words): (transformer, inputs of one forward by name); grid: latent frames, rows and columns of tokens;
    words: valid text tokens. sites: in the order of a block. image_to_video: whether the inputs hold a reference frame.
    keys(site, grid, words, batch): the group of every key of the last sample, one name per token, in order.
    options: what `steer` must be told about the transformer without its pipeline.
    first_frame(hidden_states, grid): the part of the input that holds the first latent frame of the video.
    """

    make: Callable[[int, tuple[int, int, int], int], tuple[nn.Module, dict]]
    sites: tuple[str, ...]
    keys: Callable[[str, tuple[int, int, int], int, int], list[str]]
    image_to_video: bool = True
    options: dict = field(default_factory=dict)
    first_frame: Callable[[torch.Tensor, tuple[int, int, int]], torch.Tensor] = lambda hidden_states, grid: (
        hidden_states[:, :, :1]
    )


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    class_name: of the transformer in diffusers. pipelines: classes that run it and are tested with it, as the support table
        names them. title: its name in words. reference: how the reference image enters, in words.
    attention: attribute of a block -> kind of the attention module there, "self", "cross" or "joint", in order. What is not
        named, such as audio, is left alone.
    blocks(transformer): every block with its module, in order of execution.
    sites, groups, image_to_video: functions of the transformer, see `Model`.
    layout(transformer, inputs, image_tokens): the token layout of the forward call with the arguments `inputs`.
    distilled_guidance: whether the pipeline's `guidance_scale` is an input of the model, not classifier-free guidance.
    image_tokens(transformer, pipe, branch): image tokens in the text stream where the forward call does not say.
    block_inputs: names of the video and text tokens among the arguments of a block. block_outputs: names of the arguments
        whose changed values a block returns, a single one not as a tuple.
    time_scale: of the time that the model is given, to 0..1000.
    extra_passes: name of a pass beside guidance's (`transformer.cache_context`) -> the branch whose condition it has.
    left_out(transformer, inputs): (position of the block, kind) of the attention that the model itself leaves out in this
        call.
    without_reference: pipelines that give the model no reference frame where its shape has room for one -> what they give.
    refused_pipelines: pipelines that run the transformer but cannot be steered -> why.
    refuse(transformer): why a transformer of this class cannot be steered, or None.
    prompt_text(pipe, prompt, arguments): (text that the tokenizer is given, where the prompt starts in it, tokens that are
        cut off its front); arguments: of `pipe.encode_prompt`, by name.
    text_before(inputs): text keys that come before those of the prompt, such as another encoder's.
    watch(pipe): note what a layout needs of a pipeline; returns an undo.
    tiny: name -> Tiny, on which every method is tested.
    """

    class_name: str
    attention: dict[str, str]
    blocks: Callable[[nn.Module], list[tuple[Block, nn.Module]]]
    sites: Callable[[nn.Module], set[str]]
    groups: Callable[[nn.Module], set[str]]
    image_to_video: Callable[[nn.Module], bool]
    layout: Callable[[nn.Module, dict, int | None], Layout]
    title: str = ""
    reference: str = ""
    pipelines: tuple[str, ...] = ()
    distilled_guidance: bool = False
    image_tokens: Callable[[nn.Module, object, str], int | None] = no_image_tokens
    block_inputs: tuple[str, str] = ("hidden_states", "encoder_hidden_states")
    block_outputs: tuple[str, ...] = ("hidden_states", "encoder_hidden_states")
    time_scale: float = 1.0
    extra_passes: dict[str, str] = field(default_factory=dict)
    left_out: Callable[[nn.Module, dict], frozenset[tuple[int, str]]] = lambda transformer, inputs: frozenset()
    without_reference: dict[str, str] = field(default_factory=dict)
    refused_pipelines: dict[str, str] = field(default_factory=dict)
    refuse: Callable[[nn.Module], str | None] = lambda transformer: None
    prompt_text: Callable[[object, str, dict], tuple[str, int, int]] = prompt_alone
    text_before: Callable[[dict], int] = no_other_text
    watch: Callable[[object], Callable[[], None]] = nothing_to_watch
    tiny: dict[str, Tiny] = field(default_factory=dict)

    def has_reference(self, transformer: nn.Module, pipe=None) -> bool:
        """Whether the transformer, run by this pipeline if there is one, can be given a reference frame."""
        return self.image_to_video(transformer) and type(pipe).__name__ not in self.without_reference

    def describe(self, transformer: nn.Module, pipe=None) -> Model:
        """The Model of a transformer of this family. Raises TypeError for one that cannot be steered, with the reason."""
        if reason := self.refuse(transformer):
            raise TypeError(f"this {self.class_name} cannot be steered: {reason}")
        if reason := self.refused_pipelines.get(type(pipe).__name__):
            raise TypeError(f"a {type(pipe).__name__} cannot be steered: {reason}")
        image_to_video = self.has_reference(transformer, pipe)
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
