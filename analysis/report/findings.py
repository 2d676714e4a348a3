"""Sentences made of numbers: effects with their intervals, verdicts, and the paragraph that a notebook begins with."""

from __future__ import annotations

import math

import pandas as pd

from ..study.significance import decide, holm

SIGNS = {"supported": "✔ supported", "contradicted": "✘ contradicted", "inconclusive": "○ inconclusive"}


def number(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """A number with `digits` decimals and a real minus; `sign` also for positive ones. "–" for a missing one."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−")


def interval(low: float, high: float, digits: int = 1) -> str:
    """An interval as "10.0 to 14.1"."""
    return f"{number(low, digits)} to {number(high, digits)}"


def effect(difference: float, low: float, high: float, unit: str, n: int | None = None, digits: int = 1) -> str:
    """A change with its 95 % interval, such as "+12.1 points (10.0 to 14.1; 467 prompts)"."""
    count = "" if n is None else f"; {n} prompts"
    return f"{number(difference, digits, sign=True)} {unit} ({interval(low, high, digits)}{count})"


def level(mean: float, low: float, high: float, unit: str = "%", n: int | None = None, digits: int = 0) -> str:
    """A mean with its 95 % interval, such as "61 % (56 to 65; 467 prompts)"."""
    count = "" if n is None else f"; {n} prompts"
    return f"{number(mean, digits)} {unit} ({interval(low, high, digits)}{count})"


def p_words(p: float) -> str:
    """A p value as "0.03" or "< 0.001"; "–" where there is none."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else number(p, 3 if p < 0.1 else 2)


def side(low: float, high: float, line: float = 0.0) -> str:
    """Where an interval lies: "above", "below" or "not clear of" `line`."""
    return "above" if low > line else "below" if high < line else "not clear of"


def decided(rows: list[dict], family: str | None = None) -> pd.DataFrame:
    """The verdicts of a notebook by the one rule (`significance.decide`): each row has low, high, p, sign and may have line
    (0), which become "p (Holm)", corrected over the rows or, with a column `family`, over those of one value, and verdict.
    """
    table = pd.DataFrame(rows)
    groups = table.groupby(family, sort=False)["p"] if family else [("", table["p"])]
    corrected = {i: p for _, part in groups for i, p in zip(part.index, holm(part), strict=True)}
    table["p (Holm)"] = [corrected[i] for i in table.index]
    lines = table["line"].fillna(0.0) if "line" in table else pd.Series(0.0, table.index)
    ends = zip(table["low"], table["high"], table["p (Holm)"], table["sign"], lines, strict=True)
    table["verdict"] = [decide(*end) for end in ends]
    return table.drop(columns=["low", "high", "p", "sign", "line"], errors="ignore")


def verdict_table(rows: pd.DataFrame) -> str:
    """Markdown of claims: a row per entry of `rows`, which has claim, effect (words), n and verdict, and may have backbone
    and p (Holm). Verdicts get a sign, so that a column can be read at a glance."""
    columns = [c for c in ("backbone", "claim", "effect", "n", "p (Holm)", "verdict") if c in rows]
    if "p (Holm)" in rows:
        rows = rows.assign(**{"p (Holm)": [p_words(p) for p in rows["p (Holm)"]]})
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows[columns].to_dict("records"):
        row["verdict"] = SIGNS[row["verdict"]]
        lines.append("| " + " | ".join(str(row[c]).replace("|", "\\|") for c in columns) + " |")
    return "\n".join(lines) + "\n"


def markdown_table(table: pd.DataFrame) -> str:
    """A small data frame as Markdown, without its index; texts as they are, floats with up to four digits."""
    cells = [
        [f"{v:.4g}".replace("-", "−") if isinstance(v, float) else str(v) for v in row] for row in table.to_numpy()
    ]
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * len(table.columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"
