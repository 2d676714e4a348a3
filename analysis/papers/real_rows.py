"""Rows of the papers' tables that were measured with the papers' own models: which imported scores are of which row.

Imported scores name a row of a table, or a backbone (as a table calls it, or by its checkpoint) and a method, as params.yaml or
papers/presets.yaml calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from ..report.imported_scores import as_scores
from ..study.column_metrics import fills_nothing
from .table_schema import Metric, Paper, Row

PRESETS = Path("papers/presets.yaml")
MARK = "real: "  # what begins `beside` of a cell that was measured with the paper's model


@dataclass(frozen=True)
class RealRow:
    """The imported scores of one row and of its baseline, in the form of `imported_scores.IMPORTED`; name: of the import."""

    name: str
    scores: pd.DataFrame
    baseline: pd.DataFrame

    def part(self, metric: Metric) -> tuple[Metric, pd.DataFrame, pd.DataFrame, str] | None:
        """(the metric as it is measured here, the row's and the baseline's scores, the estimator) for the first of
        `metric.real` that was measured, None if none was."""
        for measured, real in metric.real.items():
            own = self.scores[self.scores["metric"] == measured]
            if own.empty or fills_nothing(own["estimator"].iloc[0]):
                continue
            told = {
                "measured": measured,
                "factor": real.factor,
                "digits": real.digits,
                "proportion": real.proportion,
                "none": "",
            }
            estimator = f"{measured}, {own['estimator'].iloc[0]}"
            parts = (as_scores(table, measured) for table in (self.scores, self.baseline))
            if real.groups:
                parts = (table[table["main_category"].isin(real.groups)] for table in parts)
            as_measured = metric.model_copy(update=told | {"events": [], "estimator": estimator})
            events = [] if real.groups or real.every else metric.events
            return as_measured.model_copy(update={"events": events}), *parts, estimator
        return None


def real_rows(paper: Paper, table: str, row: Row, imported: dict[str, pd.DataFrame]) -> Iterator[RealRow]:
    """The imports that have scores of a row. Rows beside the paper's own setting have none."""
    if row.beside:
        return
    against = next((r for r in paper.tables[table].rows if r.row == row.against), None)
    for name, scores in imported.items():
        own = _of_row(scores, paper, table, row)
        base = _of_row(scores, paper, table, against) if against else own.iloc[:0]
        models = set(own["backbone"]) & {b for b, _ in preset_runs(paper.paper, table, row.row)} - {row.backbone}
        if len(models) > 1:  # the paper does not say which of them it is: a row for each
            for model in sorted(models):
                yield RealRow(f"{name}, {model}", own[own["backbone"] == model], base[base["backbone"] == model])
        elif len(own):
            yield RealRow(name, own, base)


def _of_row(scores: pd.DataFrame, paper: Paper, table: str, row: Row) -> pd.DataFrame:
    named = scores[scores["row"] == row.row]
    if len(named):
        return named
    model, runs = paper.backbones[row.backbone], preset_runs(paper.paper, table, row.row)
    names, methods = {row.backbone, model.model} - {None}, {row.method, *(m for _, m in runs)} - {None}
    named = scores["backbone"].isin(names) & scores["method"].isin(methods)
    for backbone, method in runs:
        named |= (scores["backbone"] == backbone) & (scores["method"] == method)
    own = scores[(scores["row"] == "") & named]
    return own if row.guidance_scale is None else own[own["guidance_scale"] == row.guidance_scale]


def several_settings(scores: pd.DataFrame) -> str:
    """Why scores are not of one setting, "" if they are."""
    for column in ("backbone", "method", "guidance_scale"):
        values = scores[column].drop_duplicates()
        if len(values) > 1:
            return f"videos of several settings, {column} {' and '.join(str(v) for v in values)}"
    return ""


def preset_runs(paper: str, table: str, row: str, path: Path = PRESETS) -> list[tuple[str, str]]:
    """(backbone, method) of a row, as the papers' presets call them; [] if they do not have it, several where the paper does not
    say which model it is."""
    found = _presets(path, path.stat().st_mtime_ns) if path.is_file() else {}
    rows = found.get("papers", {}).get(paper, {}).get("tables", {}).get(table, {}).get("rows", {})
    own = [said for label, said in rows.items() if (said.get("row") or label) == row]
    return list(dict.fromkeys((said.get("backbone", ""), said["method"]) for said in own))


@lru_cache(maxsize=2)
def _presets(path: Path, changed: int) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text()) or {}
