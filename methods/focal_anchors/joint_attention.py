"""Focal Guidance's values in joint attention (CogVideoX, HunyuanVideo), where a trained projection makes tokens of the anchors.

They go through the value projection that the block has for its text, without the bias, so that a projection of zero injects
zero. The paper adapts HunyuanVideo so: anchors come from a CLIP encoder, and the single-stream blocks 17 to 32 are weak.
"""

from __future__ import annotations

import torch
from torch import nn

from ..core.attention_call import AttentionCall
from ..families import COGVIDEOX, GROUPS, Block
from .keywords import Anchors
from .projection import AnchorProjection


def value_projection(transformer: nn.Module, block: Block) -> nn.Module:
    """The projection by which a block with joint attention makes the values of its text."""
    if type(transformer).__name__ == COGVIDEOX:
        return transformer.transformer_blocks[block.index].attn1.to_v
    kind, number = block.name.split(".")  # of HunyuanVideo, whose two kinds of block are counted apart
    if kind == "double":
        return transformer.transformer_blocks[int(number)].attn.add_v_proj
    return transformer.single_transformer_blocks[int(number)].attn.to_v


def text_places(call: AttentionCall, tokens: tuple[int, ...]) -> list[int]:
    """Where the text tokens `tokens` of the conditional sample stand among the keys of a call: text comes first, or behind
    the video and the tokens of an image encoder."""
    video = call.keys.video
    if video.start > 0 or video.stop == 0:
        return list(tokens)
    first = video.stop + int((call.keys.groups[-1] == GROUPS.index("image")).sum())
    return [first + token for token in tokens]


class JointAttentionValues:
    """V_k^vis and V_k^text of a block (Eq. 7), by a trained projection and the block's own value projection."""

    def __init__(self, transformer: nn.Module, projection: AnchorProjection):
        self.transformer, self.projection = transformer, projection

    def visual_values(self, block: Block, anchors: Anchors, like: torch.Tensor) -> torch.Tensor:
        """(K, C) in the dtype and on the device of `like`: anchors through the projection and the block's text values."""
        tokens = self.projection(anchors.anchors.to(like.device, torch.float32)).to(like.dtype)
        # Call the module rather than read its weight, which may be offloaded or adapted; zero gives the bias.
        values = value_projection(self.transformer, block)(torch.cat([tokens, torch.zeros_like(tokens[:1])]))
        return values[:-1] - values[-1:]

    def text_values(self, call: AttentionCall, anchors: Anchors) -> torch.Tensor:
        """(B, K, C) of the conditional samples: the mean of the values of each keyword's tokens in this call."""
        samples = call.conditional()
        values = [call.value[samples, :, text_places(call, at)].mean(2).flatten(1) for at in anchors.tokens]
        return torch.stack(values, 1)
