"""Enhance-A-Video: attention outputs grow with the attention between frames (arXiv 2502.07508)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import Block


@dataclass(frozen=True)
class EnhanceAVideo:
    """Multiply the attention output of the video's tokens by max(1, CFI (F + weight)), F being the latent frames.

    CFI, the cross-frame intensity, is the mean over places, heads and pairs of different frames of the attention of a place
    to itself in the other frames, a softmax over the F tokens of the place. It is at most 1 / (F - 1).

    weight: the temperature; 4 in the released scripts for Wan and HunyuanVideo, 3.4 for CogVideoX. At -1 or below the factor
        is 1, which changes nothing.
    blocks: as in AlignVid; all in the released code. window: in which steps; all there.
    Differences from the released code (github NUS-HPC-AI-Lab/Enhance-A-Video at 16a7899): each sample has a CFI of its own,
    where it takes the mean of the batch, the unconditional half included; and the factor comes before the output projection,
    whose bias it leaves alone. Both branches are changed, as there. Logits enter as the model has them: what other methods
    do to logits does not move the CFI, though it moves the output.
    FramePack's earlier frames, in other resolutions, are left alone.
    """

    name: ClassVar[str] = "enhance"
    label: ClassVar[str] = "Enhance-A-Video"
    joins_extra_passes: ClassVar[bool] = True

    weight: float = 4.0
    _: dataclasses.KW_ONLY
    blocks: str | tuple[int | str, ...] = "all"
    window: Window = "all"

    def __post_init__(self):
        lists_to_tuples(self)
        if not (isinstance(self.weight, (int, float)) and math.isfinite(self.weight)):
            raise ValueError(f"EnhanceAVideo weight must be a finite number, not {self.weight!r}")
        check_window(self.window)

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.weight <= -1

    def check(self, model) -> None:
        """Raise ValueError for a block that does not exist."""
        choose_blocks(model, self.blocks)

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In the video tokens' attention to each other."""
        if self.neutral or site not in ("self", "joint") or not in_window(self.window, context):
            return False
        return block.index in choose_blocks(model, self.blocks)

    def edit_attention_output(self, call: AttentionCall, out: torch.Tensor) -> torch.Tensor:
        """The output (B, H, Lq, D) with the video's tokens multiplied. Raises ValueError for a single frame."""
        frames = call.layout.grid[0]
        if frames < 2:
            raise ValueError("EnhanceAVideo measures the attention between latent frames, and this video has one only")
        rows = (call.queries.frames >= 0).nonzero().flatten()
        intensity = cross_frame_intensity(call.query[:, :, rows], call.key[:, :, rows], frames, call.scale)
        factor = (intensity * (frames + self.weight)).clamp(min=1).to(out.dtype)
        out = out.clone()
        out[:, :, rows] *= factor[:, None, None, None]
        return out


def cross_frame_intensity(query: torch.Tensor, key: torch.Tensor, frames: int, scale: float) -> torch.Tensor:
    """(B,) float32 or float64: mean attention of a place to itself in another frame. query, key: (B, H, F S, D), by frame."""
    exact, total = torch.promote_types(query.dtype, torch.float32), 0.0
    for head in range(query.shape[1]):  # one at a time bounds the memory to S F F numbers
        q, k = (x[:, head].to(exact).unflatten(1, (frames, -1)).transpose(1, 2) for x in (query, key))  # (B, S, F, D)
        p = (scale * q @ k.mT).softmax(-1)
        total = total + (p.sum((-1, -2)) - p.diagonal(dim1=-1, dim2=-2).sum(-1)).mean(1)
    return total / (query.shape[1] * frames * (frames - 1))
