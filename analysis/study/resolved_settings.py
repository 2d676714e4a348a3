"""What params.yaml comes to for the sweeps of each lineage of backbones, as files that the pipeline's stages depend on.

A stage that depends on the whole of `methods` runs again for every method that is added, and DVC copies all of it into
dvc.lock for every such stage, which it then reads and writes once a stage.
"""

from __future__ import annotations

import json
from pathlib import Path

from .cells import expand
from .files import write_atomically
from .parameters import Parameters, load_parameters

SIZES = {"small": False, "full": True}  # everything that notebooks and tables may read, per size of the run


def resolve(parameters: Parameters, sweep: str) -> dict:
    """The grid of a sweep, and its backbone and methods spelled out, as plain JSON types."""
    grid = parameters.sweeps[sweep]
    return {
        "grid": grid.model_dump(mode="json", exclude={"full"}),
        "backbone": parameters.backbones[grid.backbone].model_dump(mode="json"),
        "methods": {name: parameters.methods[name] for name in grid.methods},
    }


def write_settings(params: Path | str, folder: Path) -> None:
    """Write a JSON file per lineage of the parameter file, such as `<folder>/wan.json`, with its sweeps, and `small.json`
    and `full.json` with benchmark, backbones, methods and all sweeps of that size. Raises ValueError for a lineage of
    one of those names."""
    small, contents = load_parameters(params), {}
    for name, sweep in small.sweeps.items():
        contents.setdefault(sweep.backbone.split("-")[0], {})[name] = resolve(small, name)
    if taken := contents.keys() & SIZES.keys():
        raise ValueError(f"no backbone's name may begin with {taken.pop()!r}: that file of {folder} is for all sweeps")
    for size, full in SIZES.items():
        contents[size] = load_parameters(params, full=full).model_dump(
            mode="json",
            include={"benchmark", "backbones", "methods", "sweeps"},
            exclude={"sweeps": {"__all__": {"full"}}},
        )
    for name, content in contents.items():
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(folder / f"{name}.json", lambda path, text=text: path.write_text(text))


def write_keys(parameters: Parameters, folder: Path) -> None:
    """Write `<folder>/<sweep>` per sweep: the key of each of its cells, in order, which say what determines the videos.
    Files of sweeps that are no more are removed."""
    for name in parameters.sweeps:
        text = "".join(f"{cell.key}\n" for cell in expand(parameters, name))
        write_atomically(folder / name, lambda path, text=text: path.write_text(text))
    for file in folder.iterdir():
        if file.name not in parameters.sweeps:
            file.unlink()
