"""Scorers by name: a file of this package each, or behind an entry point of another package."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import types
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_type_hints

from ruamel.yaml import YAML, YAMLError

import analysis.scorers as package

from .scorer import INPUTS, Scorer

GROUP = "i2v_steering.scorers"


@cache
def find_scorers() -> dict[str, type[Scorer]]:
    """name -> class of every scorer. Raises ValueError for a name that two have, for a class that breaks the contract, and
    for an entry point that cannot be loaded."""
    found: dict[str, type[Scorer]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and not module.name.startswith("_"):
            _add(found, _scorers_of(importlib.import_module(f"{package.__name__}.{module.name}")))
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except Exception as error:
            raise ValueError(f"the scorer {entry.name!r} ({entry.value}) cannot be loaded: {error}") from error
        _add(found, _scorers_of(loaded) if isinstance(loaded, types.ModuleType) else [loaded])
    return dict(sorted(found.items()))


def _scorers_of(module: types.ModuleType) -> list[type[Scorer]]:
    classes = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    return [kind for kind in classes if issubclass(kind, Scorer) and isinstance(vars(kind).get("name"), str)]


def _add(found: dict, kinds: list[type[Scorer]]) -> None:
    for kind in kinds:
        if kind.name in found and found[kind.name] is not kind:
            raise ValueError(f"two scorers are called {kind.name!r}: {found[kind.name].__name__}, {kind.__name__}")
        check(kind)
        found[kind.name] = kind


def check(scorer: type[Scorer] | Scorer) -> None:
    """Raises ValueError, naming the scorer, if it says less of itself than the contract asks for."""
    problems = []
    if not scorer.name or set(scorer.name) & set(":=,/ ") or scorer.name.endswith((".yaml", ".csv")):
        problems.append("a name has none of : = , / or blanks and is no file name")
    if not isinstance(getattr(scorer, "version", None), str) or not scorer.version:
        problems.append("it needs a version, a string")
    if not getattr(scorer, "metrics", None):
        problems.append("it declares no metrics")
    if unknown := set(scorer.inputs) - set(INPUTS):
        problems.append(f"inputs are of {', '.join(INPUTS)}, not {', '.join(sorted(unknown))}")
    if scorer.runs not in ("worker", "here") or (scorer.batch > 1 and scorer.runs != "here"):
        problems.append("runs is 'worker' or 'here', and a batch above 1 runs 'here'")
    for name, metric in getattr(scorer, "metrics", {}).items():
        if metric.published and metric.imitates:
            problems.append(f"{name} cannot be a published metric and imitate one")
        if set(name) & set("/, "):
            problems.append(f"the metric {name!r} has a slash, a comma or a blank in its name")
    if problems:
        raise ValueError(f"scorer {scorer.name!r}: {'; '.join(problems)}")


def make_scorer(spelled: str) -> Scorer:
    """The scorer of `NAME`, of `NAME:parameter=value,...`, or of a program's `FILE.yaml`.

    Raises ValueError for an unknown name or parameter and for a value of another type.
    """
    name, _, settings = spelled.partition(":")
    from .program import load_program, shipped

    if name.endswith(".yaml") or name in shipped():
        scorer = load_program(shipped().get(name, Path(name)))
        check(scorer)
        if settings:
            raise ValueError(f"{name} takes its settings from the file, not {settings!r}")
        return scorer
    known = find_scorers()
    if name not in known:
        raise ValueError(
            f"unknown scorer {name!r}; known are {', '.join([*known, *shipped()])}, and a program's FILE.yaml"
        )
    kind, hints, values = known[name], get_type_hints(known[name]), {}
    allowed = [f.name for f in fields(kind)]
    for setting in filter(None, settings.split(",")):
        key, equals, text = setting.partition("=")
        if not equals or key not in allowed:
            raise ValueError(f"{name} has no parameter {setting!r}; it has {', '.join(allowed) or 'none'}")
        values[key] = _typed(name, key, text, hints[key])
    return kind(**values)


def _typed(name: str, key: str, text: str, hint):
    """`text` as the type of a parameter: str, int, float, bool, or one of them or None."""
    kinds = getattr(hint, "__args__", (hint,))
    if text == "None" and type(None) in kinds:
        return None
    if str in kinds:
        return text
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        value = text
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds:
        raise ValueError(f"{name}: {key} is {text!r}; {getattr(hint, '__name__', hint)} is wanted")
    return value


def scorer_names() -> list[str]:
    """Names of all scorers: of classes, and of the programs that come with this package."""
    from .program import shipped

    return [*find_scorers(), *shipped()]
