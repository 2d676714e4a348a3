"""What else edits attention logits without an L x L tensor: FlexAttention, in the place of SDPA in a block."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from .block_shapes import BuiltBlock


@dataclass(frozen=True)
class LogitEdit:
    """`factor z + bias` for the logits z of a range of queries with a range of keys; the others stay."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    factor: float = 1.0
    bias: float = 0.0


def video_attention(block: BuiltBlock) -> dict[tuple[int, int], LogitEdit | None]:
    """{(queries, keys): no edit} of the attention of the video to itself."""
    return {(block.keys, block.keys): None}


def dymos_edits(block: BuiltBlock, gamma: float) -> dict[tuple[int, int], LogitEdit | None]:
    """DyMoS's bias (its Eq. 6), by the lengths of the attention in which it stands."""
    first, frame = block.shape.first_video_token, block.grid[1] * block.grid[2]
    later, reference = (first + frame, first + block.tokens), (first, first + frame)
    return {(block.keys, block.keys): LogitEdit(later, reference, bias=-gamma)}


def align_vid_edits(block: BuiltBlock, gamma: float) -> dict[tuple[int, int], LogitEdit | None]:
    """AlignVid's factor at its default sites, by the lengths of the attentions in which it stands."""
    if not block.shape.joint:
        return {(block.tokens, n): LogitEdit((0, block.tokens), (0, n), gamma) for n in block.shape.beside}
    first, beside = block.shape.first_video_token, sum(block.shape.beside)
    text = (0, beside) if first else (block.tokens, block.tokens + beside)
    return {(block.keys, block.keys): LogitEdit((first, first + block.tokens), text, gamma)}


def score_mod(edit: LogitEdit | None, mask: torch.Tensor | None):
    """The edit and the model's own mask as a `score_mod`; None without either.

    mask: (..., Lq or 1, Lk), bool or additive. Its first row is that of a video query in every model here, and stands for all:
    a table of L x L would have to be read as well. Queries of padding then see what the others see, and nobody reads them.
    """
    if edit is None and mask is None:
        return None
    row = None if mask is None else mask.reshape(-1, mask.shape[-1])[0]

    def modified(score, batch, head, query, key):
        if edit is not None:
            inside = (query >= edit.queries[0]) & (query < edit.queries[1])
            inside = inside & (key >= edit.keys[0]) & (key < edit.keys[1])
            score = torch.where(inside, edit.factor * score + edit.bias, score)
        if row is None:
            return score
        return torch.where(row[key], score, -float("inf")) if row.dtype == torch.bool else score + row[key]

    return modified


def flex_instead(edits: dict[tuple[int, int], LogitEdit | None], attention=flex_attention):
    """A context in which attentions of these lengths are FlexAttention with their edits. attention: FlexAttention itself, or
    compiled. Entering it again does not compile again: what stands in the place of SDPA is made once."""
    plain = F.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        lengths = query.shape[2], key.shape[2]
        if lengths not in edits:
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return attention(query, key, value, score_mod=score_mod(edits[lengths], attn_mask), scale=scale)

    @contextmanager
    def context():
        with patch.object(F, "scaled_dot_product_attention", attend):
            yield

    return context
