"""papers/presets.yaml: with which settings the rows of the papers' tables were made, and where each value stands.

A value that no available source gives is null, with a note; a study asks for it before it makes a video, be it of a backbone
or of a method. Where a value is `own`, the pipeline's or the checkpoint's own is meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML

PRESETS = Path(__file__).parents[2] / "papers/presets.yaml"
OWN = "own"
REQUIRED = ("checkpoint", "steps", "guidance_scale", "flow_shift", "scheduler", "frames", "width", "height", "fps", "fit", "dtype",
            "vae_dtype", "negative_prompt", "seeds")  # fmt: skip
OPTIONAL = ("true_cfg_scale", "sampling_type", "max_sequence_length", "num_frames")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Strict):
    """A setting, and where it stands: `published` are table, row and column of published.csv (of the paper `of`, if that is
    another one), `diffusers` is a pipeline and the argument of its call whose default it is, `source` says it in words."""

    value: Any
    source: str = ""
    published: tuple[str, str, str] | None = None
    of: str | None = None
    diffusers: tuple[str, str] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_a_source(self):
        known = self.source or self.published or self.diffusers
        if (self.value is None) == bool(known):
            raise ValueError(f"{self.value!r}: a value has a source, and what is unknown (null) has none")
        if self.value is None and not self.note:
            raise ValueError("what is unknown (null) has a note")
        return self

    @property
    def origin(self) -> str:
        """Where the value stands, in words."""
        if self.published:
            paper = f"{self.of}, " if self.of else ""
            return paper + ", ".join(self.published)
        return f"default of diffusers' {self.diffusers[0]}" if self.diffusers else self.source


class BackbonePreset(_Strict):
    """How a paper samples from a backbone; `unserved` says why methods cannot."""

    pipeline: str | None = None
    settings: dict[str, Value] = {}
    unserved: str = ""

    @model_validator(mode="after")
    def _complete(self):
        if not self.unserved:
            missing = [k for k in REQUIRED if k not in self.settings]
            unknown = [k for k in self.settings if k not in REQUIRED + OPTIONAL]
            if missing or unknown or not self.pipeline:
                raise ValueError(
                    f"lacks {missing or 'nothing'}, has unknown {unknown or 'nothing'}; pipeline {self.pipeline}"
                )
        return self


class MethodPreset(_Strict):
    """The settings of a method, as in params.yaml, and where each stands; those that are null have a note in `unknown`. All
    null with a `note`, where nobody can state them."""

    settings: list[dict] | None
    sources: dict[str, str] = {}
    published: dict[str, tuple[str, str, str]] = {}
    unknown: dict[str, str] = {}
    of: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_sources(self):
        given = {k: v for s in self.settings or [] for k, v in s.items() if k != "method"}
        known, said = {k for k, v in given.items() if v is not None}, {*self.sources, *self.published}
        if known != said or set(given) - known != set(self.unknown) or (self.settings is None and not self.note):
            raise ValueError(
                f"settings {sorted(known)} and sources {sorted(said)} differ, or those that are null and the notes in "
                f"unknown, {sorted(self.unknown)}, or no note"
            )
        return self


class RowPreset(_Strict):
    """A row: its backbone and method, and the row it is compared with.

    row: the row of the paper's table, where it is called otherwise here, as where a text does not say which of two models it
    is. guidance_scale: one of those that the table has. data_set: one of the table's, for a row that is of one alone.
    """

    backbone: str
    method: str
    against: str | None = None
    row: str = ""
    guidance_scale: float | None = None
    data_set: str | None = None


class TablePreset(_Strict):
    """A table: the benchmark, how many samples of it, and the rows that the paper prints.

    settings: what differs in this table from its backbones' own. data_sets: how many samples of each, where it has several; a
    study is of one. note: what the reader has to know of it.
    """

    benchmark: str
    samples: Value | None = None
    data_sets: dict[str, Value] = {}
    settings: dict[str, Value] = {}
    note: str = ""
    rows: dict[str, RowPreset]

    @model_validator(mode="after")
    def _one_of_two(self):
        if (self.samples is None) == (not self.data_sets):
            raise ValueError("a table has `samples`, or else `data_sets`")
        if unknown := [k for k in self.settings if k not in REQUIRED + OPTIONAL]:
            raise ValueError(f"unknown setting {unknown[0]!r}")
        scales = self.settings["guidance_scale"].value if "guidance_scale" in self.settings else [None]
        for label, row in self.rows.items():
            if row.guidance_scale not in scales or (row.data_set is not None) != bool(self.data_sets):
                raise ValueError(
                    f"{label}: guidance {row.guidance_scale} is not one of {scales}, or it lacks its data set"
                )
            if row.data_set not in (None, *self.data_sets):
                raise ValueError(f"{label}: no data set {row.data_set!r}; there are {', '.join(self.data_sets)}")
        return self

    def samples_of(self, data_set: str | None = None) -> Value:
        """How many samples the paper has, of one of its data sets (the first by default) where there are several."""
        return self.samples or self.data_sets[data_set or next(iter(self.data_sets))]


class PaperPresets(_Strict):
    """All that is known of a paper's runs. not_made: why tables of published.csv, or rows of one, have no presets."""

    code: str
    backbones: dict[str, BackbonePreset] = {}
    methods: dict[str, MethodPreset] = {}
    tables: dict[str, TablePreset] = {}
    not_made: dict[str, str | dict[str, str]] = {}

    @model_validator(mode="after")
    def _names_exist(self):
        for name, table in self.tables.items():
            for label, row in table.rows.items():
                if row.backbone not in self.backbones or row.method not in {"none", *self.methods}:
                    raise ValueError(f"{name}, {label}: unknown backbone {row.backbone!r} or method {row.method!r}")
                if row.against not in (None, *table.rows):
                    raise ValueError(f"{name}, {label}: no row {row.against!r} to compare with")
        return self


@dataclass(frozen=True)
class Preset:
    """The settings of one row. `steering` are the methods as params.yaml has them, [] for none, None where the paper does
    not give them; `note` says why. `unserved` says why the backbone cannot be run at all. `asked` are the settings of the
    method that have to be stated, with what is known of each. `guidance_scale` and `data_set` as in RowPreset."""

    paper: str
    row: str
    backbone: str
    pipeline: str | None
    settings: dict[str, Value]
    method: str
    steering: list[dict] | None
    against: str | None
    note: str = ""
    unserved: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    guidance_scale: float | None = None
    data_set: str | None = None

    @property
    def unstated(self) -> dict[str, str]:
        """{setting: note} of what no source gives."""
        return {k: v.note for k, v in self.settings.items() if v.value is None}

    def get(self, key: str, default=None):
        """The value of a setting; `default` where it is unknown, not there, or the pipeline's own."""
        found = self.settings.get(key)
        return default if found is None or found.value in (None, OWN) else found.value


@cache
def load_presets(path: Path = PRESETS) -> dict[str, PaperPresets]:
    """All papers' presets. Raises ValueError that lists what is wrong with the file."""
    found = YAML(typ="safe", pure=True).load(path.read_text())["papers"]
    try:
        return {name: PaperPresets.model_validate(paper) for name, paper in found.items()}
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None


def split_table(name: str) -> tuple[str, str]:
    """(paper, table) of `alignvid/2` or `alignvid/table2`. Raises ValueError for one without presets."""
    paper, _, table = name.partition("/")
    table = table if table.startswith(("table", "figure")) else f"table{table}"
    known = load_presets()
    if paper not in known or table not in known[paper].tables:
        why = known[paper].not_made.get(table) if paper in known else None
        said = f": {why}" if isinstance(why, str) else ""
        raise ValueError(f"no table {name!r} with presets{said}; there are {', '.join(tables_with_presets())}")
    return paper, table


def tables_with_presets() -> list[str]:
    """The tables that a study can be made of, such as `alignvid/2` and `dymos/figure5`."""
    return [f"{paper}/{t.removeprefix('table')}" for paper, found in load_presets().items() for t in found.tables]


def preset(paper: str, row: str, table: str | None = None) -> Preset | None:
    """The settings of a row of a paper's table, by default of its main one; None for a row that has no presets.

    A row of another table may be named by its backbone alone. Raises ValueError for an unknown paper.
    """
    if paper not in load_presets():
        raise ValueError(f"no presets of {paper!r}; there are {', '.join(load_presets())}")
    found = load_presets()[paper]
    own = found.tables.get(table or next(iter(found.tables), ""))
    if own is not None and row in own.rows:
        return _of_row(paper, row, own.rows[row], own)
    if row in found.backbones:
        return _of_row(paper, row, RowPreset(backbone=row, method="none"))
    return None


def _of_row(paper: str, name: str, row: RowPreset, table: TablePreset | None = None) -> Preset:
    found = load_presets()[paper]
    backbone = found.backbones[row.backbone]
    method = found.methods.get(row.method, MethodPreset(settings=[]))
    settings = backbone.settings | (table.settings if table and not backbone.unserved else {})
    return Preset(paper, name, row.backbone, backbone.pipeline, settings, row.method, method.settings, row.against,
                  method.note, backbone.unserved, method.unknown, row.guidance_scale, row.data_set)  # fmt: skip


def presets_of_table(name: str) -> dict[str, Preset]:
    """{row: its preset} of `alignvid/2`, in the paper's order."""
    paper, table = split_table(name)
    found = load_presets()[paper].tables[table]
    return {label: _of_row(paper, label, row, found) for label, row in found.rows.items()}
