"""Features of frames, prepared as VBench does, and what VBench computes from them.

VBench resizes float frames with torchvision without antialiasing and without clamping; here the same is done with torch
alone (tests/test_learned_scorers.py compares with an independent interpolation). Cosines below 0 count as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH = 32  # frames at once


def resize(frames: torch.Tensor, side: int, mode: str, antialias: bool = False) -> torch.Tensor:
    """float (T, 3, H, W): the shorter side becomes `side`, the longer one is cut to a whole pixel. mode: bilinear or
    bicubic."""
    import torch

    height, width = frames.shape[-2:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    return torch.nn.functional.interpolate(frames, size, mode=mode, antialias=antialias)


def centre(frames: torch.Tensor, side: int) -> torch.Tensor:
    """The middle `side` x `side` pixels."""
    top, left = (round((length - side) / 2) for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def as_clip(frames: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> float (T, 3, 224, 224), as VBench's clip_transform: bicubic, the middle square."""
    return _normal(centre(resize(_float(frames), 224, "bicubic"), 224), CLIP)


def as_dino(frames: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> float (T, 3, h, w), the shorter side 224, as VBench's dino_transform: bilinear, nothing
    cut."""
    return _normal(resize(_float(frames), 224, "bilinear"), IMAGENET)


def as_dino_reference(frames: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> float (T, 3, 224, 224), as VBench-I2V for i2v_subject: bicubic with antialiasing to 256, as
    torchvision has it since 0.17, then the middle 224."""
    return _normal(centre(resize(_float(frames), 256, "bicubic", antialias=True), 224), IMAGENET)


def _float(frames: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()


def _normal(frames: torch.Tensor, statistics) -> torch.Tensor:
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    return (frames / 255 - mean) / std


def features(frames: np.ndarray, prepare: Callable, encode: Callable, device) -> np.ndarray:
    """Unit vectors float64 (T, D) of uint8 frames (T, H, W, 3). prepare: one of the functions above; encode: (T, 3, h,
    w) on `device` -> (T, D)."""
    import torch

    with torch.inference_mode():
        parts = [encode(prepare(frames[i : i + BATCH]).to(device)).double() for i in range(0, len(frames), BATCH)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()


def consistency(unit: np.ndarray) -> np.ndarray:
    """For each frame after the first, the mean of its similarities to the frame before and to the first, (T - 1,):
    VBench's subject and background consistency are its mean. unit: (T, D) unit vectors."""
    before, first = (unit[1:] * unit[:-1]).sum(-1), unit[1:] @ unit[0]
    return (np.maximum(before, 0) + np.maximum(first, 0)) / 2


def to_reference(reference: np.ndarray, unit: np.ndarray) -> dict[str, float]:
    """Similarity of frames to a reference. reference: unit vector (D,); unit: (T, D).

    i2v: VBench-I2V's score, 0.4 of the largest similarity to the reference and 0.3 each of the mean and the smallest
    between neighbours. mean, least, last_quarter: similarities to the reference, which i2v does not see: a video that
    drifts steadily to another image scores 0.9999 there.
    """
    near, steps = np.maximum(unit @ reference, 0), np.maximum((unit[1:] * unit[:-1]).sum(-1), 0)
    return {
        "i2v": float(0.4 * near.max() + 0.3 * steps.mean() + 0.3 * steps.min()),
        "mean": float(near.mean()), "least": float(near.min()), "last_quarter": float(near[-max(1, len(near) // 4) :].mean()),
    }  # fmt: skip


def share(value: float) -> float:
    """A mean of cosines that rounding carried outside [0, 1], inside."""
    return float(np.clip(value, 0, 1))
