"""Focal Guidance's values in Wan 2.1 image-to-video, whose own image branch projects the anchors."""

from __future__ import annotations

import torch
from torch import nn

from ..core.attention_call import AttentionCall
from ..families import Block
from .keywords import Anchors


class ImageBranchValues:
    """V_k^vis and V_k^text of a block (Eq. 7), by the projections that the model was trained with."""

    def __init__(self, transformer: nn.Module):
        self.transformer = transformer

    def visual_values(self, block: Block, anchors: Anchors, like: torch.Tensor) -> torch.Tensor:
        """(K, C) in the dtype and on the device of `like`: anchors through the image embedder and the block's `add_v_proj`."""
        embedded = self.transformer.condition_embedder.image_embedder(anchors.anchors.to(like)[None]).to(like.dtype)
        return self.transformer.blocks[block.index].attn2.add_v_proj(embedded)[0]

    def text_values(self, call: AttentionCall, anchors: Anchors) -> torch.Tensor:
        """(B, K, C) of the conditional samples: the mean of each keyword's text features through the block's `to_v`."""
        text = call.block_input.encoder_hidden_states[call.conditional()]
        text = text[:, text.shape[1] - 512 :]  # image tokens come first
        features = torch.stack([text[:, list(at)].mean(1) for at in anchors.tokens], 1)
        return self.transformer.blocks[call.block.index].attn2.to_v(features)
