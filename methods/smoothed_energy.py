"""Smoothed-energy guidance (SEG): away from a prediction whose queries are blurred over the picture (arXiv 2408.00760)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .core.attention_call import AttentionCall
from .perturbed_guidance import PerturbedGuidance

INFINITE = 9999.0  # above it the released code takes the mean


@dataclass(frozen=True)
class SmoothedEnergyGuidance(PerturbedGuidance):
    """In the perturbed pass the queries of `blocks` are blurred by a Gaussian over rows and columns.

    scale, blocks, window, rescale: see PerturbedGuidance. The released code (github SusungHong/SEG-SDXL at cf8256d) takes
    scale 3, sigma infinite and the middle block of SDXL's U-Net.
    sigma: in tokens, above 0; above 9999, as by default, the queries of a frame are replaced by their mean.

    Published for images: here every latent frame is blurred by itself. The kernel has ceil(6 sigma) tokens or one more, at
    most the picture's height or width, and edges are reflected, as in the released code. The blurred query is the one that
    meets the keys, after norm and rotary embedding, so that the blur of queries is one of logits, as the paper derives it;
    diffusers' guider blurs before both. Keys, values and the queries of text are left alone, as are FramePack's earlier
    frames.
    """

    name: ClassVar[str] = "seg"
    label: ClassVar[str] = "Smoothed-energy guidance"

    sigma: float = math.inf

    def __post_init__(self):
        super().__post_init__()
        if not (isinstance(self.sigma, (int, float)) and self.sigma > 0):
            raise ValueError(f"SmoothedEnergyGuidance sigma must be above 0, in tokens, not {self.sigma!r}")

    def edit(self, call: AttentionCall) -> None:
        """Replace the queries of the video's frames."""
        rows = (call.queries.frames >= 0).nonzero().flatten()
        frames = call.query[:, :, rows].unflatten(2, call.layout.grid)  # (B, H, F, rows, columns, D)
        query = call.query.clone()
        query[:, :, rows] = blur_frames(frames, self.sigma).flatten(2, 4)
        call.query = query


def blur_frames(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, H, F, rows, columns, D) over rows and columns, with reflected edges. sigma: in tokens."""
    if sigma > INFINITE:
        return frames.mean((3, 4), keepdim=True).expand_as(frames)
    planes = frames.movedim(-1, 3)  # (B, H, F, D, rows, columns)
    shape = planes.shape
    planes = planes.reshape(-1, 1, *shape[-2:])
    vertical, horizontal = (kernel(sigma, n).to(planes) for n in shape[-2:])
    planes = F.pad(planes, (len(horizontal) // 2,) * 2 + (len(vertical) // 2,) * 2, mode="reflect")
    planes = F.conv2d(F.conv2d(planes, vertical[None, None, :, None]), horizontal[None, None, None])
    return planes.reshape(shape).movedim(3, -1)


def kernel(sigma: float, length: int) -> torch.Tensor:
    """Weights of a Gaussian over an odd number of tokens, at most `length` or, if that is even, one more; sum 1."""
    size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    size = min(size, length - (length % 2 - 1))
    offsets = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()
