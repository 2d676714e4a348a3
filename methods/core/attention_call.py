"""One call of attention as methods see it: factors and a bias on the logits, computed exactly.

With plain logits z = scale q k^T, a query i and a key j the edited logit is

    factor(i, j) z_ij + bias_i [j is a token of the reference frame]

where the factor may differ between video queries and all others, which are contiguous in every family.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from .log_sum_exp import biased_attention
from .token_layout import Block, Layout, Tokens


@dataclass(frozen=True)
class Moment:
    """One forward of the transformer: `step` of `steps` (None if unknown), `timestep` in 0..1000 as the model sees it,
    `branch` of classifier-free guidance: "cond", "uncond", or "both" ([uncond, cond] in one batch); `guidance`: its scale
    if the pipeline tells it; `pipe`: the pipeline that runs, if it was steered."""

    step: int
    steps: int | None
    timestep: float
    branch: str
    guidance: float | None = None
    pipe: object | None = field(default=None, repr=False, compare=False)

    @property
    def fraction(self) -> float:
        """(step + 1) / steps, the t / T of the papers, in (0, 1]. Raises ValueError if the number is not known."""
        if self.steps is None:
            raise ValueError("a window in fractions of the steps needs their number: steer a pipeline, or give steps=")
        return (self.step + 1) / self.steps


def guided(pipe) -> bool:
    """Whether a pipeline runs the unconditional branch too; CogVideoX's pipelines only tell the scale."""
    scale = getattr(pipe, "guidance_scale", None)
    return getattr(pipe, "do_classifier_free_guidance", scale is None or scale > 1)


@dataclass(eq=False)
class Factors:
    """Factors on the logits of one class of queries: a number, one per batch and head, one per key."""

    number: float = 1.0
    per_head: torch.Tensor | None = None  # (B, H, 1, 1)
    per_key: torch.Tensor | None = None  # (1 or B, 1 or H, Lk, 1)

    def multiply(self, factor: float | torch.Tensor) -> None:
        """Take one more factor: a float, a (B, H, 1, 1) or a (1 or B, 1 or H, Lk, 1) tensor."""
        if isinstance(factor, (int, float)):
            self.number *= factor
        elif factor.shape[2] == 1:
            self.per_head = factor if self.per_head is None else self.per_head * factor
        else:
            self.per_key = factor if self.per_key is None else self.per_key * factor

    def same_as(self, other: Factors) -> bool:
        """Whether both are the very same factors."""
        return self.number == other.number and self.per_head is other.per_head and self.per_key is other.per_key


@dataclass
class AttentionCall:
    """query (B, H, Lq, D), key and value (B, H, Lk, D); mask as SDPA takes it; site "self", "image", "text" or "joint".

    queries, keys: what the tokens are; reference: positions of the reference frame among the keys, None if there is
    none. Methods multiply `video` or `other` factors (logits of video queries, of text and image queries) and add to
    `bias` (Lq,), the bias on the reference frame's keys in the conditional samples.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    site: str
    block: Block
    moment: Moment
    layout: Layout
    queries: Tokens
    keys: Tokens
    reference: slice | None
    video: Factors = field(default_factory=Factors)
    other: Factors = field(default_factory=Factors)
    bias: torch.Tensor | None = None

    def conditional(self) -> slice:
        """The samples of the batch that belong to the conditional branch."""
        batch, branch = self.query.shape[0], self.moment.branch
        return slice({"cond": 0, "uncond": batch, "both": batch // 2}[branch], batch)

    def classes(self) -> list[tuple[slice, Factors]]:
        """Query ranges and their factors: one range if all queries have the same or are of one class."""
        video, count = self.queries.video, self.query.shape[2]
        if video == slice(0, count) or self.video.same_as(self.other):
            return [(slice(0, count), self.video)]
        ranges = [(slice(0, video.start), self.other), (video, self.video), (slice(video.stop, count), self.other)]
        return [(rows, factors) for rows, factors in ranges if rows.stop > rows.start]

    def scaled(self, rows: slice, factors: Factors) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(query of `rows`, key, scale) whose plain logits are the edited ones, bias apart."""
        query, key = self.query[:, :, rows], self.key
        if factors.per_head is not None:
            query = query * factors.per_head.to(query.dtype)
        if factors.per_key is not None:
            key = key * factors.per_key.to(key.dtype)
        return query, key, self.scale * factors.number

    def rows_of_mask(self, rows: slice) -> torch.Tensor | None:
        """The mask's part for the queries `rows`."""
        return self.mask if self.mask is None or self.mask.shape[-2] == 1 else self.mask[..., rows, :]

    def compute(self) -> torch.Tensor:
        """The attention output (B, H, Lq, D) of the call as the methods left it."""
        outs = [self._attend(rows, factors) for rows, factors in self.classes()]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)

    def _attend(self, rows, factors):
        query, key, scale = self.scaled(rows, factors)
        mask, value = self.rows_of_mask(rows), self.value
        if self.bias is None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        biased, bias = self.conditional(), self.bias[rows]
        if biased.start == 0:
            return biased_attention(query, key, value, self.reference, bias, mask, scale)
        # The unconditional half of a batch is computed by plain SDPA.
        halves = []
        for samples in (slice(0, biased.start), biased):
            part = mask if mask is None or mask.shape[0] == 1 else mask[samples]
            q, k, v = query[samples], key[samples], value[samples]
            if samples is biased:
                halves.append(biased_attention(q, k, v, self.reference, bias, part, scale))
            else:
                halves.append(F.scaled_dot_product_attention(q, k, v, attn_mask=part, scale=scale))
        return torch.cat(halves)
