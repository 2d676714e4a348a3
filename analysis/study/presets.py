"""papers/presets.yaml: with which settings the rows of the papers' main tables were made, and where each value stands.

A value that no available source gives is null, with a note; a study asks for it before it makes a video. Where a value is
`own`, the pipeline's or the checkpoint's own is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """The settings of a method, as in params.yaml, and where each stands; null with a note if they are not known."""

    settings: list[dict] | None
    sources: dict[str, str] = {}
    published: dict[str, tuple[str, str, str]] = {}
    of: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_sources(self):
        given = {k for s in self.settings or [] for k in s if k != "method"}
        if given != {*self.sources, *self.published} or (self.settings is None and not self.note):
            raise ValueError(
                f"settings {sorted(given)} and sources {sorted({*self.sources, *self.published})} differ, or no note"
            )
        return self


class RowPreset(_Strict):
    """A row: its backbone and method, and the row it is compared with."""

    backbone: str
    method: str
    against: str | None = None


class TablePreset(_Strict):
    """A table: the benchmark, how many samples of it, and the rows that the paper prints."""

    benchmark: str
    samples: Value
    rows: dict[str, RowPreset]


class PaperPresets(_Strict):
    """All that is known of a paper's runs."""

    code: str
    backbones: dict[str, BackbonePreset]
    methods: dict[str, MethodPreset]
    tables: dict[str, TablePreset]

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
    not give them; `note` says why. `unserved` says why the backbone cannot be run at all."""

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
        allowed = [f"{p}/{t.removeprefix('table')}" for p, found in known.items() for t in found.tables]
        raise ValueError(f"no table {name!r} with presets; there are {', '.join(allowed)}")
    return paper, table


def preset(paper: str, row: str, table: str | None = None) -> Preset | None:
    """The settings of a row of a paper's table, by default of its main one; None for a row that has no presets.

    A row of another table may be named by its backbone alone. Raises ValueError for an unknown paper.
    """
    if paper not in load_presets():
        raise ValueError(f"no presets of {paper!r}; there are {', '.join(load_presets())}")
    found = load_presets()[paper]
    tables = found.tables.values() if table is None else [found.tables[table]] if table in found.tables else []
    for rows in (t.rows for t in tables):
        if row in rows:
            return _of_row(paper, row, rows[row])
    if row in found.backbones:
        return _of_row(paper, row, RowPreset(backbone=row, method="none"))
    return None


def _of_row(paper: str, name: str, row: RowPreset) -> Preset:
    found = load_presets()[paper]
    backbone = found.backbones[row.backbone]
    method = found.methods.get(row.method, MethodPreset(settings=[]))
    return Preset(paper, name, row.backbone, backbone.pipeline, backbone.settings, row.method, method.settings, row.against,
                  method.note, backbone.unserved)  # fmt: skip


def presets_of_table(name: str) -> dict[str, Preset]:
    """{row: its preset} of `alignvid/2`, in the paper's order."""
    paper, table = split_table(name)
    rows = load_presets()[paper].tables[table].rows
    return {label: _of_row(paper, label, row) for label, row in rows.items()}
