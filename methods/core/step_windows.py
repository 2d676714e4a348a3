"""In which denoising steps a method acts: windows as AlignVid's paper and its released code state them."""

from __future__ import annotations

import math

from .forward_context import ForwardContext

# AlignVid F.3: fractions t / T of the denoising steps.
FRACTIONS = {"early": (0.0, 0.30), "middle": (0.35, 0.65), "late": (0.70, 1.0), "all": (0.0, 1.0)}
# The released code compares the time that the model is given, in 0..1000, instead: low < t <= high.
TIMES = {"early": (900.0, math.inf), "middle": (600.0, 900.0), "late": (-math.inf, 600.0), "all": (-math.inf, math.inf)}


def check_window(window: str | tuple[float, float]) -> None:
    """Raise ValueError unless `window` is a name or (from, to) with 0 <= from < to <= 1."""
    if isinstance(window, str):
        if window not in FRACTIONS:
            raise ValueError(
                f"window {window!r}: allowed are {', '.join(FRACTIONS)} or (from, to) in fractions of the steps"
            )
    elif not (len(window) == 2 and 0 <= window[0] < window[1] <= 1):
        raise ValueError(f"window {window!r}: (from, to) must satisfy 0 <= from < to <= 1")


def in_window(window: str | tuple[float, float], context: ForwardContext, *, by_time: bool = False) -> bool:
    """Is this forward inside the window? by_time: by the thresholds of AlignVid's released code, for named windows."""
    if window == "all":
        return True
    if by_time and isinstance(window, str):
        low, high = TIMES[window]
        return low < context.timestep <= high
    low, high = FRACTIONS[window] if isinstance(window, str) else window
    return low - 1e-9 <= context.fraction <= high + 1e-9
