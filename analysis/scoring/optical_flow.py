"""Motion from optical flow, without learned weights: the part of the flow that explains a change of the picture.

Plain dense flow reports motion where nothing moves: DIS on flat noisy areas, Farneback where an object appears. A
pixel's flow counts only if it agrees forwards and backwards and lowers the photometric error, and of the two estimators
the smaller value is taken. The pair score is the mean of the largest 5 % of the magnitudes, as in VBench's dynamic
degree; the estimator is another one, so the values must not be compared with VBench's.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np


@lru_cache
def _dis():
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def _flow_dis(a, b):
    return _dis().calc(a, b, None)


def _flow_farneback(a, b):
    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 4, 15, 3, 5, 1.2, 0)


def _warp(image, flow):
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def supported_magnitude(a: np.ndarray, b: np.ndarray, estimate=_flow_dis) -> np.ndarray:
    """Flow magnitude in pixels from grey frame a to b (uint8, (H, W)), 0 where the flow explains nothing.

    Kept where warping b back lowers the local error by 30 % and 1.5 grey levels, and the backward flow returns.
    """
    forward, backward = estimate(a, b), estimate(b, a)
    window = max(3, int(0.04 * min(a.shape)) | 1)
    fa, fb = a.astype(np.float32), b.astype(np.float32)
    before = cv2.blur(np.abs(fa - fb), (window, window))
    after = cv2.blur(np.abs(fa - _warp(fb, forward)), (window, window))
    back = _warp(backward, forward)
    cycle = np.square(forward + back).sum(-1)
    allowed = 0.01 * (np.square(forward).sum(-1) + np.square(back).sum(-1)) + 0.5
    keep = (before - after >= np.maximum(0.3 * before, 1.5)) & (cycle <= allowed)
    return np.where(keep, np.linalg.norm(forward, axis=-1), 0.0)


def pair_scores(video: np.ndarray) -> np.ndarray:
    """For each pair of neighbouring frames of a uint8 (T, H, W, 3) video, the mean of the largest 5 % of supported
    magnitudes in pixels, the smaller of two estimators; (T - 1,) float."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    top = max(1, int(0.05 * grey[0].size))
    scores = []
    for a, b in pairwise(grey):
        both = [supported_magnitude(a, b, f).ravel() for f in (_flow_dis, _flow_farneback)]
        scores.append(min(float(np.partition(m, -top)[-top:].mean()) for m in both))
    return np.array(scores)
