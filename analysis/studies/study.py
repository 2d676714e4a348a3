"""A study: a folder with a params.yaml, and study.yaml, which says which sweep and method a row of a paper's table is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML, YAMLError

from ..study.parameters import Parameters, load_parameters

FOLDER, PARAMETERS, ROWS = Path("studies"), "params.yaml", "study.yaml"


class RowOf(BaseModel):
    """Which videos a row of the table is made of, of one guidance scale where the sweep has several; `missing` says why there
    are none."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sweep: str | None = None
    method: str | None = None
    against: str | None = None
    guidance_scale: float | None = None
    missing: str = ""


class StudyFile(BaseModel):
    """study.yaml. table: such as alignvid/2. samples: how many the paper has. backbones: as the paper calls those of
    params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: str
    samples: int | None = None
    backbones: dict[str, str] = {}
    rows: dict[str, RowOf]


@dataclass(frozen=True)
class Study:
    """A folder, absolute, and what its study.yaml says; None in the repository's root, which is no table's. `command` is how it
    is named on the command line."""

    folder: Path
    of_table: StudyFile | None
    command: str = "."

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def parameters_file(self) -> Path:
        """Its params.yaml, absolute."""
        return self.folder / PARAMETERS

    @contextmanager
    def inside(self) -> Iterator[Path]:
        """Work in the study's folder: paths of its params.yaml are relative to it, and its runs/ and results/ are there."""
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            yield self.folder
        finally:
            os.chdir(before)

    def raw(self) -> dict:
        """params.yaml as it stands, with null for what is not stated yet. Raises ValueError if it is no YAML mapping."""
        try:
            found = YAML(typ="safe", pure=True).load(self.parameters_file.read_text())
        except YAMLError as error:
            raise ValueError(f"{self.parameters_file} is not readable: {' '.join(str(error).split())}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.parameters_file} holds no settings")
        return found

    def parameters(self) -> Parameters:
        """The parameters; call it inside. Raises ValueError that names all that has to be stated, or is wrong."""
        if missing := unstated(self.raw()):
            raise ValueError(
                f"{len(missing)} settings of the study {self.name} have to be stated: {', '.join(missing)}. "
                f"`python -m analysis study check {self.command}` says what is known of each"
            )
        return load_parameters(self.parameters_file)


def find_study(name: str) -> Study:
    """The study of a name in studies/, or of a folder with a params.yaml (`.` for the repository's own).

    Raises ValueError for a name that is neither, and for a study.yaml that is not one.
    """
    places = [Path(name)] if name in (".", "..") or "/" in name else [FOLDER / name, Path(name)]
    for place in places:
        if (place / PARAMETERS).is_file():
            folder = place.absolute().resolve()
            return Study(folder, _of_table(folder / ROWS), name)
    known = sorted(p.parent.name for p in FOLDER.glob(f"*/{PARAMETERS}"))
    raise ValueError(
        f"no study {name!r}: there are {', '.join(known) or 'none in studies/'}, and any folder with a {PARAMETERS}"
    )


def _of_table(file: Path) -> StudyFile | None:
    if not file.is_file():
        return None
    try:
        return StudyFile.model_validate(YAML(typ="safe", pure=True).load(file.read_text()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{file}: {problems}") from None


def unstated(found: dict) -> list[str]:
    """Names of the settings of backbones, sweeps and methods that are null in a params.yaml, such as
    `backbones.framepack.checkpoint` and `methods.alignvid-energy.energy`."""
    of_methods = [
        f"methods.{name}.{key}"
        for name, parts in (found.get("methods") or {}).items()
        for part in parts or []
        for key, value in part.items()
        if value is None
    ]
    return [
        ".".join([section, *path])
        for section in ("benchmark", "backbones", "sweeps")
        for path in _nulls(found.get(section))
    ] + of_methods


# These may be null: then there is none, and the schema says so.
MAY_BE_NULL = ("revision", "delta", "max_sequence_length", "record", "full", "benchmark")


def _nulls(value, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if value is None and path and path[-1] not in MAY_BE_NULL:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nulls(inner, (*path, str(key)))
