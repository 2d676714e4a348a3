"""One call of attention as methods see it: scaled and biased logits, computed exactly.

With plain logits z = scale q k^T, the edited logit of query i and key j is

    factor(i, j) z_ij + bias_i [j is a token of the reference frame] + sum over groups g of bias_gi [j is in g]

The factor may differ between video queries, which are contiguous in every family, and all others. Output edits come after.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from ..families import Block, Layout, Model, Tokens
from .forward_context import ForwardContext
from .log_sum_exp import biased_attention, group_biased_attention


@dataclass(eq=False)
class LogitScale:
    """What the logits of one class of queries are multiplied by: the product of these three."""

    number: float = 1.0
    per_head: torch.Tensor | None = None  # (B, H, 1, 1)
    per_key: torch.Tensor | None = None  # (1 or B, 1 or H, Lk, 1)

    def multiply(self, factor: float | torch.Tensor) -> None:
        """Multiply by a number, by a (B, H, 1, 1) tensor or by a (1 or B, 1 or H, Lk, 1) tensor."""
        if isinstance(factor, (int, float)):
            self.number *= factor
        elif factor.shape[2] == 1:
            self.per_head = factor if self.per_head is None else self.per_head * factor
        else:
            self.per_key = factor if self.per_key is None else self.per_key * factor

    def same_as(self, other: LogitScale) -> bool:
        """Whether both hold the very same numbers and tensors."""
        return self.number == other.number and self.per_head is other.per_head and self.per_key is other.per_key


@dataclass(frozen=True)
class BlockInput:
    """What a block was given, after the methods' `edit_block`: video tokens (B, L, C); image and text tokens (B, N, C)."""

    hidden_states: torch.Tensor
    encoder_hidden_states: torch.Tensor


@dataclass
class AttentionCall:
    """One call of scaled dot-product attention; methods change it in `edit`.

    query: (B, H, Lq, D). key, value: (B, H, Lk, D). mask, scale: as SDPA takes them. A method may replace query, key and
    value by tensors of the same shape.
    site: "self", "image", "text" or "joint". block, context, model, layout: where in the sampling loop and in which model.
    module: the attention module, for methods that project something of their own. inputs: the arguments of the
    transformer's forward, by name.
    queries, keys: which token is what. reference: positions of the reference frame among the keys, None without one.
    video_logits, other_logits: `.multiply(factor)` scales the logits of video queries, and of text and image queries.
    bias: (Lq,), added to the logits of the reference frame's keys in the conditional samples; None for no bias.
    group_biases: (keys (1 or B, Lk) bool, bias (Lq,)) pairs, likewise; see `add_bias`.
    block_input: what entered the block; None unless an attached method has `edit_block` or `reads_block_input`.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    site: str
    block: Block
    context: ForwardContext
    layout: Layout
    queries: Tokens
    keys: Tokens
    reference: slice | None
    video_logits: LogitScale = field(default_factory=LogitScale)
    other_logits: LogitScale = field(default_factory=LogitScale)
    bias: torch.Tensor | None = None
    group_biases: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    block_input: BlockInput | None = None
    model: Model | None = None
    module: nn.Module | None = None
    inputs: dict = field(default_factory=dict, repr=False)

    def conditional(self) -> slice:
        """The samples of the batch that belong to the conditional branch."""
        return self.context.conditional(self.query.shape[0])

    def add_bias(self, keys: torch.Tensor, bias: torch.Tensor) -> None:
        """Add a constant to the logits of chosen keys, in the conditional samples.

        keys: (1 or B, Lk) bool, as `call.keys.where(...)` gives them. bias: (Lq,), one value per query, in logit units.
        Raises ValueError for another shape.
        """
        batch, count = self.query.shape[0], (self.query.shape[2], self.key.shape[2])
        if keys.dtype != torch.bool or keys.shape not in ((1, count[1]), (batch, count[1])) or bias.shape != count[:1]:
            raise ValueError(
                f"a bias needs keys (1 or {batch}, {count[1]}) bool and one value for each of {count[0]} queries, not "
                f"{tuple(keys.shape)} {keys.dtype} and {tuple(bias.shape)}"
            )
        self.group_biases.append((keys, bias))

    def query_classes(self) -> list[tuple[slice, LogitScale]]:
        """Ranges of queries with the scale of their logits: a single range if it is the same for all."""
        video, count = self.queries.video, self.query.shape[2]
        if video == slice(0, count) or self.video_logits.same_as(self.other_logits):
            return [(slice(0, count), self.video_logits)]
        before, after = slice(0, video.start), slice(video.stop, count)
        classes = [(before, self.other_logits), (video, self.video_logits), (after, self.other_logits)]
        return [(rows, logits) for rows, logits in classes if rows.stop > rows.start]

    def scaled(self, rows: slice | torch.Tensor, logits: LogitScale) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(query of `rows`, key, scale) whose plain logits are the scaled ones; the biases are not in them."""
        query, key = self.query[:, :, rows], self.key
        if logits.per_head is not None:
            query = query * logits.per_head.to(query.dtype)
        if logits.per_key is not None:
            key = key * logits.per_key.to(key.dtype)
        return query, key, self.scale * logits.number

    def rows_of_mask(self, rows: slice) -> torch.Tensor | None:
        """The mask's part for the queries `rows`."""
        return self.mask if self.mask is None or self.mask.shape[-2] == 1 else self.mask[..., rows, :]

    def groups_with_bias(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All biases of the call as (keys (1 or B, Lk) bool, bias (Lq,)) pairs, the reference frame's among them."""
        groups = list(self.group_biases)
        if self.bias is not None:
            reference = torch.zeros(1, self.key.shape[2], dtype=torch.bool, device=self.key.device)
            reference[:, self.reference] = True
            groups.insert(0, (reference, self.bias))
        return groups

    def compute(self) -> torch.Tensor:
        """The attention output (B, H, Lq, D) of the call as the methods left it."""
        outs = [self._attend(rows, logits) for rows, logits in self.query_classes()]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)

    def _attend(self, rows, logits):
        query, key, scale = self.scaled(rows, logits)
        mask, value = self.rows_of_mask(rows), self.value
        if self.bias is None and not self.group_biases:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        biased = self.conditional()
        if biased.start == 0:
            return self._biased(rows, query, key, value, mask, scale, biased)
        # The unconditional half of a batch is computed by plain SDPA.
        halves = []
        for samples in (slice(0, biased.start), biased):
            part = mask if mask is None or mask.shape[0] == 1 else mask[samples]
            q, k, v = query[samples], key[samples], value[samples]
            if q.shape[0] == 0:
                continue
            if samples is biased:
                halves.append(self._biased(rows, q, k, v, part, scale, biased))
            else:
                halves.append(F.scaled_dot_product_attention(q, k, v, attn_mask=part, scale=scale))
        return torch.cat(halves)

    def _biased(self, rows, query, key, value, mask, scale, samples):
        if not self.group_biases:
            return biased_attention(query, key, value, self.reference, self.bias[rows], mask, scale)
        groups = [(keys if keys.shape[0] == 1 else keys[samples], bias[rows]) for keys, bias in self.groups_with_bias()]
        return group_biased_attention(query, key, value, groups, mask, scale)
