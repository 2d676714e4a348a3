"""What params.yaml comes to for each sweep, as small files that the pipeline's stages depend on.

A stage that depends on the whole of `methods` runs again for every method that is added, and DVC copies all of it into
dvc.lock for every such stage, which it then reads and writes once a stage. A file per sweep holds what the sweep uses.
"""

from __future__ import annotations

import json
from pathlib import Path

from .parameters import Parameters, load_parameters
from .store import write_atomically

SIZES = {"small.json": False, "full.json": True}  # everything that notebooks and tables may read, per size of the run


def resolve(parameters: Parameters, sweep: str) -> dict:
    """The grid of a sweep, and its backbone and methods spelled out, as plain JSON types."""
    grid = parameters.sweeps[sweep]
    return {
        "grid": grid.model_dump(mode="json", exclude={"full"}),
        "backbone": parameters.backbones[grid.backbone].model_dump(mode="json"),
        "methods": {name: parameters.methods[name] for name in grid.methods},
    }


def write_settings(params: Path | str, folder: Path) -> None:
    """Write `<folder>/<sweep>.json` for every sweep of the parameter file, and `small.json` and `full.json`, which hold
    benchmark, backbones, methods and all sweeps of that size. Raises ValueError for a sweep with the name of one of those."""
    small = load_parameters(params)
    if taken := [name for name in small.sweeps if f"{name}.json" in SIZES]:
        raise ValueError(f"a sweep cannot be called {taken[0]!r}: {folder}/{taken[0]}.json is written for all sweeps")
    contents = {f"{name}.json": resolve(small, name) for name in small.sweeps}
    for name, full in SIZES.items():
        contents[name] = load_parameters(params, full=full).model_dump(
            mode="json",
            include={"benchmark", "backbones", "methods", "sweeps"},
            exclude={"sweeps": {"__all__": {"full"}}},
        )
    for name, content in contents.items():
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(folder / name, lambda path, text=text: path.write_text(text))
