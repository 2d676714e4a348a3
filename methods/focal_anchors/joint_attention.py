"""Focal Guidance's values in joint attention (CogVideoX), where a trained projection makes tokens of the anchors.

They go through the block's `to_v` without its bias, so that a projection of zero injects zero.
"""

from __future__ import annotations

import torch
from torch import nn

from ..core.attention_call import AttentionCall
from ..families import Block
from .keywords import Anchors
from .projection import AnchorProjection


class JointAttentionValues:
    """V_k^vis and V_k^text of a block (Eq. 7), by a trained projection and the block's own value projection."""

    def __init__(self, transformer: nn.Module, projection: AnchorProjection):
        self.transformer, self.projection = transformer, projection

    def visual_values(self, block: Block, anchors: Anchors, like: torch.Tensor) -> torch.Tensor:
        """(K, C) in the dtype and on the device of `like`: anchors through the projection and the block's `to_v`."""
        tokens = self.projection(anchors.anchors.to(like.device, torch.float32)).to(like.dtype)
        # Call the module rather than read its weight, which may be offloaded or adapted; zero gives the bias.
        to_v = self.transformer.transformer_blocks[block.index].attn1.to_v
        values = to_v(torch.cat([tokens, torch.zeros_like(tokens[:1])]))
        return values[:-1] - values[-1:]

    def text_values(self, call: AttentionCall, anchors: Anchors) -> torch.Tensor:
        """(B, K, C) of the conditional samples: the mean of the values of each keyword's tokens in this call."""
        # The text comes first in joint attention: a word has the same place among the keys as in the text.
        values = [call.value[call.conditional(), :, list(at)].mean(2).flatten(1) for at in anchors.tokens]
        return torch.stack(values, 1)
