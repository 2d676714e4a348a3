"""The two kinds of backbone that are trained: each is a module with the same functions, see wan.py."""

from __future__ import annotations

from types import ModuleType

from . import cogvideox, wan


def module_of(lineage: str) -> ModuleType:
    """The module of "wan" or "cogvideox". Raises ValueError for another name."""
    modules = {"wan": wan, "cogvideox": cogvideox}
    if lineage not in modules:
        raise ValueError(f"unknown lineage {lineage!r}; there are {list(modules)}")
    return modules[lineage]
