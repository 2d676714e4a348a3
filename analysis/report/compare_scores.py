"""Two settings against each other, column by column, by the one rule: what differs, how surely, and what could have been seen.

A side is a CSV file (scores of a sweep, an import, or a table of `evaluate` with its manifest), a method of params.yaml or a sweep
of it. Where a file or a sweep holds several settings, `:METHOD` and `@GUIDANCE` behind its name choose one. A name that a method
and a sweep have in common is the method, and with `:METHOD` behind it the sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..scorers.judge_lines import judge_lines
from ..study.parameters import Parameters
from ..study.score_columns import COLUMNS, Column, is_proportion
from ..study.significance import clear_side, holm, paired_difference
from .against_unsteered import comparison, on_common_samples
from .imported_scores import IMPORTED, QUESTIONS, SCORES, as_scores, join, scorer_of
from .score_tables import ALWAYS, sweep_table, videos_of

SETTING = ["backbone", "method", "guidance_scale", "blur", "prompts", "row"]
NO_MEASURE = {*SETTING, "sample", "seed", "sweep", "main_category", "sub_category", "domain", "status", "reason", "answers",
              "categories", "reference"}  # fmt: skip
WORDS = {1: "higher", -1: "lower", 0: "undecided"}


@dataclass(frozen=True)
class Side:
    """The scores of one setting. long: in the form of an import, a row per metric; else a column per metric."""

    label: str
    table: pd.DataFrame
    long: bool = False

    @property
    def columns(self) -> list[str]:
        """The measures that it has numbers of."""
        if self.long:
            return [m for m in self.table["metric"].unique() if "/" not in m]
        return [c for c in self.table.select_dtypes("number") if c not in NO_MEASURE and self.table[c].notna().any()]

    def part(self, column: str) -> pd.DataFrame:
        """The rows that a measure is of: sample, seed and the column; one per video, nan where a video could not be measured.
        Those for which it is not defined are left out."""
        if self.long:
            return as_scores(self.table, column)
        given = {"categories": "", ALWAYS: float("nan")}
        return videos_of(self.table.assign(**{k: v for k, v in given.items() if k not in self.table}), column)


def read_side(
    name: str, parameters: Parameters | None, *, manifest: Path | None = None, backbone: str = "wan-i2v",
    results: Path | str | None = None,
) -> Side:  # fmt: skip
    """The scores that `name` stands for: FILE.csv, METHOD or SWEEP, with :METHOD and @GUIDANCE if there are several settings.

    manifest: of a table of `evaluate`; manifest.csv beside it by default. backbone: of a method. Raises ValueError when there is
    no such thing, or more than one setting is left, and names what there is.
    """
    source, method, guidance = _split(name)
    if source.endswith(".csv"):
        table, long = _read_file(Path(source), manifest)
    elif parameters is not None and source in parameters.methods and method is None:
        table, long, method = comparison(parameters, backbone, results), False, source
        guidance = 1.0 if guidance is None else guidance
    elif parameters is not None and source in parameters.sweeps:
        table, long = sweep_table(parameters, source, results=results), False
    else:
        known = f"{', '.join(parameters.sweeps)}; {', '.join(parameters.methods)}" if parameters else "none"
        raise ValueError(f"{source!r} is no .csv file, no sweep and no method; params.yaml has: {known}")
    for column, value in (("method", method), ("guidance_scale", guidance)):
        if value is None:
            continue
        there = sorted(table[column].dropna().unique()) if column in table else []
        if value not in there:
            raise ValueError(f"{source} has no {column} {value}; it has {', '.join(map(str, there)) or 'none'}")
        table = table[table[column] == value]
    for column in (c for c in SETTING if c in table):
        values = table[column].drop_duplicates()
        if len(values) > 1:
            ways = {"method": f"{source}:METHOD", "guidance_scale": f"{source}@GUIDANCE"}
            how = f"; write {ways[column]}" if column in ways else ""
            raise ValueError(f"{name} has several settings, {column} {', '.join(map(str, values))}{how}")
    return Side(name, table, long)


def of_categories(side: Side, categories: list[str]) -> Side:
    """The side on samples of some main categories. Raises ValueError for one that it does not have."""
    there = sorted(side.table["main_category"].unique()) if "main_category" in side.table else []
    if unknown := [c for c in categories if c not in there]:
        raise ValueError(
            f"{side.label} has no category {unknown[0]!r}; it has {', '.join(filter(None, there)) or 'none'}"
        )
    label = f"{side.label}, {' and '.join(categories)}"
    return Side(label, side.table[side.table["main_category"].isin(categories)], side.long)


def _split(name: str) -> tuple[str, str | None, float | None]:
    """(source, method or None, guidance or None) of SOURCE[:METHOD][@GUIDANCE]."""
    source, at, scale = name.rpartition("@")
    try:
        guidance = float(scale) if at else None
    except ValueError:
        guidance, at = None, ""
    source = source if at else name
    source, colon, method = source.partition(".csv:") if ".csv:" in source else source.partition(":")
    return source + (".csv" if colon == ".csv:" else ""), method or None, guidance


def _read_file(path: Path, manifest: Path | None) -> tuple[pd.DataFrame, bool]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    header = list(pd.read_csv(path, nrows=0).columns)
    if header == IMPORTED:
        empty = {"value": [""], "guidance_scale": [""]}
        return pd.read_csv(path, keep_default_na=False, na_values=empty).astype({"sample": str}), True
    if header == SCORES:
        manifest = manifest or path.with_name("manifest.csv")
        if not manifest.is_file():
            raise ValueError(f"{path} is a table of `evaluate`, and there is no {manifest}: name its manifest")
        return join([path], manifest), True
    if not {"sample", "seed"} <= set(header):
        raise ValueError(
            f"{path} has neither the columns sample and seed, nor those of `evaluate`: {', '.join(header)}"
        )
    return pd.read_csv(path, dtype={"sample": str}, keep_default_na=True), False


def compare(a: Side, b: Side, columns: list[str] | None = None, proportions: list[str] = ()) -> pd.DataFrame:
    """`a` minus `b` on the samples and seeds that both have, a row per column: column, unit, a, b (means), difference, low, high
    (95 %, over prompts), p, p (Holm), n (prompts), changed, gained, lost, detectable (what would have been seen with a power of
    80 %), only_a, only_b (videos without a partner), a_is ("higher", "lower" or "undecided") and reason, why there is no number.

    columns: all that both have by default; they are the family of Holm's correction. proportions: those with 0 or 1 for every
    video, besides what is declared. Raises ValueError for a column that one side lacks, and if nothing is paired.
    """
    both = [c for c in a.columns if c in set(b.columns)]
    for column in columns or []:
        if column not in both:
            lacking = [s.label for s in (a, b) if column not in s.columns]
            raise ValueError(f"{' and '.join(lacking)} have no {column!r}; both have {', '.join(both) or 'nothing'}")
    rows = [_row(a, b, column, column in proportions) for column in columns or both]
    table = pd.DataFrame(rows)
    if not len(table) or not (table["n"] > 0).any():
        said = "; ".join(dict.fromkeys(table["reason"])) if len(table) else "no column in common"
        raise ValueError(f"{a.label} and {b.label} cannot be compared: {said}")
    table.insert(table.columns.get_loc("p") + 1, "p (Holm)", holm(table["p"]))
    table["a_is"] = [
        WORDS[clear_side(r.low, r.high, p)] if r.n else ""
        for r, p in zip(table.itertuples(), table["p (Holm)"], strict=True)
    ]
    return table[[*(c for c in table if c != "reason"), "reason"]]


def _row(a: Side, b: Side, column: str, proportion: bool) -> dict:
    told = COLUMNS.get(column, Column(column, ""))
    found = {"column": column, "unit": told.unit} | dict.fromkeys(
        ["a", "b", "difference", "low", "high", "p", "detectable"], float("nan")
    )
    found |= dict.fromkeys(["n", "changed", "gained", "lost", "only_a", "only_b"], 0) | {"reason": ""}
    parts = {"a": a.part(column), "b": b.part(column)}
    if not all(map(len, parts.values())):
        return found | {"reason": "no video for which it is defined"}
    common = on_common_samples(parts)
    found |= {f"only_{k}": len(parts[k]) - len(common[k]) for k in parts}
    if not len(common["a"]):
        return found | {"reason": "no sample and seed in common"}
    if missing := sum(int(t[column].isna().sum()) for t in common.values()):
        return found | {"reason": f"{missing} of {2 * len(common['a'])} videos have no {column}"}
    d = paired_difference(common["a"], common["b"], column, proportion=proportion or is_proportion(column))
    scaled = {
        k: round(told.factor * d[k], 12) + 0.0 for k in ("difference", "low", "high", "detectable")
    }  # no -0.0, no 1e-18
    means = {k: told.factor * float(t[column].mean()) for k, t in common.items()}
    return found | means | scaled | {k: d[k] for k in ("p", "n", "changed", "gained", "lost")}


def _judged(side: Side, columns: pd.Series) -> list[tuple[str, str, str]]:
    """(scorer, version, metric) of the judges that made compared columns of a side; an oracle's scores name none."""
    if not side.long:
        return []
    own = side.table[side.table["metric"].isin(set(columns) & set(QUESTIONS))]
    return [(*scorer_of(by), metric) for metric, by in own[["metric", "estimator"]].drop_duplicates().to_numpy()]


def told(table: pd.DataFrame, a: Side, b: Side) -> str:
    """The comparison in lines for a terminal, and how often each judge of it errs."""
    lines = [f"A: {a.label}", f"B: {b.label}"]
    alone = {k: int(table[f"only_{k}"].max()) for k in "ab"}
    if any(alone.values()):
        lines.append(f"videos without a partner, left out: up to {alone['a']} of A and {alone['b']} of B")
    for r in table.itertuples():
        unit = f" {r.unit}" if r.unit else ""
        if not r.n:
            lines.append(f"{r.column}: not compared; {r.reason}")
            continue
        p = table.at[r.Index, "p (Holm)"]
        lines.append(
            f"{r.column}: A {r.a:.4g}, B {r.b:.4g}{unit}; A - B {r.difference:+.4g} ({r.low:.4g} to {r.high:.4g}), "
            f"p {r.p:.2g}, Holm {p:.2g}: {r.a_is}; n {r.n} prompts, {r.changed} changed ({r.gained} videos up, {r.lost} down)"
            + (
                ""
                if r.a_is != WORDS[0] or pd.isna(r.detectable)
                else f"; from {r.detectable:.3g} it would have been seen"
            )
        )
    for side in (a, b):
        lines += [line for line in judge_lines(_judged(side, table["column"])) if line not in lines]
    family = int(table["p"].notna().sum())
    lines.append(
        f"A is higher or lower where the 95 % interval is clear of zero and p, corrected by Holm over the {family} columns here, is below 5 %."
    )
    return "\n".join(lines)
