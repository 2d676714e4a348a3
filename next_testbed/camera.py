"""How far the camera has panned between two frames, read off the background between the shapes."""

from __future__ import annotations

import cv2
import numpy as np

from .world import PAN, SIZE

CHROMA = 22.0  # CIELAB; the world's backgrounds stay below 15
MOST = int(PAN["most"]) + 4  # pixels a pan is looked for in each direction
MIN_OVERLAP = 0.15  # of a frame's pixels; with less background in common, a shift is not considered


def background_of(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lightness, mask) of a uint8 (H, W, 3) frame, both float32 (H, W): 1 where there is no shape within two pixels."""
    lab = cv2.cvtColor(np.ascontiguousarray(frame, np.float32) / 255, cv2.COLOR_RGB2LAB)
    shapes = (np.hypot(lab[..., 1], lab[..., 2]) > CHROMA).astype(np.uint8)
    return lab[..., 0], 1 - cv2.dilate(shapes, np.ones((5, 5), np.uint8)).astype(np.float32)


def camera_shift(first: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels by which the background of `first` stands shifted in `later`; both uint8 (64, 64, 3).

    The shift with the least mean squared difference of lightness over the background that both show, each with its mean
    taken off, refined to a fraction of a pixel by a parabola. (0, 0) where too little background is seen.
    """
    a, m = background_of(first)
    b, n = background_of(later)
    size = (2 * SIZE, 2 * SIZE)
    if min(m.sum(), n.sum()) < MIN_OVERLAP * SIZE * SIZE:
        return 0.0, 0.0
    a, b = (a - (a * m).sum() / m.sum()) * m, (b - (b * n).sum() / n.sum()) * n

    def correlate(x, y):  # result[d] = sum over p of x(p) y(p + d)
        return np.fft.irfft2(np.conj(np.fft.rfft2(x, size)) * np.fft.rfft2(y, size), size)

    overlap = np.maximum(correlate(m, n), 1e-6)
    error = (correlate(a * a, n) - 2 * correlate(a, b) + correlate(m, b * b)) / overlap
    error = np.where(overlap < MIN_OVERLAP * SIZE * SIZE, np.inf, error)
    window = np.roll(error, (MOST, MOST), (0, 1))[: 2 * MOST + 1, : 2 * MOST + 1]
    y, x = np.unravel_index(np.argmin(window), window.shape)
    return x - MOST + _vertex(window[y], x), y - MOST + _vertex(window[:, x], y)


def steady(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the uint8 (T, 64, 64, 3) video as a camera sees it that stays where it is in the first frame, (T, 64, 64) bool: what
    of it the frames show). Beyond their border they are continued by their last pixels.

    Frames whose camera went less than half a pixel stay as they are: resampling would blur more than it mends.
    """
    out, seen = video.copy(), np.ones(video.shape[:3], bool)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    for f in range(1, len(video)):
        dx, dy = camera_shift(video[0], video[f])
        if np.hypot(dx, dy) < 0.5:
            continue
        out[f] = cv2.warpAffine(
            video[f],
            np.array([[1, 0, -dx], [0, 1, -dy]]),
            (SIZE, SIZE),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        seen[f] = (x + dx >= 0) & (x + dx <= SIZE - 1) & (y + dy >= 0) & (y + dy <= SIZE - 1)
    return out, seen


def _vertex(values: np.ndarray, i: int) -> float:
    """Offset in (-0.5, 0.5) of a parabola's minimum from index `i`; 0 at the border."""
    if not 0 < i < len(values) - 1 or not np.isfinite(values[i - 1 : i + 2]).all():
        return 0.0
    left, middle, right = values[i - 1 : i + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend > 0 else 0.0
