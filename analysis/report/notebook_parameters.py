"""Values that a notebook is run with: of the kind that its own parameters cell has, or one clear error."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

from ..study.parameters import Parameters


def defaults(notebook: Path) -> dict:
    """The values of the notebook's cell with the tag `parameters`, by name."""
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assignments = [line for line in ast.parse("\n".join(code)).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in assignments}


def check_parameters(notebook: Path, given: Mapping, parameters: Parameters) -> None:
    """Raise ValueError if a value of `given` is of another kind than the notebook's own: a text for a list, an empty list, 0
    where the notebook has more than 0, or a backbone that params.yaml does not have. Other names are not looked at."""
    for name, own in defaults(notebook).items():
        if name not in given:
            continue
        value = given[name]
        if not _alike(value, own):
            raise ValueError(f"{name} is {value!r}; it must be {_described(own)} (notebook {notebook.stem})")
        if name in ("backbone", "backbones"):
            for backbone in [value] if isinstance(value, str) else value:
                if backbone not in parameters.backbones:
                    raise ValueError(f"{name} names {backbone!r}; params.yaml has {', '.join(parameters.backbones)}")


def _alike(value, own) -> bool:
    if isinstance(own, bool) or isinstance(value, bool):
        return isinstance(own, bool) and isinstance(value, bool)
    if isinstance(own, int):  # a count or a position
        return isinstance(value, int) and value >= min(own, 1)
    if isinstance(own, float):
        return isinstance(value, int | float)
    if isinstance(own, list):
        return isinstance(value, list) and bool(value) and all(_alike(v, own[0]) for v in value)
    return isinstance(value, type(own))


def _described(own) -> str:
    if isinstance(own, list):
        return f"a list such as {own}"
    if isinstance(own, bool):
        return "true or false"
    if isinstance(own, str):
        return f"text such as {own!r}"
    return f"a whole number from {min(own, 1)} on" if isinstance(own, int) else "a number"
