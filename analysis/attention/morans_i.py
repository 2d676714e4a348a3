"""Moran's I: whether neighbouring values of a map are alike. Focal Guidance, Eqs. 3 and 4; Moran (1950)."""

from __future__ import annotations

import numpy as np


def morans_i(maps: np.ndarray) -> np.ndarray:
    """Moran's I of each (H, W) map in `maps` (..., H, W): float64 (...), nan for a constant map.

    Weights are 1 between the 8 neighbours of a cell and 0 elsewhere. 1 is a perfectly coherent map, and -1/(H W - 1) is
    expected of noise. Focal Guidance's Eq. 3 omits the normalisation by the sum of weights, which we apply as Moran does;
    omitting it would scale every value of a given map size equally.
    """
    x = np.asarray(maps, float)
    height, width = x.shape[-2:]
    z = x - x.mean((-2, -1), keepdims=True)
    # Half of the eight directions; the weights are symmetric, and the factor 2 cancels.
    neighbours = [
        (z[..., :, 1:], z[..., :, :-1]),
        (z[..., 1:, :], z[..., :-1, :]),
        (z[..., 1:, 1:], z[..., :-1, :-1]),
        (z[..., 1:, :-1], z[..., :-1, 1:]),
    ]
    weights = sum(a.shape[-2] * a.shape[-1] for a, _ in neighbours)
    products = sum((a * b).sum((-2, -1)) for a, b in neighbours)
    # The mean of equal numbers may be off by a rounding error, so a constant map is recognised by its extremes.
    constant = x.max((-2, -1)) == x.min((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = height * width / weights * products / (z**2).sum((-2, -1)) if weights else products
    return np.where(constant, np.nan, value)
