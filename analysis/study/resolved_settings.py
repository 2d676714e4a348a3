"""Resolved settings of params.yaml, in files that the pipeline's stages depend on: per lineage, per sweep, and all of them.

A stage that named the whole of `methods` as its parameters would run again for every method that is added, and DVC would
copy all of it into dvc.lock for every such stage.
"""

from __future__ import annotations

import json
from pathlib import Path

from .files import write_atomically
from .parameters import Parameters, load_parameters
from .results_layout import lineage_of, place_of

SIZES = {"small": False, "full": True}  # everything that notebooks and tables may read, per size of the run


def resolve(parameters: Parameters, sweep: str) -> dict:
    """The grid of a sweep, and its backbone and methods spelled out, as plain JSON types."""
    grid = parameters.sweeps[sweep]
    own = {} if grid.benchmark is None else {"benchmark": parameters.benchmark_of(sweep).model_dump(mode="json")}
    return own | {
        "grid": grid.model_dump(mode="json", exclude={"full"}),
        "backbone": parameters.backbones[grid.backbone].model_dump(mode="json"),
        "methods": {name: parameters.methods[name] for name in grid.methods},
    }


def write_settings(params: Path | str, folder: Path) -> None:
    """Write JSON files into `folder`: `<lineage>.json` with the sweeps of a lineage, `sweeps/<lineage>/<study>.json` with one
    of them, and `small.json` and `full.json` with benchmark, backbones, methods and all sweeps of that size. Raises
    ValueError for a lineage of one of those names."""
    small, contents = load_parameters(params), {}
    for name, sweep in small.sweeps.items():
        contents.setdefault(lineage_of(sweep.backbone), {})[name] = resolve(small, name)
    if taken := contents.keys() & SIZES.keys():
        raise ValueError(f"no backbone's name may begin with {taken.pop()!r}: that file of {folder} is for all sweeps")
    for size, full in SIZES.items():
        contents[size] = load_parameters(params, full=full).model_dump(
            mode="json",
            include={"benchmark", "backbones", "methods", "sweeps"},
            exclude={"sweeps": {"__all__": {"full"}}},
        )
    contents |= {f"sweeps/{place_of(small, name)}": resolve(small, name) for name in small.sweeps}
    for name, content in contents.items():
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(folder / f"{name}.json", lambda path, text=text: path.write_text(text))


def write_keys(parameters: Parameters, folder: Path) -> None:
    """Write `<folder>/<lineage>/<study>` per sweep: the key of each of its cells, in order, which say what determines the
    videos. Files of sweeps that are no more are removed."""
    from .cells import expand  # loads torch

    written = {folder / place_of(parameters, name): name for name in parameters.sweeps}
    for file, name in written.items():
        text = "".join(f"{cell.key}\n" for cell in expand(parameters, name))
        write_atomically(file, lambda path, text=text: path.write_text(text))
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        if file not in written:
            file.unlink()
