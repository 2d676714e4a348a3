"""Numbers of options, checked with the name of the option."""

from __future__ import annotations

import math


def number(name: str, value, at_least: float | None = None, above: float | None = None) -> float | None:
    """A finite number within its bounds, or None. Raises ValueError that says what is allowed."""
    if value is None:
        return None
    bound = f", {at_least} or more" if at_least is not None else f" above {above}" if above is not None else ""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number{bound}, not {value!r}")
    if (at_least is not None and value < at_least) or (above is not None and value <= above):
        raise ValueError(f"{name} must be a finite number{bound}, not {value}")
    return value


def whole(name: str, value, at_least: int, at_most: int | None = None) -> int | None:
    """A whole number within its bounds, or None. Raises ValueError that says what is allowed."""
    if value is None:
        return None
    bound = f"{at_least} or more" if at_most is None else f"{at_least} to {at_most}"
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < at_least
        or (at_most is not None and value > at_most)
    ):
        raise ValueError(f"{name} must be a whole number, {bound}, not {value!r}")
    return value
