"""Methods from the command line: names, JSON, files; their settings checked, and whether they act in the planned steps."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

from ..core.forward_context import ForwardContext
from ..families import describe
from ..registry import find_methods, from_dict, to_dict

FILES = (".json", ".yaml", ".yml")


def read_methods(given: list[str] | None, gamma: float | None = None) -> list:
    """Methods from names, JSON (a dictionary or a list of them) and files of either; `gamma` is for one given by name.

    Raises ValueError for an unknown method, a setting that is missing or of another type, a gamma that no method takes,
    and one that several take; FileNotFoundError for a file that is not there.
    """
    given, known, found = given or [], find_methods(), []
    taking = [n for n in given if n in known and "gamma" in {f.name for f in fields(known[n])}]
    if gamma is not None and not taking:
        raise ValueError(f"--gamma {gamma}: none of the methods given by name has a gamma; give settings as JSON")
    if gamma is not None and len(taking) > 1:
        own = " ".join(f"--method '{json.dumps({'method': name, 'gamma': gamma})}'" for name in taking)
        raise ValueError(f"--gamma {gamma}: {' and '.join(taking)} both take it; say which has which: {own}")
    for text in given:
        if text.lstrip().startswith(("{", "[")) or Path(text).suffix in FILES:
            found += [method_of(s, text) for s in _settings(text)]
        else:
            found.append(
                method_of({"method": text} | ({"gamma": gamma} if gamma is not None and text in taking else {}))
            )
    return found


def _settings(text: str) -> list[dict]:
    """The dictionaries of JSON or of a file: one, a list of them, or a settings file of an earlier video."""
    where, content = "--method", text
    if not text.lstrip().startswith(("{", "[")):
        path = Path(text)
        if not path.is_file():
            raise FileNotFoundError(f"--method {text}: no such file")
        where, content = f"--method {text}", path.read_text()
        if path.suffix != ".json":
            return _as_list(_yaml(content, where), where)
    try:
        return _as_list(json.loads(content), where)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} {'' if where != '--method' else text}: not JSON ({error})") from None


def _yaml(content: str, where: str):
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError:
        raise OSError(f"{where}: reading YAML needs ruamel.yaml: pip install ruamel.yaml, or give JSON") from None
    try:
        return YAML(typ="safe", pure=True).load(content)
    except YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())})") from None


def _as_list(value, where: str) -> list[dict]:
    if isinstance(value, dict) and isinstance(value.get("methods"), list):
        value = value["methods"]
    value = [value] if isinstance(value, dict) else value
    if not (isinstance(value, list) and all(isinstance(v, dict) for v in value)):
        raise ValueError(f'{where}: give {{"method": NAME, setting: value}}, or a list of such dictionaries')
    return value


def method_of(settings: dict, where: str = ""):
    """The method of a dictionary. Raises ValueError for what `from_dict` refuses and for a value of another type."""
    kind = find_methods().get(settings.get("method")) if isinstance(settings.get("method"), str) else None
    if kind is not None:
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            value = settings.get(field.name)
            if field.name == "window":
                continue  # the method itself says what a window may be
            if field.name in settings and not fits(value, hints[field.name]):
                hint = "; leave the quotes out" if isinstance(value, str) and _is_number(value) else ""
                raise ValueError(
                    f"{kind.name} {field.name} must be {in_words(hints[field.name])}, not {json.dumps(value)}{hint}"
                )
    return from_dict(settings)


def fits(value, hint) -> bool:
    """Whether a value read from JSON is of a type: numbers, text, None, choices of them and lists."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, i) for i in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is list or (len(inner) == 2 and inner[1] is Ellipsis):
            return all(fits(v, inner[0]) for v in value)
        return len(value) == len(inner) and all(fits(v, i) for v, i in zip(value, inner, strict=True))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def in_words(hint) -> str:
    """A type for readers: `str | tuple[float, float]` is "text or a list of 2 numbers"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(i) for i in inner)
    if origin is typing.Literal:
        return " or ".join(json.dumps(i) for i in inner)
    if origin in (tuple, list):
        if origin is list or (len(inner) == 2 and inner[1] is Ellipsis):
            return f"a list of {in_words(inner[0]).replace('a whole number', 'whole numbers')}"
        return f"a list of {len(inner)} numbers" if set(inner) <= {int, float} else f"a list of {len(inner)}"
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def steps_of(method, transformer, steps: int, scheduler=None) -> list[int] | None:
    """The steps, from 0, in which a method acts in some attention of the conditional branch; None if that cannot be told.

    It cannot of methods that act elsewhere too (on inputs, outputs or blocks), unless they have a `strength` at each step, and of
    windows in time where the schedule is not known. scheduler: with its `timesteps` set, None if unknown.
    Raises ValueError for a window in which no step lies, as sampling would.
    """
    if getattr(method, "neutral", False):
        return []
    elsewhere = any(hasattr(method, hook) for hook in ("edit_inputs", "edit_output", "edit_block"))
    if elsewhere and not hasattr(method, "strength"):
        return None
    model, found = describe(transformer), []
    times = scheduler.timesteps.tolist() if scheduler is not None else [float("nan")] * steps
    pipe = SimpleNamespace(scheduler=scheduler) if scheduler is not None else None
    for step, time in enumerate(times[:steps]):
        context = ForwardContext(step=step, steps=steps, timestep=time, branch="cond", pipe=pipe)
        if elsewhere:
            if method.strength(context) > 0:
                found.append(step)
        elif any(method.active(model, context, block, site) for block in model.blocks for site in sorted(model.sites)):
            found.append(step)
    return None if not found and scheduler is None else found


def check_methods(methods: list, transformers: dict, steps: int, scheduler=None) -> list[str]:
    """A line on each method: its settings and where it acts.

    Raises ValueError for one that the model cannot have, or that would act in no step.
    """
    lines = []
    for method in methods:
        where = None
        for transformer in transformers.values():
            try:
                method.check(describe(transformer))
                where = steps_of(method, transformer, steps, scheduler)
            except ValueError as error:
                raise ValueError(f"{method.name}: {error}") from None
        settings = {k: v for k, v in to_dict(method).items() if k != "method"}
        if where == []:
            raise ValueError(
                f"{method.name} would act in none of the {steps} steps and blocks with {json.dumps(settings)}: the video would "
                "be the unsteered one; take another strength, more steps or a wider window, or leave the method out"
            )
        steps_acted = f" acts in {len(where)} of {steps} steps" if where else ""
        lines.append(f"{method.name}{steps_acted} {json.dumps(settings)}")
    twice = [m.name for i, m in enumerate(methods) if m.name in [n.name for n in methods[:i]]]
    lines += [f"note: {name} is given more than once; they act one after the other" for name in dict.fromkeys(twice)]
    return lines
