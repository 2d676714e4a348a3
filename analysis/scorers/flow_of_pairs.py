"""Optical flow of pairs of frames, computed once for all scorers that need it; the estimator is analysis/scoring's.

Frames whose short side is longer than `side` are reduced to it first, and the result is told in pixels of the video as it
is: published thresholds are proportional to the short side, and 256 px is where the estimator is known best.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ..scoring.optical_flow import _flow_farneback, supported_magnitude
from .scorer import Requires
from .video import NotScored, Video

ESTIMATOR = (
    "the smaller of DIS and Farneback flow, where it is consistent forwards and backwards and explains the change"
)
OPENCV = Requires({"cv2": "opencv-python-headless"})
LEAST = (8, 12)  # px of the short and of the long side: DIS works on patches of 8


def top_flow(video: Video, pairs: np.ndarray, share: float, side: int) -> np.ndarray:
    """For each pair (N, 2) of frame indices, the mean of the largest `share` of magnitudes, in px of the video; (N,).

    side: of the short side, in px, that frames are reduced to; 0 leaves them as they are. Raises NotScored "undefined"
    for frames that are smaller than DIS flow can take.
    """
    height, width = video.frames.shape[1:3]
    if min(height, width) < LEAST[0] or max(height, width) < LEAST[1]:
        raise NotScored("undefined", f"frames of {width}x{height}; the flow needs {LEAST[0]}x{LEAST[1]} px")
    tops = [video.recall(("flow", int(a), int(b), side), lambda a=a, b=b: _tops(video, a, b, side)) for a, b in pairs]
    return np.array([top[share] for top in tops])


def check_side(side: int) -> None:
    """Raises ValueError for a `side` that is not 0 and too small for any flow."""
    if side != 0 and side < 32:
        raise ValueError(f"side is {side}; 0, or 32 px at least")


SHARES = (0.05, 0.02)  # of VBench's dynamic degree, and of its static filter


@lru_cache
def _dis(shape: tuple[int, int]):
    # One for each size: OpenCV's object keeps the coarsest scale that it once chose for a small frame, for larger ones too.
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def _flow_dis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _dis(a.shape).calc(a, b, None)


def _tops(video: Video, a: int, b: int, side: int) -> dict[float, float]:
    first, second = _grey(video, a, side), _grey(video, b, side)
    scale = video.frames.shape[1] / first.shape[0]
    sorted_magnitudes = [
        np.sort(supported_magnitude(first, second, flow).ravel())[::-1] for flow in (_flow_dis, _flow_farneback)
    ]
    return {
        share: min(float(m[: max(1, int(share * m.size))].mean()) for m in sorted_magnitudes) * scale
        for share in SHARES
    }


def _grey(video: Video, index: int, side: int) -> np.ndarray:
    def make() -> np.ndarray:
        grey = cv2.cvtColor(video.frames[index], cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        if not side or min(height, width) <= side:
            return grey
        scale = side / min(height, width)
        return cv2.resize(grey, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)

    return video.recall(("grey", int(index), side), make)


def neighbours(frames: int | np.ndarray) -> np.ndarray:
    """Pairs of neighbouring frames, (N, 2): of all, if the number of frames is given, else of those indices."""
    indices = np.arange(frames) if isinstance(frames, int) else frames
    return np.stack([indices[:-1], indices[1:]], axis=1)
