"""`study table`: the rows of the paper's table from a study's scores, with intervals, beside what is published.

A cell has an estimator: the scorer, its version and metric. Two scorers that fill one column are two cells. A row is measured on
all its videos, and its change on those that it shares with the row it is compared with, paired by sample and seed.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ..scorers.judge_lines import JUDGES, judge_lines
from ..study.column_metrics import Real, fills_nothing, metrics_of_column
from ..study.files import write_atomically, write_table
from ..study.presets import PRESETS, load_presets, split_table
from ..study.significance import holm, mean_interval, paired_difference
from .evaluate_study import MANIFEST, SCORES
from .study import Study

# A video in one of these states answers no question right; the other ones say nothing about the video.
VIDEO_IS_WRONG = ("missing", "corrupt", "too_short", "varying_size")
COLUMNS = ["row", "column", "published", "estimator", "value", "low", "high", "n", "wrong", "not_scored", "change", "change_low",
           "change_high", "p", "p (Holm)", "changed", "reason"]  # fmt: skip
TABLE = Path("results/table.csv")


@dataclass(frozen=True)
class Estimate:
    """A metric of a score file: where its values are, what they are called in the table, and how they are read."""

    file: Path
    scorer: str
    version: str
    metric: str
    of_questions: bool
    bounded: bool
    imitates: str

    @property
    def name(self) -> str:
        """Of the estimator, as the table has it."""
        like = f", in place of {self.imitates}" if self.imitates else ""
        return f"{self.scorer} {self.version}, {self.metric}{like}"


def table_of_study(study: Study) -> pd.DataFrame:
    """A row per row of the paper, column and estimator; run it in the study's folder. Raises ValueError for a study of no table
    and for one that was not evaluated."""
    if study.of_table is None:
        raise ValueError(
            f"{study.folder} is the study of no table; `python -m analysis tables` makes those of the root"
        )
    estimates = _estimates()
    if not estimates or not MANIFEST.is_file():
        raise ValueError(f"nothing is scored: `python -m analysis study evaluate {study.command} --scorers NAME`")
    paper, table = split_table(study.of_table.table)
    with MANIFEST.open(newline="", encoding="utf-8") as file:
        videos = pd.DataFrame(csv.DictReader(file))
    spec = YAML(typ="safe", pure=True).load((PRESETS.parent / f"tables/{paper}.yaml").read_text())["tables"][table]
    columns, printed = spec["metrics"], {r["row"]: r for r in spec["rows"]}
    rows = load_presets()[paper].tables[table].rows
    cells = []
    for label, row in study.of_table.rows.items():
        name = (label in rows and rows[label].row) or label
        said = printed.get(name, {})
        for column in columns:
            place = (paper, said.get("from", table), said.get("published", name), column)
            told = {"row": label, "column": column, "published": _published().get(place, "not obtained")}
            real = metrics_of_column(paper, column)
            filling = [e for metric in real for e in estimates if e.metric == metric]
            if row.missing or not filling:
                cells.append(told | {"reason": row.missing or "no scorer of this column was run"})
                continue
            for estimate in filling:
                cells.append(told | _cell(estimate, study, row, column, videos, real[estimate.metric]))
    found = pd.DataFrame(cells).reindex(columns=COLUMNS)
    found["p (Holm)"] = holm(found["p"])
    return found


def _cell(estimate: Estimate, study: Study, row, column: str, videos: pd.DataFrame, real: Real) -> dict:
    factor, proportion = real.factor, real.proportion
    own, wrong, lost = _values(estimate, videos, row, column)
    told = {"estimator": estimate.name, "wrong": wrong, "not_scored": lost}
    if estimate.of_questions and lost:
        return told | {"reason": f"{lost} videos are not scored; {estimate.file.name} says why"}
    if own.empty:
        return told | {"reason": "no video of this column is scored"}
    mean, low, high = mean_interval(own["value"], own["sample"], proportion=proportion)
    if estimate.bounded:
        low, high = max(0.0, low), min(1.0, high)
    told |= {
        "value": mean * factor,
        "low": low * factor,
        "high": high * factor,
        "n": own["sample"].nunique(),
        "reason": "",
    }
    if row.against is None:
        return told
    base, _, lost = _values(estimate, videos, study.of_table.rows[row.against], column)
    if estimate.of_questions and lost:
        return told | {"reason": f"{lost} videos of {row.against} are not scored"}
    both = own.merge(base[["sample", "seed"]], on=["sample", "seed"])
    if both.empty:
        return told | {"reason": f"no video of {row.against} is scored"}
    base = base.merge(own[["sample", "seed"]], on=["sample", "seed"])
    change = paired_difference(both, base, "value", proportion=proportion)
    if estimate.bounded:
        change |= {"low": max(-1.0, change["low"]), "high": min(1.0, change["high"])}
    return told | {"change": change["difference"] * factor, "change_low": change["low"] * factor,
                   "change_high": change["high"] * factor, "p": change["p"], "changed": change["changed"]}  # fmt: skip


def _values(estimate: Estimate, videos: pd.DataFrame, row, column: str) -> tuple[pd.DataFrame, int, int]:
    """(sample, seed and value of the videos of a row that count in a column; how many count as wrong; how many are not scored).

    Answers to questions: a video that is missing or damaged has none right. Other metrics leave such videos out.
    """
    mine = videos[(videos["sweep"] == row.sweep) & (videos["method"] == row.method)]
    if row.guidance_scale is not None:
        mine = mine[mine["guidance_scale"].astype(float) == row.guidance_scale]
    if (of_column := mine["main_category"].map(_plain) == _plain(column)).any() or _plain(column) in _categories(
        videos
    ):
        mine = mine[of_column]
    scores = _scores(estimate.file, estimate.metric)
    found = mine.assign(status=[scores.get(v, ("missing row", ""))[0] for v in mine["video"]],
                        value=[scores.get(v, ("", ""))[1] for v in mine["video"]])  # fmt: skip
    wrong = found["status"].isin(VIDEO_IS_WRONG) & estimate.of_questions
    found.loc[wrong, "value"] = "0"
    scored = wrong | (found["status"] == "ok")
    kept = found[scored].rename(columns={"id": "sample"})[["sample", "seed", "value"]]
    return kept.assign(value=kept["value"].astype(float)), int(wrong.sum()), int((~scored).sum())


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").strip()


def _categories(videos: pd.DataFrame) -> set[str]:
    return {_plain(c) for c in videos["main_category"]} - {""}


def _estimates() -> list[Estimate]:
    found = []
    for file in sorted(SCORES.glob("*.json")):
        said = json.loads(file.read_text())
        if fills_nothing(said["scorer"]):
            continue
        for name, metric in said["metrics"].items():
            found.append(Estimate(
                file.with_suffix(".csv"), said["scorer"], said["version"], name, "questions" in said["inputs"],
                (metric["low"], metric["high"]) == (0, 1), metric["imitates"],
            ))  # fmt: skip
    return found


def _scores(file: Path, metric: str) -> dict[str, tuple[str, str]]:
    """video -> (status, value)."""
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["video"]: (row["status"], row["value"]) for row in csv.DictReader(lines) if row["metric"] == metric}


@cache
def _published() -> dict[tuple[str, str, str, str], str]:
    """{(paper, table, row, column): value}."""
    table = pd.read_csv(PRESETS.parent / "published.csv", dtype=str, keep_default_na=False)
    return table.set_index(["paper", "table", "row", "column"])["value"].to_dict()


def write_study_table(found: pd.DataFrame, path: Path = TABLE) -> None:
    """Write the table as CSV, and as Markdown for people."""
    write_table(found, path, float_format="%.6g")
    write_atomically(path.with_suffix(".md"), lambda p: p.write_text(as_markdown(found)))


def as_markdown(found: pd.DataFrame) -> str:
    """One line a cell; `-` where there is nothing. Below it, how often each judge of the table errs."""
    lines = [
        "| row | column | published | measured (95 %) | n | change (95 %) | p (Holm) | estimator |",
        "|---" * 8 + "|",
    ]
    for cell in found.to_dict("records"):
        measured, change = (
            _interval(cell, "value", "low", "high"),
            _interval(cell, "change", "change_low", "change_high"),
        )
        p = "-" if np.isnan(cell["p (Holm)"]) else f"{cell['p (Holm)']:.3g}"
        n = "-" if pd.isna(cell["n"]) else str(int(cell["n"]))
        said = cell["estimator"] if isinstance(cell["estimator"], str) else ""
        note = f"*{cell['reason']}*" if cell["reason"] else ""
        lines.append("| " + " | ".join([cell["row"].replace("|", "\\|"), cell["column"], cell["published"], measured or note or "-", n,
                                          change or "-", p, said + (f"; {note}" if note and measured else "")]) + " |")  # fmt: skip
    judged = [
        (e.scorer, e.version, e.metric) for e in _estimates() if e.of_questions and e.name in set(found["estimator"])
    ]
    under = [f"- {line}" for line in judge_lines(judged, (JUDGES, PRESETS.parent.parent / JUDGES))]
    return "\n".join([*lines, *([""] if under else []), *under]) + "\n"


def _interval(cell: dict, value: str, low: str, high: str) -> str:
    return "" if pd.isna(cell[value]) else f"{cell[value]:.4g} ({cell[low]:.4g} to {cell[high]:.4g})"
