"""The papers' tables, rebuilt: what was measured here beside what was published, and whether the directions agree.

`papers/tables/*.yaml` says of every table which rows it has and which setting of params.yaml each row is;
`papers/stand_ins.yaml` says which measured column may stand in for a published metric. What is published comes from
papers/published.csv alone. Estimators differ, so values are never compared: compared is the sign of the change against the
row's baseline.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd

from ..report.against_unsteered import on_common_samples
from ..report.imported_scores import load_imported
from ..report.score_tables import ALWAYS, gather, videos_of
from ..study.files import write_atomically, write_table
from ..study.parameters import Parameters
from ..study.score_columns import is_proportion
from ..study.significance import decide, holm, mean_interval, paired_difference
from .real_rows import MARK, RealRow, real_rows, several_settings
from .table_commands import OLDER, command, explain, study_command, sweeps_of
from .table_pages import AGREEMENT, count, links, markdown, overview
from .table_schema import Metric, Model, Paper, Row, load_paper
from .timed_costs import load_costs

__all__ = ["build_tables", "count", "links", "markdown", "overview", "write_tables"]

SPECS, PUBLISHED = Path("papers/tables"), Path("papers/published.csv")
SIGNS = {"increase": 1, "decrease": -1}
SAME = ["measured_on", "method", "guidance_scale", "metric"]
COLUMNS = ["paper", "table", "row", "beside", "backbone", "metric", "published", "stated", "published_change", "unit",
           "grade", "source", "method", "guidance_scale", "measured_on", "estimator", "measured", "low", "high", "n",
           "seeds", "videos", "change", "change_low", "change_high", "p", "p (Holm)", "changed", "detectable", "direction",
           "direction_grade", "reason", "command"]  # fmt: skip


def load_published(path: Path = PUBLISHED) -> dict[tuple[str, str, str, str], dict]:
    """What is published, with unit, grade and source, by (paper, table, row, column); values are text.

    A column "METRIC: direction" holds what a text says of the change of METRIC against the baseline: increase, decrease or
    comparable; "METRIC: order" how the row stands among others.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {(r["paper"], r["table"], r["row"], r["column"]): r for r in table.to_dict("records")}


def load_scores(results: Path, parameters: Parameters) -> pd.DataFrame:
    """The scores of all sweeps in `results`, with their own prompts and unblurred references. Raises ValueError when there
    are none."""
    scores = gather(parameters, results)
    return scores[(scores["prompts"] == "own") & (scores["blur"] == 0)]


def pick(scores: pd.DataFrame, row: Row, model: Model, parameters: Parameters) -> pd.DataFrame:
    """The scores of a row; empty where there are none. A setting that two sweeps have is there twice."""
    part = scores[scores["sweep"].isin(sweeps_of(row, model, parameters)) & (scores["method"] == row.method)]
    return part[part["guidance_scale"] == row.scale(model)]


def build(
    paper: Paper,
    scores: pd.DataFrame,
    published: dict,
    parameters: Parameters,
    costs: dict[str, dict] | None = None,
    imported: dict[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """A row per cell of the paper's tables: published value, measured value with its interval, and their directions.

    `measured` is a number, or "not run", "no stand-in" or "incomplete", and then `reason` says why. `published` is
    "not obtained" where no value is known, and `stated` what the paper's text says instead or besides. A row and its
    baseline are measured on the samples and seeds that the two of them have. costs: what claims of time found, by id.
    imported: scores of videos of the paper's own models, by name; where a row has some, it is there once more, with their
    estimators.
    """
    cells = []
    for name, table in paper.tables.items():
        rows = {r.row: r for r in table.rows}
        parts = {r.row: pick(scores, r, paper.backbones[r.backbone], parameters) for r in table.rows}
        mine, after = [], defaultdict(list)
        for r in table.rows:
            for own in real_rows(paper, name, r, imported or {}):
                row = [real_cell(paper, name, r, m, own, published) for m in table.metrics]
                after[r.row] += row if any(c["measured"] != "not run" for c in row) else []
            if r.beside and parts[r.row].empty:
                continue
            model = paper.backbones[r.backbone]
            real = command(r, model, parameters, published, paper.paper)
            for m in table.metrics:
                metric, base = paper.metrics[m], parts.get(r.against)
                found = timed(r, metric, costs or {}) or measure(parts[r.row], base, metric)
                found |= explain(found, r, model, metric, parameters, real, study_command(paper.paper, name, r))
                told = publication(published, paper.paper, name, r, rows.get(r.against), m)
                mine.append(
                    {"paper": paper.paper, "table": name, "row": r.row, "beside": "yes" if r.beside else "",
                     "backbone": r.backbone, "metric": m, "method": r.method or "", "guidance_scale": r.scale(model),
                     "measured_on": model.stand_in if len(parts[r.row]) else "", "estimator": metric.estimator,
                     "direction": ""} | told | found
                )  # fmt: skip
            mine += after[r.row]
        for beside in dict.fromkeys(c["beside"] for c in mine):
            give_directions([c for c in mine if c["beside"] == beside])
        cells += mine
    return pd.DataFrame(cells).reindex(columns=COLUMNS)


def real_cell(paper: Paper, table: str, row: Row, metric: str, real: RealRow, published: dict) -> dict:
    """A cell of a row that was measured with the paper's own model, by the estimator of its scores."""
    part = real.part(paper.metrics[metric])
    names = " or ".join(paper.metrics[metric].real) or "any metric that is known to fill this column"
    found, estimator = {"measured": "not run", "reason": f"the import {real.name} has no {names}"}, ""
    if part is not None:
        as_measured, own, base, estimator = part
        mixed = several_settings(own) or several_settings(base)
        found = {"measured": "incomplete", "reason": mixed} if mixed else measure(own, base, as_measured)
    base = next((r for r in paper.tables[table].rows if r.row == row.against), None)
    first = real.scores.iloc[0]
    return {
        "paper": paper.paper, "table": table, "row": f"{row.row}, {real.name}", "beside": MARK + real.name,
        "backbone": row.backbone, "metric": metric, "method": first["method"], "guidance_scale": first["guidance_scale"],
        "measured_on": f"{first['backbone'] or row.backbone}, {real.name}", "estimator": estimator, "direction": "",
        "command": "",
    } | publication(published, paper.paper, table, row, base, metric) | found  # fmt: skip


def give_directions(family: list[dict]) -> None:
    """Give every measured change with a published sign its direction: "agrees" or "disagrees" by the rule of the claims,
    else "undecided". p is corrected by Holm over `family`: the cells of one table of one paper with a published direction;
    rows beside the paper's setting are a family of their own, and so are those of each import. Cells of the same videos, as
    where one model stands in for two, are one test."""
    tested = [c for c in family if c["sign"] and "ends" in c]
    tests = {test_of(c, i): c["p"] for i, c in enumerate(tested)}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    for i, cell in enumerate(tested):
        p = float(adjusted[test_of(cell, i)])
        cell["p (Holm)"], cell["direction"] = p, AGREEMENT[decide(*cell["ends"], p, cell["sign"])]


def test_of(cell: dict, i: int) -> tuple:
    """What tells the test of a cell, the i-th, from the others of its family: its setting, metric and change."""
    return tuple(cell[k] for k in SAME) + cell["ends"] if all(k in cell for k in SAME) else (i,)


def measure(part: pd.DataFrame, baseline: pd.DataFrame | None, metric: Metric) -> dict:
    """Mean, interval over prompts and change against the baseline of one cell, in the metric's unit and digits, on the
    samples and seeds that the row and its baseline have. `ends`: the interval of the change before it is rounded."""
    part = videos_of(part, metric.measured)
    if part.empty:
        return {"measured": "not run"}
    if metric.none:
        return {"measured": "no stand-in"}
    baseline = videos_of(baseline, metric.measured) if baseline is not None else None
    prompts, tables = part["sample"].nunique(), [part] + ([baseline] if baseline is not None and len(baseline) else [])
    if metric.events:
        tables = [t[t["main_category"].isin(metric.events)] for t in tables]
    if tables[0].empty:
        return {"measured": "not run", "reason": f"no sample of this event among the {prompts} prompts"}
    if any(_is_older(t, metric.measured) for t in tables):
        return {"measured": "not run", "reason": OLDER}
    part, *rest = on_common_samples(dict(enumerate(tables))).values()
    if part.empty:
        return {"measured": "not run", "reason": "no sample in common with its baseline"}
    if missing := int(part[metric.measured].isna().sum()):
        return {"measured": "incomplete", "reason": f"{missing} of {len(part)} videos have no {metric.measured}"}
    proportion = is_proportion(metric.measured) if metric.proportion is None else metric.proportion
    mean = mean_interval(part[metric.measured], part["sample"], proportion=proportion)
    out = dict(zip(["measured", "low", "high"], mean, strict=True))
    tested = {}
    if rest and len(rest[0]) and not rest[0][metric.measured].isna().any():
        d = paired_difference(part, rest[0], metric.measured, proportion=proportion)
        out |= {"change": d["difference"], "change_low": d["low"], "change_high": d["high"]}
        out |= {"detectable": d["detectable"]}
        tested = {"p": d["p"], "changed": d["changed"], "ends": (d["low"], d["high"])}
    out = {k: round(metric.factor * v, metric.digits) + 0.0 for k, v in out.items()}  # no -0.0
    return out | tested | {"n": part["sample"].nunique(), "seeds": part["seed"].nunique(), "videos": len(part)}


def _is_older(table: pd.DataFrame, column: str) -> bool:
    """Whether a table was scored before there was the column."""
    return column not in table or bool(table[column].isna().all() and table[ALWAYS].notna().any())


def timed(row: Row, metric: Metric, costs: dict[str, dict]) -> dict:
    """The cell of a row about time, from the claim that times its setting; {} for every other cell."""
    if metric.measured != "cost":
        return {}
    if row.cost is None or row.cost not in costs:
        return {"measured": "not run", "reason": row.why or f"not timed: {row.cost or 'no setting'}"}
    ends = {k: round(costs[row.cost][k], metric.digits) + 0.0 for k in ("measured", "low", "high")}
    return ends | {"measured_on": "a block, cpu"}


def publication(published: dict, paper: str, table: str, row: Row, base: Row | None, metric: str) -> dict:
    """What is published of a cell: the value, what the text states, and the sign of the change, which is the stated one
    where there is one, else that of the difference of the two values."""
    own = quoted(published, paper, table, row, metric)
    stated = {k: quoted(published, paper, table, row, f"{metric}: {k}") for k in ("direction", "order")}
    direction = stated["direction"]
    if direction:
        change, sign = direction["value"], SIGNS.get(direction["value"], 0)
    else:
        change, sign = published_change(own.get("value"), quoted(published, paper, table, base, metric).get("value"))
    grounds = own or direction or stated["order"]
    return {
        "published": own.get("value", "not obtained"), "unit": own.get("unit", ""),
        "stated": "; ".join(_stated(s) for s in stated.values() if s),
        "grade": grounds.get("grade", ""), "source": grounds.get("source", ""),
        "published_change": change, "sign": sign, "direction_grade": (direction or own).get("grade", "") if change else "",
    }  # fmt: skip


def _stated(said: dict) -> str:
    return said["value"] + ("" if said["grade"] == "paper" else f" ({said['grade']})")


def quoted(published: dict, paper: str, table: str, row: Row | None, column: str) -> dict:
    """The published cell of a row, or {}."""
    if row is None:
        return {}
    return published.get((paper, row.table or table, row.published or row.row, column), {})


def published_change(value: str | None, base: str | None) -> tuple[str, int]:
    """(the published change against the baseline as text, its sign); ("", 0) if it is not known, sign 0 for no change."""
    try:
        change = float(value) - float(base)
    except (TypeError, ValueError):
        return "", 0
    digits = max(len(x.partition(".")[2]) for x in (value, base))
    change = round(change, digits)
    return f"{change:+.{digits}f}", (change > 0) - (change < 0)


def build_tables(parameters: Parameters, results: Path) -> tuple[dict[str, Paper], pd.DataFrame, pd.DataFrame]:
    """(papers by name, the cells of all their tables, the scores of `results` that they are measured from)."""
    scores, published = load_scores(results, parameters), load_published()
    papers = {p.stem: load_paper(p, parameters) for p in sorted(SPECS.glob("*.yaml"))}
    costs = load_costs(parameters, results)
    imported = load_imported(results)
    cells = [build(p, scores, published, parameters, costs, imported) for p in papers.values()]
    cells = pd.concat(cells, ignore_index=True)
    return papers, cells, scores


def write_tables(papers: dict[str, Paper], cells: pd.DataFrame, out: Path) -> None:
    """Write every cell to `<out>/paper_tables.csv` and the long tables of each paper to `<out>/<paper>.md`."""
    write_table(cells.astype(dict.fromkeys(["n", "seeds", "videos", "changed"], "Int64")), out / "paper_tables.csv")
    for name, paper in papers.items():
        text = markdown(paper, cells[cells["paper"] == paper.paper])
        write_atomically(out / f"{name}.md", lambda p, text=text: p.write_text(text))
