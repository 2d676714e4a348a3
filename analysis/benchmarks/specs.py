"""What is known of each benchmark beside its data: benchmarks/NAME.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[2] / "benchmarks"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Download(_Strict):
    """What to get, where it is, and how to have it where the reader looks; FOLDER is the benchmark's."""

    what: str
    where: str
    how: str


class Spec(_Strict):
    """A benchmark in words.

    reads: the files that the reader wants. samples, groups: how many the benchmark has, in all and by main category. questions:
    whether each sample must have some. score: how answers are counted. video_name: what its own scripts want videos to be called.
    traps: what went wrong for others.
    """

    title: str
    version: str
    reads: str
    download: list[Download]
    licence: str
    questions: Literal["required", "none"]
    score: Literal["macro", "all right", "none"]
    video_name: str
    samples: int | None = None
    groups: dict[str, int] = {}
    traps: list[str] = []


@cache
def load_spec(name: str) -> Spec:
    """The specification of a benchmark. Raises ValueError for an unknown name or a file that breaks the schema."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(spec_names())}")
    try:
        return Spec.model_validate(YAML(typ="safe", pure=True).load(path.read_text()))
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from None


def spec_names() -> list[str]:
    """Names of the benchmarks that have a spec, sorted."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))
