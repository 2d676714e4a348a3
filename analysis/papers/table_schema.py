"""What `papers/tables/*.yaml` may say: the tables of a paper, their rows and metrics, and what stands in for what."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from ..study.parameters import Parameters


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Strict):
    """A published metric: the column of the scores that stands in for it, of which events, times `factor`, and how that
    is estimated; or `none`, why nothing does."""

    measured: str | None = None
    events: list[str] = []
    factor: float = 1
    digits: int = 2
    estimator: str = ""
    none: str = ""

    @model_validator(mode="after")
    def _one_of_two(self):
        if bool(self.measured) == bool(self.none) or bool(self.measured) != bool(self.estimator):
            raise ValueError("a metric has `measured` and `estimator`, or else `none`, the reason")
        return self


class Model(_Strict):
    """A paper's backbone: where its checkpoint is, and the backbone of params.yaml that stands in for it."""

    model: str | None = None
    stand_in: str | None = None
    image: bool = True
    note: str = ""


class Row(_Strict):
    """A row of a table: a backbone under a method of params.yaml.

    against: the row that is its baseline. guidance_scale: 1 if not given. sweep: the only one to take scores from, where
    several have the setting on other references. published, from: the row and table of published.csv, if named otherwise.
    real: the method's settings on the real backbone, where they are not those of params.yaml. why: why the row is not run,
    where that is not for want of its checkpoint.
    """

    row: str
    backbone: str
    method: str | None = None
    guidance_scale: float | None = None
    sweep: str | None = None
    against: str | None = None
    published: str | None = None
    table: str | None = Field(None, alias="from")
    real: list[dict] | None = None
    why: str = ""


class Table(_Strict):
    """A table: its rows and metrics; or `listed`, what it is when it compares no methods."""

    title: str
    about: str = ""
    listed: str = ""
    metrics: list[str] = []
    rows: list[Row] = []


class Paper(_Strict):
    """The tables of one paper, by their names in published.csv."""

    paper: str
    title: str
    metrics: dict[str, Metric]
    backbones: dict[str, Model]
    tables: dict[str, Table]

    @model_validator(mode="after")
    def _names_exist(self):
        for name, table in self.tables.items():
            rows = [r.row for r in table.rows]
            if bool(table.listed) == bool(table.rows) or len(set(rows)) < len(rows):
                raise ValueError(f"{name} needs rows with names of their own, or else `listed`")
            if unknown := [m for m in table.metrics if m not in self.metrics]:
                raise ValueError(f"{name}: unknown metric {unknown[0]!r}")
            for row in table.rows:
                if row.backbone not in self.backbones or row.against not in (None, *rows):
                    raise ValueError(f"{name}, {row.row}: unknown backbone {row.backbone!r} or row {row.against!r}")
        return self


def load_paper(path: Path, parameters: Parameters) -> Paper:
    """Read a table specification. Raises ValueError for unknown keys, and for methods, sweeps or backbones that
    params.yaml does not have."""
    try:
        paper = Paper.model_validate(YAML(typ="safe", pure=True).load(path.read_text()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None
    named = [("backbones", m.stand_in) for m in paper.backbones.values()]
    for row in (r for t in paper.tables.values() for r in t.rows):
        named += [("methods", row.method), ("sweeps", row.sweep)]
    for section, name in named:
        if name is not None and name not in getattr(parameters, section):
            raise ValueError(f"{path}: {name!r} is not in {section} of params.yaml")
    return paper
