"""The papers' tables, rebuilt: what was measured here beside what was published, and whether the directions agree.

`papers/tables/*.yaml` says of every table which rows it has, which setting of params.yaml each row is, and which measured
column may stand in for a published metric. Published numbers come from papers/published.csv alone. Estimators differ, so
values are never compared: compared is the sign of the change against the row's baseline.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ..report.against_unsteered import on_common_samples
from ..report.score_tables import gather
from ..study.files import write_atomically, write_table
from ..study.parameters import Parameters
from ..study.score_columns import is_proportion
from ..study.significance import decide, mean_interval, paired_difference
from .table_schema import Metric, Model, Paper, Row, Table, load_paper

SPECS, PUBLISHED = Path("papers/tables"), Path("papers/published.csv")
AGREEMENT = {"supported": "agrees", "contradicted": "disagrees", "inconclusive": "undecided"}
SIGNS = {"increase": 1, "decrease": -1}  # published where only the direction is stated
PAIR = ["sample", "seed"]
COLUMNS = ["paper", "table", "row", "backbone", "metric", "published", "published_change", "unit", "grade", "source",
           "method", "guidance_scale", "measured_on", "estimator", "measured", "low", "high", "n", "seeds", "change",
           "change_low", "change_high", "direction", "reason", "command"]  # fmt: skip


def load_published(path: Path = PUBLISHED) -> dict[tuple[str, str, str, str], dict]:
    """Published values with their unit, grade and source by (paper, table, row, column); values are text."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {(r["paper"], r["table"], r["row"], r["column"]): r for r in table.to_dict("records")}


def load_scores(results: Path, parameters: Parameters) -> pd.DataFrame:
    """The scores of all sweeps in `results`, with their own prompts and unblurred references. Raises ValueError when there
    are none."""
    scores = gather(parameters, results)
    return scores[(scores["prompts"] == "own") & (scores["blur"] == 0)]


def sweeps_of(row: Row, model: Model, parameters: Parameters) -> list[str]:
    """The sweeps of params.yaml that make the videos of a row, on samples' own references unless the row names one."""
    scale = row.guidance_scale or 1.0
    return [
        name
        for name, s in parameters.sweeps.items()
        if (row.sweep == name if row.sweep else s.reference == "own" and s.prompts == "own")
        and (s.backbone == model.stand_in and row.method in s.methods and scale in s.guidance_scale and 0.0 in s.blur)
    ]


def pick(scores: pd.DataFrame, row: Row, model: Model, parameters: Parameters) -> pd.DataFrame:
    """The scores of a row, one per sample and seed; empty where there are none. A setting that two sweeps have is the
    same video, so the first is taken."""
    part = scores[scores["sweep"].isin(sweeps_of(row, model, parameters)) & (scores["method"] == row.method)]
    return part[part["guidance_scale"] == (row.guidance_scale or 1.0)].drop_duplicates(PAIR)


def command(row: Row, model: Model, parameters: Parameters) -> str:
    """What makes a video of this row on the paper's backbone, with `methods` alone; "" where nothing here can."""
    settings = row.real if row.real is not None else parameters.methods.get(row.method)
    if model.model is None or settings is None:
        return ""
    words = ["python -m methods generate", f"--model {model.model}"]
    words += ["--image IMAGE.png"] if model.image else []
    words += ["--prompt PROMPT"] + ([f"--guidance {row.guidance_scale}"] if row.guidance_scale else [])
    words += [f"--method '{json.dumps(s)}'" for s in settings]
    return " ".join([*words, "-o VIDEO.mp4"])


def build(paper: Paper, scores: pd.DataFrame, published: dict, parameters: Parameters) -> pd.DataFrame:
    """A row per cell of the paper's tables: published value, measured value with its interval, and their directions.

    `measured` is a number, or "not run", "no stand-in" or "incomplete", and then `reason` says why. `published` is
    "not obtained" where no value is known. All measured rows of a table are on the same samples and seeds.
    """
    cells = []
    for name, table in paper.tables.items():
        rows = {r.row: r for r in table.rows}
        parts = {r.row: pick(scores, r, paper.backbones[r.backbone], parameters) for r in table.rows}
        parts = on_common_samples(parts)
        for r in table.rows:
            for m in table.metrics:
                value, base = (quoted(published, paper.paper, name, x, m) for x in (r, rows.get(r.against)))
                change, sign = published_change(value.get("value"), base.get("value"))
                found = measure(parts[r.row], parts.get(r.against), paper.metrics[m])
                found |= explain(found["measured"], r, paper.backbones[r.backbone], paper.metrics[m], parameters)
                if sign and "change" in found:
                    found["direction"] = direction(found, sign)
                cells.append(
                    {"paper": paper.paper, "table": name, "row": r.row, "backbone": r.backbone, "metric": m,
                     "published": value.get("value", "not obtained"), "published_change": change,
                     "unit": value.get("unit", ""), "grade": value.get("grade", ""), "source": value.get("source", ""),
                     "method": r.method or "", "guidance_scale": r.guidance_scale or 1.0,
                     "measured_on": paper.backbones[r.backbone].stand_in if len(parts[r.row]) else "",
                     "estimator": paper.metrics[m].estimator, "direction": ""} | found
                )  # fmt: skip
    return pd.DataFrame(cells).reindex(columns=COLUMNS)


def direction(found: dict, sign: int) -> str:
    """Whether a measured change has the published sign: "agrees" or "disagrees" if its interval lies on one side of 0,
    else "undecided"; always so below six prompts, where no paired test can reach 5 % (2 / 2**5 is 0.06)."""
    if found["n"] < 6:
        return "undecided"
    return AGREEMENT[decide(found["change_low"], found["change_high"], found["p"], sign)]


def measure(part: pd.DataFrame, baseline: pd.DataFrame | None, metric: Metric) -> dict:
    """Mean, interval over prompts and change against the baseline of one cell, in the metric's unit and digits."""
    if metric.events:
        part = part[part["main_category"].isin(metric.events)]
        baseline = baseline[baseline["main_category"].isin(metric.events)] if baseline is not None else None
    if part.empty:
        return {"measured": "not run"}
    if metric.none:
        return {"measured": "no stand-in"}
    if missing := int(part[metric.measured].isna().sum()):
        return {"measured": "incomplete", "reason": f"{missing} of {len(part)} videos have no {metric.measured}"}
    keys = ["measured", "low", "high"]
    out, tested = (
        dict(
            zip(
                keys,
                mean_interval(part[metric.measured], part["sample"], proportion=is_proportion(metric.measured)),
                strict=True,
            )
        ),
        {},
    )
    if baseline is not None and len(baseline) and not baseline[metric.measured].isna().any():
        d = paired_difference(part, baseline, metric.measured)
        out |= {"change": d["difference"], "change_low": d["low"], "change_high": d["high"]}
        tested = {k: d[k] for k in ("p", "changed", "detectable")}
    out = {k: round(metric.factor * v, metric.digits) + 0.0 for k, v in out.items()}  # no -0.0
    return out | {"n": part["sample"].nunique(), "seeds": part["seed"].nunique()} | tested


def explain(state, row: Row, model: Model, metric: Metric, parameters: Parameters) -> dict:
    """Why a cell has no number, and the command that would make the row's videos: here if a sweep has the row's setting
    and was not run, else on the paper's backbone."""
    out = {"command": command(row, model, parameters)}
    if state == "no stand-in":
        out["reason"] = metric.none
    if state != "not run":
        return out
    if todo := sweeps_of(row, model, parameters):
        scale = row.guidance_scale or 1.0
        return {
            "reason": f"no scores of {row.method} at guidance {scale} on {model.stand_in}",
            "command": f"python -m analysis generate {todo[0]} && python -m analysis score {todo[0]}",
        }
    needed = f"needs {model.model}" if model.model and not model.stand_in else ""
    out["reason"] = row.why or "; ".join(filter(None, [needed, model.note])) or "no sweep of params.yaml has it"
    return out


def quoted(published: dict, paper: str, table: str, row: Row | None, metric: str) -> dict:
    """The published cell of a row, or {}."""
    if row is None:
        return {}
    return published.get((paper, row.table or table, row.published or row.row, metric), {})


def published_change(value: str | None, base: str | None) -> tuple[str, int]:
    """(the published change against the baseline as text, its sign); ("", 0) if it is not known, sign 0 for no change."""
    if value in SIGNS:
        return value, SIGNS[value]
    try:
        change = float(value) - float(base)
    except (TypeError, ValueError):
        return "", 0
    digits = max(len(x.partition(".")[2]) for x in (value, base))
    change = round(change, digits)
    return f"{change:+.{digits}f}", (change > 0) - (change < 0)


HOW_TO_READ = """\
Every metric has its measured value, with a 95 % interval over n prompts, in a column that names its estimator, the change
against the row's baseline on the same prompts and noise, and the published value in a column of its own. Estimators, models
and samples differ: values must not be compared, directions may. A direction *agrees* or *disagrees* if the interval of the
change lies on one side of zero, else it is *undecided*. Published values that are not the paper's own carry their grade:
*secondary* ones are quoted from notes about the paper and are provisional. IMAGE, PROMPT and VIDEO are yours."""


def markdown(paper: Paper, cells: pd.DataFrame) -> str:
    """The paper's tables as Markdown: for every metric what was measured here, the change, and what was published."""
    parts = [f"# The tables of {paper.title}, rebuilt", HOW_TO_READ]
    for name, table in paper.tables.items():
        parts.append(f"## {name.replace('table', 'Table ').replace('figure', 'Figure ')}: {table.title}")
        parts += [text for text in (table.about, table.listed) if text]
        if not table.rows:
            continue
        mine = cells[cells["table"] == name]
        parts.append(as_markdown(wide(paper, table, mine)))
        lines = [f"- {m}: no stand-in; {paper.metrics[m].none}." for m in table.metrics if paper.metrics[m].none]
        rest = mine[mine["measured"].isin(["not run", "incomplete"])]
        for (row, state, reason, run), _ in rest.groupby(["row", "measured", "reason", "command"], sort=False):
            lines.append(f"- {row}: {state}; {reason}." + (f" `{run}`" if run else ""))
        parts.append("\n".join(lines))
    return "\n\n".join(p for p in parts if p) + "\n"


def wide(paper: Paper, table: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """A table as text: a row per row, and per metric its measured value, its change and its published value, each in a
    column of its own that names the estimator."""
    columns = {"row": [r.row for r in table.rows]}
    columns["measured on"] = [cells.loc[cells["row"] == r.row, "measured_on"].iloc[0] or "not run" for r in table.rows]
    for m in table.metrics:
        mine = cells[cells["metric"] == m].set_index("row").loc[columns["row"]]
        metric = paper.metrics[m]
        if metric.measured:
            columns[f"{m}: measured, {metric.estimator}"] = [
                _interval(c.measured, c.low, c.high, metric.digits, n=c.n) for c in mine.itertuples()
            ]
            columns[f"{m}: change and its direction"] = [
                _interval(c.change, c.change_low, c.change_high, metric.digits, sign="+")
                + (f", {c.direction}" if c.direction else "")
                for c in mine.itertuples()
            ]
        units = sorted({u for u in mine["unit"] if u and not u.startswith("direction")})
        columns[f"{m}: published" + (f", {units[0]}" if units else "")] = [
            c.published + (f" ({c.grade})" if c.grade not in ("", "paper") else "") for c in mine.itertuples()
        ]
    return pd.DataFrame(columns)


def _interval(value, low, high, digits: int, *, sign: str = "", n=None) -> str:
    """ "1.2 (0.9 to 1.5; n 16)"; a state in words stays as it is, and what does not exist is empty."""
    if isinstance(value, str) or pd.isna(value):
        return value if isinstance(value, str) else ""
    count = f"; n {int(n)}" if n is not None else ""
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f}{count})"


def as_markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(x).replace("|", "\\|") for x in line) + " |" for line in lines)


def count(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells each paper has, and in how many a value was published, measured, and its direction compared."""
    numeric = pd.to_numeric(cells["measured"], errors="coerce").notna()
    marks = pd.DataFrame({"paper": cells["paper"], "cells": 1, "published": cells["published"] != "not obtained"})
    marks["measured"] = numeric
    for word in AGREEMENT.values():
        marks[word] = cells["direction"] == word
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


def build_tables(parameters: Parameters, results: Path) -> tuple[dict[str, Paper], pd.DataFrame, pd.DataFrame]:
    """(papers by name, the cells of all their tables, the scores of `results` that they are measured from)."""
    scores, published = load_scores(results, parameters), load_published()
    papers = {p.stem: load_paper(p, parameters) for p in sorted(SPECS.glob("*.yaml"))}
    cells = pd.concat([build(p, scores, published, parameters) for p in papers.values()], ignore_index=True)
    return papers, cells, scores


def write_tables(papers: dict[str, Paper], cells: pd.DataFrame, out: Path) -> None:
    """Write every cell to `<out>/paper_tables.csv` and the long tables of each paper to `<out>/<paper>.md`."""
    write_table(cells, out / "paper_tables.csv")
    for name, paper in papers.items():
        text = markdown(paper, cells[cells["paper"] == paper.paper])
        write_atomically(out / f"{name}.md", lambda p, text=text: p.write_text(text))
