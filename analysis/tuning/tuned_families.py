"""The families of transformers that can be tuned, each a module with the functions of wan.py."""

from __future__ import annotations

from types import ModuleType

from methods.families import COGVIDEOX, HUNYUAN, WAN

from . import cogvideox, hunyuan_video, wan

MODULES: dict[str, ModuleType] = {WAN: wan, COGVIDEOX: cogvideox, HUNYUAN: hunyuan_video}


def module_of(transformer) -> ModuleType:
    """The module of a transformer's class. Raises ValueError for another one."""
    name = type(transformer).__name__
    if name not in MODULES:
        raise ValueError(f"a {name} cannot be tuned; {', '.join(MODULES)} can")
    return MODULES[name]
