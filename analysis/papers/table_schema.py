"""What `papers/tables/*.yaml` and `papers/stand_ins.yaml` may say: a paper's tables, and what stands in for its metrics."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from ..study.parameters import Parameters

STAND_INS = "stand_ins.yaml"  # in the folder above the tables


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """A column of the scores, times `factor`, how it is estimated, and what it sees and does not see."""

    measured: str
    estimator: str
    sees: str
    factor: float = 1
    digits: int = 2


class Real(_Strict):
    """A metric of `python -m analysis evaluate` that fills a paper's column with videos of the paper's own models: times `factor`,
    of which main categories of the benchmark (`groups`; by default the metric's `events`, or all samples with `every`), and whether
    every video has 0 or 1."""

    factor: float = 1
    digits: int = 2
    groups: list[str] = []
    every: bool = False
    proportion: bool = False


class Metric(_Strict):
    """A published metric: the column of the scores that stands in for it, of which events; or `none`, why nothing does.

    remark: what the paper's metric sees, where that is not what the column sees. real: by name, what `evaluate` measures in its
    place on videos of the paper's own models; the first that there is counts. proportion: as the column is declared by default.
    """

    measured: str | None = None
    events: list[str] = []
    factor: float = 1
    digits: int = 2
    estimator: str = ""
    sees: str = ""
    remark: str = ""
    none: str = ""
    real: dict[str, Real] = {}
    proportion: bool | None = None

    @model_validator(mode="after")
    def _one_of_two(self):
        if bool(self.measured) == bool(self.none) or bool(self.measured) != bool(self.estimator):
            raise ValueError("a metric has `measured` and `estimator`, or else `none`, the reason")
        return self


class Model(_Strict):
    """A paper's backbone: where its checkpoint is, and the backbone of params.yaml that stands in for it.

    guidance_scale: that of the stand-in's videos. settings: steps and guidance of the paper's own runs, as the table, row
    and column of published.csv that have them. options: other arguments of the pipeline. note: why it is not run, or what
    its checkpoint is. remark: how the stand-in differs.
    """

    model: str | None = None
    stand_in: str | None = None
    image: bool = True
    guidance_scale: float = 1.0
    settings: dict[str, tuple[str, str, str]] = {}
    options: dict[str, str] = {}
    note: str = ""
    remark: str = ""


class Row(_Strict):
    """A row of a table: a backbone under a method of params.yaml.

    against: the row that is its baseline. guidance_scale: the backbone's if not given. sweep: the only one to take scores
    from, where several have the setting on other references. published, from: the row and table of published.csv, if named
    otherwise. real: the method's settings on the real backbone, where they are not those of params.yaml. why: why the row is
    not run, where that is not for want of its checkpoint. cost: the claim of claims.yaml that times the row's setting.
    beside: the row shows another setting than the paper's, is marked as such and is not counted among its comparisons.
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
    cost: str | None = None
    beside: bool = False

    def scale(self, model: Model) -> float:
        """The guidance scale of the row's videos on its stand-in."""
        return model.guidance_scale if self.guidance_scale is None else self.guidance_scale


class Table(_Strict):
    """A table: its rows and metrics; or `listed`, what it is when it compares no methods.

    unguided: every row with a method is shown once more, marked, as it is without guidance.
    """

    title: str
    about: str = ""
    listed: str = ""
    unguided: bool = False
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


def load_stand_ins(path: Path) -> dict[str, dict[str, Metric]]:
    """What stands in for the metrics of each paper. Raises ValueError for unknown keys and columns."""
    found = YAML(typ="safe", pure=True).load(path.read_text())
    try:
        columns = {name: Column.model_validate(c).model_dump() for name, c in found["columns"].items()}
        return {paper: {m: _metric(v, columns) for m, v in own.items()} for paper, own in found["metrics"].items()}
    except (ValidationError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None


def _metric(given: dict, columns: dict[str, dict]) -> Metric:
    column = columns[given["use"]] if "use" in given else {}
    return Metric.model_validate(column | {k: v for k, v in given.items() if k != "use"})


def load_paper(path: Path, parameters: Parameters, stand_ins: Path | None = None) -> Paper:
    """Read a table specification and what stands in for its metrics (`stand_ins.yaml` above the tables' folder).

    Raises ValueError for unknown keys, and for methods, sweeps or backbones that params.yaml does not have.
    """
    given = YAML(typ="safe", pure=True).load(path.read_text())
    metrics = load_stand_ins(stand_ins or path.parent.parent / STAND_INS)
    try:
        paper = Paper.model_validate(given | {"metrics": metrics[given["paper"]]})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None
    named = [("backbones", m.stand_in) for m in paper.backbones.values()]
    for row in (r for t in paper.tables.values() for r in t.rows):
        named += [("methods", row.method), ("sweeps", row.sweep)]
    for section, name in named:
        if name is not None and name not in getattr(parameters, section):
            raise ValueError(f"{path}: {name!r} is not in {section} of params.yaml")
    tables = {name: _with_unguided(table, parameters) for name, table in paper.tables.items()}
    return paper.model_copy(update={"tables": tables})


def _with_unguided(table: Table, parameters: Parameters) -> Table:
    """The table with a second, marked row after each that has a method, at guidance scale 1, where it asks for that."""
    if not table.unguided:
        return table
    names = {r.row: _unguided_name(r, parameters) for r in table.rows if r.method}
    rows = []
    for row in table.rows:
        rows.append(row)
        if row.method:
            change = {"row": names[row.row], "guidance_scale": 1.0, "published": row.published or row.row}
            change |= {"against": names.get(row.against), "beside": True}
            rows.append(row.model_copy(update=change))
    return table.model_copy(update={"rows": rows})


def _unguided_name(row: Row, parameters: Parameters) -> str:
    own = any(part["method"] == "lowpass" for part in parameters.methods[row.method])
    return f"{row.row}, without guidance" + (" (a form of this repository's own)" if own else "")
