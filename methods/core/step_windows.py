"""In which denoising steps a method acts: what its setting `window` may be.

    "all"                    every step
    "early", "middle",       AlignVid's paper: 30 % of the steps each; with "-by-time" its released code: the time that the
    "late"                   model is given
    (from, to)               shares of the steps, of which step i of n has done (i + 1) / n; DyMoS. A share from 0 has at
                             least the first step, however few there are
    ("position", from, to)   the place among the steps, i / (n - 1): 0 is the first step and 1 the last; ALG's released code
    ("noise", high, low)     the noise level, at most `high` and above `low`: the same part of the noise path for every
                             scheduler and number of steps

Pairs include both of their ends.
"""

from __future__ import annotations

import math

from .forward_context import ForwardContext

# AlignVid F.3: fractions t / T of the denoising steps, low < t / T <= high. F.3 prints closed intervals and says "the first
# 30 %, the central 30 %, and the final 30 %": closed, [.70, 1] is 4 of 10 steps and 16 of 50, while early is 3 and 15.
# Without their lower end all three are 30 %. The printed interval is (0.7, 1.0): a pair includes both of its ends.
FRACTIONS = {"early": (0.0, 0.30), "middle": (0.35, 0.65), "late": (0.70, 1.0), "all": (0.0, 1.0)}
# The released code compares the time that the model is given, in 0..1000, instead: low < t <= high. Which steps these are
# depends on the model's schedule: above 900 are three of ten steps with Wan's shift of 3 and one with CogVideoX's.
TIMES = {"early": (900.0, math.inf), "middle": (600.0, 900.0), "late": (-math.inf, 600.0), "all": (-math.inf, math.inf)}
BY_TIME = "-by-time"
NAMES = (*FRACTIONS, *(name + BY_TIME for name in TIMES))

Window = str | tuple[float, float] | tuple[str, float, float]
ALLOWED = f'{", ".join(NAMES)}, (from, to) in shares of the steps, ("position", from, to) or ("noise", high, low)'


def check_window(window: Window) -> None:
    """Raise ValueError unless `window` is one of NAMES, (from, to) or ("position", from, to) with 0 <= from < to <= 1, or
    ("noise", high, low) with 1 >= high > low >= 0."""
    if window in NAMES:
        return
    if not isinstance(window, (tuple, list)) or len(window) not in (2, 3):
        raise ValueError(f"window {window!r}: allowed are {ALLOWED}")
    *unit, first, second = window
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in (first, second))
    if not numbers or unit not in ([], ["position"], ["noise"]):
        raise ValueError(f"window {window!r}: allowed are {ALLOWED}")
    if unit == ["noise"]:
        if not 1 >= first > second >= 0:
            raise ValueError(f'window {window!r}: ("noise", high, low) must satisfy 1 >= high > low >= 0')
    elif not 0 <= first < second <= 1:
        raise ValueError(f"window {window!r}: (from, to) must satisfy 0 <= from < to <= 1")


def in_window(window: Window, context: ForwardContext, *, by_time: bool = False) -> bool:
    """Is this forward inside the window? by_time: take a name without "-by-time" as if it had it, as AlignVid's released
    code does. Raises ValueError for a window in which this sampling loop has no step."""
    name = window if isinstance(window, str) else None
    if name is not None and name.removesuffix(BY_TIME) == "all":
        return True
    if name is not None and (by_time or name.endswith(BY_TIME)):
        low, high = TIMES[name.removesuffix(BY_TIME)]
        inside = low < context.timestep <= high
        if not inside and context.step == 0 and hasattr(context.pipe, "scheduler"):
            times = context.pipe.scheduler.timesteps.tolist()
            if not any(low < t <= high for t in times):
                raise ValueError(f"window {window!r} has none of the {len(times)} steps: no time of theirs is in it")
        return inside
    if window[0] == "noise":
        return window[2] < context.noise <= window[1]
    inside = _inside(window, context)
    if not inside and context.step == 0:
        others = (ForwardContext(step, context.steps, math.nan, "cond") for step in range(1, context.steps))
        if not any(_inside(window, other) for other in others):
            raise ValueError(
                f"window {window!r} has none of the {context.steps} steps; take more steps or a wider window"
            )
    return inside


def _inside(window: Window, context: ForwardContext) -> bool:
    """Whether a step is in a window of the steps: a name, or a share or position from, to."""
    if isinstance(window, str):
        low, high = FRACTIONS[window]
        return low + 1e-9 < context.fraction <= high + 1e-9
    first, last = window[-2:]
    at = context.position if window[0] == "position" else context.fraction
    return first - 1e-9 <= at <= last + 1e-9 or (first == 0 and context.step == 0)
