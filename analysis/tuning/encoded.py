"""What a clip is for the post-training: tensors that a transformer is given of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.focal_anchors.keywords import Anchors


@dataclass(frozen=True)
class Text:
    """states: (1, N, D) of a caption, with zeros where there is no word. HunyuanVideo's stand behind the reference's image
    tokens, with a mask (1, N), and beside them is CLIP's pooled embedding (1, P) of the caption."""

    states: torch.Tensor
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """What the model is given of one clip. latent, condition: (1, C, F, h, w) normalised latents of the clip and of its first
    frame, to which Wan adds a mask; image (1, N, E): tokens of the first frame, for Wan. For CogVideoX latents are
    (1, F, C, h, w)."""

    latent: torch.Tensor
    condition: torch.Tensor
    text: Text
    image: torch.Tensor | None
    caption: str
    found: Anchors
