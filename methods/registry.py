"""Methods as plain dictionaries and back, for parameter files and for the settings written beside a video.

A method is found by itself: any module of this package may define a frozen dataclass with the class attributes `name`, by
which parameter files call it, and `label`, its name in words.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache

import methods

# What now says in which steps a method acts, for settings that said it before: {(method, setting): how to write it}.
FORMER = {
    ("dymos", "steps"): "window: [0, STEPS]",
    ("lowpass", "start"): 'window: ["position", START, END], or "all" for the exponential schedule',
    ("lowpass", "end"): 'window: ["position", START, END], or "all" for the exponential schedule',
}


@cache
def find_methods() -> dict[str, type]:
    """name -> class of every method in a module of this package. Raises ValueError for a name that two classes have."""
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        if module.ispkg or module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{methods.__name__}.{module.name}")
        for _, kind in inspect.getmembers(loaded, inspect.isclass):
            if (
                kind.__module__ != loaded.__name__
                or not is_dataclass(kind)
                or not isinstance(vars(kind).get("name"), str)
            ):
                continue
            if kind.name in found:
                raise ValueError(f"two methods are called {kind.name!r}: {found[kind.name].__name__}, {kind.__name__}")
            found[kind.name] = kind
    return found


def required(method: type) -> list[str]:
    """Names of the settings of a method that have no default."""
    return [f.name for f in fields(method) if f.default is MISSING and f.default_factory is MISSING]


def to_dict(method) -> dict:
    """{"method": name, setting: value, ...}; lists instead of tuples, so that YAML and JSON give it back unchanged."""
    values = asdict(method)
    return {"method": method.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_dict(settings: dict):
    """The method of a dictionary. Raises ValueError for an unknown method or setting, for a setting that is missing, and
    for what the method itself refuses."""
    settings, known = dict(settings), find_methods()
    name = settings.pop("method", None)
    if name not in known:
        raise ValueError(f"unknown method {name!r}; allowed are {', '.join(known)}")
    allowed = [f.name for f in fields(known[name])]
    if unknown := [k for k in settings if k not in allowed]:
        now = FORMER.get((name, unknown[0]))
        instead = f"write {now}" if now else f"it has {', '.join(allowed)}"
        raise ValueError(f"{name} has no setting {unknown[0]!r}; {instead}")
    if missing := [k for k in required(known[name]) if k not in settings]:
        raise ValueError(f"{name} needs {missing[0]}")
    return known[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
