"""The papers' tables for readers: Markdown pages, and how many cells were measured and agree."""

from __future__ import annotations

import pandas as pd

from ..report.imported_scores import QUESTIONS, scorer_of
from ..scorers.judge_lines import judge_lines
from .real_rows import MARK
from .table_schema import Metric, Paper, Table

AGREEMENT = {"supported": "agrees", "contradicted": "disagrees", "inconclusive": "undecided"}
SETTING = ["measured_on", "method", "guidance_scale", "beside"]
# What makes two cells of a table one comparison: the same videos, change and published sign.
KNOWN = ["paper", "table", "metric", "measured_on", "method", "guidance_scale", "change", "change_low", "change_high",
         "direction"]  # fmt: skip
HOW_TO_READ = """\
Every metric has its measured value, with a 95 % interval over n prompts (x seeds, if there are several), in a column
that names its estimator (the videos are counted where prompts have different numbers of seeds), the change against the
row's baseline on the same prompts and noise, and what the paper published in a column of its own. A row and its
baseline are measured on all samples that the two have; rows of one table may have different ones. Estimators, models
and samples differ: values must not be compared, directions may. A direction *agrees* or *disagrees* if the interval of
the change lies on one side of zero and its p, corrected by Holm over the cells of the table that have a published
direction, is below 5 % (a row that repeats the videos of another is one test with it); else it is *undecided*, and the
cell says how many prompts changed at all and, where it is known, the smallest change that would have been seen. Where a
paper's text states a direction, that is compared, else the sign of the published difference; a change that it calls
*comparable* is not. Published values that are not the paper's own carry their grade: *secondary* ones are quoted from
notes about the paper and are provisional. A command of `methods generate` makes one video; a cell needs the benchmark's
prompts and a judge of photographs as well, as the oracle reads the drawn world alone. IMAGE, PROMPT and VIDEO are
yours; CLIP_FOLDER is a whole CLIP model whose vision half is the pipeline's image encoder. `study new` begins a study
of the table's rows on the papers' own models; its scores, imported, stand below the rows that stand in for them, each
with the estimator that made it."""


def markdown(paper: Paper, cells: pd.DataFrame) -> str:
    """The paper's tables as Markdown: for every metric what was measured here, the change, and what was published."""
    parts = [f"# The tables of {paper.title}, rebuilt", HOW_TO_READ, "## What stands in for what", _stand_ins(paper)]
    for name, table in paper.tables.items():
        parts.append(f"## {name.replace('table', 'Table ').replace('figure', 'Figure ')}: {table.title}")
        parts += [text.strip() for text in (table.about, table.listed) if text]
        if not table.rows:
            continue
        mine = cells[cells["table"] == name]
        parts += [as_markdown(wide(paper, table, mine)), "\n".join(_remarks(paper, table, mine))]
    return "\n\n".join(p for p in parts if p) + "\n"


def _stand_ins(paper: Paper) -> str:
    """A line per metric: what stands in for it and what that sees, or why nothing does."""
    lines = []
    for name, metric in paper.metrics.items():
        said = f"no stand-in; {metric.none}" if metric.none else f"{metric.estimator}, which sees {metric.sees}"
        lines.append(f"- {name}: {said}{'; ' * bool(metric.remark)}{metric.remark}.")
    return "\n".join(lines)


def _remarks(paper: Paper, table: Table, cells: pd.DataFrame) -> list[str]:
    """Lines below a table: what stands in for which backbone, and why cells have no number."""
    lines = [f"- {m}: no stand-in; {paper.metrics[m].none}." for m in table.metrics if paper.metrics[m].none]
    small = cells[~cells["beside"].str.startswith(MARK)]
    for name in dict.fromkeys(cells["backbone"]):
        if paper.backbones[name].remark and (small.loc[small["backbone"] == name, "measured_on"] != "").any():
            lines.append(f"- {name}: {paper.backbones[name].remark.strip()}.")
    lines += [f"- {line}" for line in judge_lines(_judged(cells))]
    lines += [
        f"- {again}: the same videos as {first}; what is compared counts once."
        for again, first in repeated(cells).items()
    ]
    rest = cells[cells["measured"].isin(["not run", "incomplete"])]
    for (row, state, reason, run), part in rest.groupby(["row", "measured", "reason", "command"], sort=False):
        whole = len(part) == (cells["row"] == row).sum()
        of = "" if whole else f", {', '.join(part['metric'])}"
        lines.append(f"- {row}{of}: {state}; {reason}." + (f" `{run}`" if run else ""))
    return lines


def _judged(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(scorer, version, metric) of the judges of the table's cells: of imported answers to questions. The oracle of the
    small models' rows makes no error that a calibration would find."""
    real = cells[cells["beside"].str.startswith(MARK) & (cells["estimator"] != "")]
    parts = [estimator.partition(", ") for estimator in real["estimator"].unique()]
    return [(*scorer_of(by), metric) for metric, _, by in parts if metric in QUESTIONS]


def repeated(cells: pd.DataFrame) -> dict[str, str]:
    """Rows of one table whose videos are those of an earlier row, as where one model stands in for two: {row: the earlier}."""
    run = cells[(cells["measured_on"] != "") & (cells["method"] != "")].drop_duplicates("row")
    first = run.drop_duplicates(SETTING).set_index(SETTING)["row"]
    named = {r["row"]: first[tuple(r[k] for k in SETTING)] for _, r in run.iterrows()}
    return {row: earlier for row, earlier in named.items() if row != earlier}


def wide(paper: Paper, table: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """A table as text: a row per row, and per metric its measured value, its change and its published value, each in a
    column of its own that names the estimator. Units stand in the column's name, or in the cells where they differ."""
    columns = {"row": list(dict.fromkeys(cells["row"]))}
    columns["measured on"] = [cells.loc[cells["row"] == r, "measured_on"].iloc[0] or "not run" for r in columns["row"]]
    for m in table.metrics:
        mine = cells[cells["metric"] == m].set_index("row").loc[columns["row"]]
        metric = paper.metrics[m]
        if metric.measured or pd.to_numeric(mine["measured"], errors="coerce").notna().any():
            words = metric.estimator or "by the estimator that the row names"
            columns[f"{m}: measured, {words}"] = [_value(c, metric) for c in mine.itertuples()]
            columns[f"{m}: change and its direction"] = [_change(c, metric) for c in mine.itertuples()]
        units = sorted(set(mine["unit"]) - {""})
        head = f"{m}: published" + (f", {units[0]}" if len(units) == 1 else "")
        columns[head] = [_published(c, len(units) > 1) for c in mine.itertuples()]
    return pd.DataFrame(columns)


def _value(cell, metric: Metric) -> str:
    if isinstance(cell.measured, str) or pd.isna(cell.measured):
        return str(cell.measured)
    count = ""
    if pd.notna(cell.n):
        count = f"; n {int(cell.n)}"
        if cell.videos > cell.n:
            whole = cell.videos == cell.n * cell.seeds
            count += f" x {int(cell.seeds)} seeds" if whole else f", {int(cell.videos)} videos"
    digits, real = _digits(cell, metric), cell.beside.startswith(MARK)
    by = f", by {cell.estimator}" if real else ""  # the column names the estimator of the small models' rows
    return f"{cell.measured:.{digits}f} ({_ends(cell.low, cell.high, digits)}{count}){by}"


def _digits(cell, metric: Metric) -> int:
    """The decimals of a cell: those of its own estimator, where it is not the column's."""
    if not cell.beside.startswith(MARK):
        return metric.digits
    return metric.real[cell.estimator.partition(",")[0]].digits


def _change(cell, metric: Metric) -> str:
    if pd.isna(cell.change):
        return ""
    digits = _digits(cell, metric)
    ends = _ends(cell.change_low, cell.change_high, digits, "+")
    text = f"{cell.change:+.{digits}f} ({ends})" + (f", {cell.direction}" if cell.direction else "")
    if cell.direction != AGREEMENT["inconclusive"]:
        return text
    said = [f"{int(cell.changed)} of {int(cell.n)} prompts changed"] if pd.notna(cell.changed) else []
    said += [f"from {cell.detectable:.{digits}f} it would have been seen"] if pd.notna(cell.detectable) else []
    return "; ".join([text, *said])


def _ends(low: float, high: float, digits: int, sign: str = "") -> str:
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def _published(cell, with_unit: bool) -> str:
    value = "" if cell.published == "not obtained" and cell.stated else cell.published
    if value and with_unit and cell.unit:
        value = f"{value} {cell.unit}"
    if value and cell.grade not in ("", "paper"):
        value = f"{value} ({cell.grade})"
    return "; ".join(filter(None, [value, cell.stated]))


def as_markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(x).replace("|", "\\|") for x in line) + " |" for line in lines)


def count(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells each paper has, and in how many something was published, measured, and its direction compared. Rows
    beside the papers' own settings are not counted, nor those of the papers' own models, and a comparison that stands in a table
    twice, because one model stands in for two, counts once."""
    own = cells[cells["beside"] == ""]
    again = own[KNOWN].duplicated() & (own["direction"] != "")
    marks = pd.DataFrame({"paper": own["paper"], "cells": 1})
    marks["published"] = (own["published"] != "not obtained") | (own["stated"] != "")
    marks["measured"] = pd.to_numeric(own["measured"], errors="coerce").notna()
    for word in AGREEMENT.values():
        marks[word] = (own["direction"] == word) & ~again
    return marks.groupby("paper", sort=False).sum().reset_index()


def overview(papers: dict[str, Paper], cells: pd.DataFrame) -> pd.DataFrame:
    """A row per table that has cells: paper, table, what it shows, and the numbers of `count`."""
    rows = []
    for paper in papers.values():
        for name, table in paper.tables.items():
            mine = cells[(cells["paper"] == paper.paper) & (cells["table"] == name)]
            if len(mine):
                numbers = count(mine).drop(columns="paper").iloc[0].to_dict()
                rows.append({"paper": paper.title, "table": name, "what": table.title} | numbers)
    return pd.DataFrame(rows)


def links(papers: dict[str, Paper]) -> str:
    """Markdown that names the files with the long tables, which lie beside the executed notebook."""
    files = ", ".join(f"[{paper.title}]({name}.md)" for name, paper in papers.items())
    listed = sum(bool(table.listed) for paper in papers.values() for table in paper.tables.values())
    return (
        f"The tables in full, with every row, published value and reason why a cell is empty: {files}; all cells as one file: "
        f"[paper_tables.csv](paper_tables.csv). {listed} tables compare no methods and are only listed there."
    )
