"""What a method can do: the hooks that `steer` calls. Only `check` and `active` are required.

Four kinds of method, each of which needs one hook; docs/new-methods.md has an example of each:

    logits                   `edit`: `call.video_logits.multiply`, `call.add_bias`
    query, key or value      `edit`: replace `call.query`, `call.key` or `call.value`
    attention output         `edit_attention_output`
    one more forward pass    `edit_output`, with `run(inputs, branch, name)`

Around the attention there are `edit_inputs` of the transformer, `edit_block` and `skip_block`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Protocol

import torch

from ..families import Block, Model
from .attention_call import AttentionCall
from .forward_context import ForwardContext


class Method(Protocol):
    """A method is a frozen dataclass with some of these hooks, usually one file in `methods/`; see methods/dymos.py.

    Parameter files find it by the class attribute `name` ("dymos"); `label` ("DyMoS") is its name in words.
    Equal settings are one key of a dictionary: call `lists_to_tuples` in `__post_init__` if a setting may be a list.
    Attributes that a method may set: `neutral`, whether its settings change nothing (else a run in which it never acts is an
    error); `once = True`, if two equal ones cannot act together; `reads_block_input = True`, if it reads `call.block_input`
    without having `edit_block`; `joins_extra_passes = True`, if it acts in passes that other methods run for themselves.
    """

    def check(self, model: Model) -> None:
        """Raise ValueError if the method cannot work on this model."""

    def active(self, model: Model, context: ForwardContext, block: Block, site: str) -> bool:
        """Whether the method acts in this attention of this forward pass; False must mean that it changes nothing."""

    def edit(self, call: AttentionCall) -> None:
        """Change a call: multiply `call.video_logits` or `call.other_logits`, set `call.bias`, `call.add_bias(keys, bias)`,
        replace `call.query`, `call.key` or `call.value`."""

    def edit_attention_output(self, call: AttentionCall, out: torch.Tensor) -> torch.Tensor:
        """The output (B, H, Lq, D) of a call as the methods before left it, before the output projection."""

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

    def skip_block(self, model: Model, context: ForwardContext, block: Block) -> bool:
        """Whether this block is left out of this pass: its tokens leave it as they came."""

    def edit_inputs(self, model: Model, inputs: dict, context: ForwardContext) -> dict:
        """The arguments that the transformer is called with, by name; the same dictionary if nothing is changed."""

    def edit_output(self, model: Model, inputs: dict, context: ForwardContext, output, run: Callable):
        """The output of the transformer, the same object if nothing is changed. inputs: as the pipeline gave them.

        run(inputs, branch) calls the transformer once more, as an ordinary pass of that branch in which all methods act, and
        returns its prediction. run(inputs, branch, name) is a pass of the method's own: `context.extra` is the name, and
        only this method acts, with those that join extra passes. Caches keep apart what they hold of it. run.edited_inputs
        are the inputs of the pass as `edit_inputs` of all methods left them.
        """

    def watch(self, pipe) -> Callable[[], None]:
        """Called once when a pipeline (None: a bare transformer) is steered; returns a function that undoes it."""


def lists_to_tuples(method) -> None:
    """Make tuples of the settings of a method, a frozen dataclass, that were given as lists, so that it can be hashed."""
    for field in fields(method):
        value = getattr(method, field.name)
        if isinstance(value, list):
            object.__setattr__(method, field.name, tuple(value))
