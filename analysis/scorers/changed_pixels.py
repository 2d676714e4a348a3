"""How much of the picture differs from the first frame, for scorers that ask whether anything happened."""

from __future__ import annotations

import cv2
import numpy as np

from .video import Video


def changed_shares(video: Video, level: int) -> np.ndarray:
    """For each frame, the share of pixels that differ from the first frame's, (T,) in [0, 1]: by more than `level` of 255 in
    some channel, of both frames' means over 5x5 pixels, so that noise and compression do not count."""
    first = cv2.blur(video.frames[0], (5, 5))
    return np.array([_share(first, cv2.blur(frame, (5, 5)), level) for frame in video.frames])


def _share(a: np.ndarray, b: np.ndarray, level: int) -> float:
    return float((cv2.absdiff(a, b).max(-1) > level).mean())
