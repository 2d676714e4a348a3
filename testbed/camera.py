"""How far the camera has panned between two frames, read off the background between the shapes."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.signal import savgol_filter

from .world import PAN, SIZE

CHROMA = 22.0  # CIELAB; the world's backgrounds stay below 15
MOST = int(PAN["most"]) + 4  # pixels a pan is looked for in each direction
FAR = 0.001  # squared lightness per squared pixel of a shift: between shifts that explain a smooth background alike, the nearest
MIN_OVERLAP = 0.15  # of a frame's pixels; with less background in common, a shift is not considered


def background_of(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lightness, mask) of a uint8 (H, W, 3) frame, both float32 (H, W): 1 where there is no shape within two pixels."""
    lab = cv2.cvtColor(np.ascontiguousarray(frame, np.float32) / 255, cv2.COLOR_RGB2LAB)
    shapes = (np.hypot(lab[..., 1], lab[..., 2]) > CHROMA).astype(np.uint8)
    return lab[..., 0], 1 - cv2.dilate(shapes, np.ones((5, 5), np.uint8)).astype(np.float32)


def camera_shift(first: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels by which the background of `first` stands shifted in `later`; both uint8 (64, 64, 3). See `camera_path`."""
    x, y = camera_path(np.stack([first, later]))[1]
    return float(x), float(y)


def camera_path(video: np.ndarray) -> np.ndarray:
    """Where the camera's picture of the first frame stands in every frame of a uint8 (T, 64, 64, 3) video: (T, 2) pixels, x
    and y, (0, 0) in the first.

    The shift under which the lightness of the background that both frames show differs by the most even amount (least
    variance of the difference: what changes the light of a whole frame is no motion), refined to a fraction of a pixel by a
    parabola. (0, 0) where too little background is seen.
    """
    size, path = (2 * SIZE, 2 * SIZE), np.zeros((len(video), 2))
    steps = np.arange(-MOST, MOST + 1)
    far = FAR * (steps[:, None] ** 2 + steps[None] ** 2)
    seen = [background_of(frame) for frame in video]
    mask = np.stack([m for _, m in seen])
    shown, least = mask.sum((1, 2)), MIN_OVERLAP * SIZE * SIZE
    light = np.stack([a for a, _ in seen])
    light = (light - ((light * mask).sum((1, 2)) / np.maximum(shown, 1))[:, None, None]) * mask  # for precision alone
    m, a, a2 = (np.fft.rfft2(x, size) for x in (mask, light, light * light))
    for f in np.flatnonzero(shown >= least):
        if f == 0 or shown[0] < least:
            continue
        sums = [  # correlations: result[d] = sum over p of x(p) y(p + d)
            np.conj(m[0]) * m[f],
            np.conj(a2[0]) * m[f] - 2 * np.conj(a[0]) * a[f] + np.conj(m[0]) * a2[f],
            np.conj(a[0]) * m[f] - np.conj(m[0]) * a[f],
        ]
        overlap, squares, difference = np.fft.irfft2(np.stack(sums), size)
        common = np.maximum(overlap, 1.0)
        error = np.where(overlap < least, np.inf, squares / common - (difference / common) ** 2)
        window = np.roll(error, (MOST, MOST), (0, 1))[: 2 * MOST + 1, : 2 * MOST + 1] + far
        y, x = np.unravel_index(np.argmin(window), window.shape)
        path[f] = x - MOST + _vertex(window[y], x), y - MOST + _vertex(window[:, x], y)
    return path


def velocity(path: np.ndarray) -> np.ndarray:
    """The camera's velocity between neighbouring frames, (T - 1, 2) pixels a frame, for a path (T, 2): the slope of parabolas
    through nine frames each, as single places are off by up to a pixel where the background is smooth."""
    window = min(9, len(path) - 1 + len(path) % 2)  # odd
    if window < 3:
        return np.diff(path, axis=0)
    slope = savgol_filter(path, window, 2, deriv=1, axis=0)
    return (slope[:-1] + slope[1:]) / 2


def steady(video: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the uint8 (T, 64, 64, 3) video as a camera sees it that stays where it is in the first frame, (T, 64, 64) bool: what
    of it the frames show). Beyond their border they are continued by their last pixels. path: that of `camera_path`.

    Frames whose camera went less than half a pixel stay as they are: resampling would blur more than it mends.
    """
    out, seen = video.copy(), np.ones(video.shape[:3], bool)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    for f, (dx, dy) in enumerate(path):
        if np.hypot(dx, dy) < 0.5:
            continue
        back = np.array([[1, 0, -dx], [0, 1, -dy]])
        out[f] = cv2.warpAffine(video[f], back, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen[f] = (x + dx >= 0) & (x + dx <= SIZE - 1) & (y + dy >= 0) & (y + dy <= SIZE - 1)
    return out, seen


def _vertex(values: np.ndarray, i: int) -> float:
    """Offset in (-0.5, 0.5) of a parabola's minimum from index `i`; 0 at the border."""
    if not 0 < i < len(values) - 1 or not np.isfinite(values[i - 1 : i + 2]).all():
        return 0.0
    left, middle, right = values[i - 1 : i + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend > 0 else 0.0
