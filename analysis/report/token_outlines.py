"""Outlines of token masks, drawn over maps of tokens and over frames of pixels."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

EDGE = np.full(3, 255, np.uint8)  # white: neither objects nor backgrounds have it


def outline(ax, mask: np.ndarray, colour: str = "red", width: float = 1.4) -> None:
    """Draw the border of a bool mask (H, W) whose cells lie around whole numbers, as `imshow` places them."""
    padded = np.pad(np.asarray(mask, bool), 1)
    lines = []
    for row, column in np.argwhere(padded[1:, :] != padded[:-1, :]):  # between a cell and the one below
        lines.append([(column - 1.5, row - 0.5), (column - 0.5, row - 0.5)])
    for row, column in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        lines.append([(column - 0.5, row - 1.5), (column - 0.5, row - 0.5)])
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=width, clip_on=False))


def outlined_strip(strip: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A film strip (S, F S, 3) uint8 of F square frames, with the border of each frame's token mask (F, h, w) on it."""
    frames, size = len(masks), strip.shape[0]
    if strip.shape[1] != frames * size or size % masks.shape[1] or size % masks.shape[2]:
        raise ValueError(f"masks of shape {masks.shape} do not fit a strip of {strip.shape}")
    out = strip.copy()
    for i, mask in enumerate(np.asarray(masks, bool)):
        large = np.kron(mask, np.ones((size // mask.shape[0], size // mask.shape[1]), bool))
        around = np.pad(large, 1)  # what lies beyond the frame is outside
        inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        out[:, i * size : (i + 1) * size][large & ~inner] = EDGE
    return out
