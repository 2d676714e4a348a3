"""How well a video keeps its reference image: sharpness and background, without learned weights."""

from __future__ import annotations

import cv2
import numpy as np


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images or videos, over the pixels of `mask`; at most 99, nan if empty."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64))
    error = error[mask] if mask is not None else error
    if error.size == 0:
        return float("nan")
    mean = error.mean()
    return float(min(99.0, 10 * np.log10(255.0**2 / mean))) if mean > 0 else 99.0


def sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of a uint8 (H, W, 3) frame, in squared grey levels: high for crisp edges."""
    return float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def background_mask(a: np.ndarray, b: np.ndarray, chroma: float = 30.0, grow: int = 5) -> np.ndarray:
    """Pixels that are background in both uint8 images: CIELAB chroma below `chroma`, `grow` pixels away from colour."""
    colourful = np.zeros(a.shape[:2], np.uint8)
    for image in (a, b):
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        colourful |= (np.linalg.norm(lab[..., 1:], axis=-1) > chroma).astype(np.uint8)
    return cv2.dilate(colourful, np.ones((grow, grow), np.uint8)) == 0


def fidelity(video: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Fidelity of a uint8 (T, H, W, 3) video to its clean uint8 (H, W, 3) reference.

    first_psnr: dB, first frame against the reference. background_psnr: dB, mean over the last quarter, pixels that are
    background in both. sharpness_retention: mean Laplacian variance of the last quarter over the reference's.
    """
    last = video[-max(1, len(video) // 4) :]
    return {
        "first_psnr": psnr(video[0], reference),
        "background_psnr": float(np.mean([psnr(f, reference, background_mask(f, reference)) for f in last])),
        "sharpness_retention": float(np.mean([sharpness(f) for f in last]) / max(sharpness(reference), 1e-9)),
    }
