"""Gaussian blur of the reference image, the perturbation of AlignVid's pilot study (section 3 and appendix G.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def blur_image(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur an image with a Gaussian of standard deviation `sigma` pixels, reflecting at the border.

    image: (..., H, W), any floating dtype and range; the result has the same. The kernel is cut at 4 sigma; the work is
    done in float64. `sigma` 0 returns the image itself, bit for bit.
    Raises ValueError for a negative or non-finite sigma, TypeError for an integer image.
    """
    if not math.isfinite(sigma) or sigma < 0:
        raise ValueError(f"blur sigma must be a finite number of pixels, 0 or more, not {sigma}")
    if not image.is_floating_point():
        raise TypeError(f"blur_image takes a floating-point image, not {image.dtype}")
    if sigma == 0:
        return image
    blurred = image.double()
    for axis in (-1, -2):
        n, radius = blurred.shape[axis], int(4 * sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        # Reflection, "d c b a | a b c d | d c b a", repeats with period 2 n.
        index = torch.arange(-radius, n + radius, device=image.device) % (2 * n)
        index = torch.where(index < n, index, 2 * n - 1 - index)
        rows = blurred.movedim(axis, -1)[..., index]
        rows = F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), kernel.view(1, 1, -1)).reshape(*rows.shape[:-1], n)
        blurred = rows.movedim(-1, axis)
    return blurred.to(image.dtype)
