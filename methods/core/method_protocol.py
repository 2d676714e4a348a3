"""What a method can do: the hooks that `steer` calls. Only `check` and `active` are required."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from ..families import Block, Model
from .attention_call import AttentionCall
from .forward_context import ForwardContext


class Method(Protocol):
    """A method is a frozen dataclass with some of these hooks, usually one file in `methods/`; see methods/dymos.py.

    Parameter files find it by the class attribute `name` ("dymos"); `label` ("DyMoS") is its name in words.
    A method that reads `call.block_input` but has no `edit_block` sets the class attribute `reads_block_input = True`.
    """

    def check(self, model: Model) -> None:
        """Raise ValueError if the method cannot work on this model."""

    def active(self, model: Model, context: ForwardContext, block: Block, site: str) -> bool:
        """Whether the method acts in this attention of this forward pass; False must mean that it changes nothing."""

    def edit(self, call: AttentionCall) -> None:
        """Change a call: multiply `call.video_logits` or `call.other_logits`, set `call.bias`, replace `call.query`,
        `call.key` or `call.value`."""

    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Read a call as all methods left it, and its output (B, H, Lq, D)."""

    def edit_block(
        self,
        model: Model,
        context: ForwardContext,
        block: Block,
        grid: tuple[int, int, int],
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
    ) -> torch.Tensor:
        """The video tokens (B, L, C) that enter a block. grid: latent frames, rows and columns of tokens."""

    def edit_inputs(self, model: Model, inputs: dict, context: ForwardContext) -> dict:
        """The arguments that the transformer is called with, by name."""

    def edit_output(self, model: Model, inputs: dict, context: ForwardContext, output, run: Callable):
        """The output of the transformer. inputs: as the pipeline gave them. run(inputs, branch) calls the transformer once
        more and returns its prediction."""

    def watch(self, pipe) -> Callable[[], None]:
        """Called once when a pipeline (None: a bare transformer) is steered; returns a function that undoes it."""
