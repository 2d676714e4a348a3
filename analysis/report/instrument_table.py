"""The instruments, as a table: what each measure says of true clips behind an autoencoder, how far that is from the truth,
and what it cannot see."""

from __future__ import annotations

import pandas as pd

from ..study.results_layout import instruments_file
from ..study.score_columns import COLUMNS
from . import labels
from .findings import number
from .score_tables import NoTables

EVENTS = ("appear", "disappear", "recolour", "move")


def instruments(backbones: list[str]) -> pd.DataFrame:
    """The tables of `python -m analysis reconstruct`, with a column backbone. Raises NoTables if one is not there."""
    parts = []
    for backbone in backbones:
        file = instruments_file(backbone)
        if not file.is_file():
            raise NoTables(f"no {file}: run `python -m analysis reconstruct --backbone {backbone}`")
        parts.append(pd.read_csv(file).assign(backbone=backbone))
    return pd.concat(parts, ignore_index=True)


def errors_table(table: pd.DataFrame) -> pd.DataFrame:
    """Where the world knows the truth: a line per measure and backbone, the mean absolute error (and its 95 % quantile) on
    true clips of each event, and on still copies of the same references."""
    lines = []
    known = table.dropna(subset="mean_error")
    for measure in [m for m in COLUMNS if m in set(known["measure"])]:
        for backbone, own in known[known["measure"] == measure].groupby("backbone", sort=False):
            line = {
                "measure": f"{COLUMNS[measure].label} ({COLUMNS[measure].unit})",
                "behind the autoencoder of": labels.backbone(backbone),
            }
            true = own[own["video"] == "true"].set_index("event")
            line |= {e: _told(true.loc[e], measure) if e in true.index else "–" for e in EVENTS}
            lines.append(
                line | {"still copies": _told(own[own["video"] == "still copy"].mean(numeric_only=True), measure)}
            )
    return pd.DataFrame(lines)


def _told(row: pd.Series, measure: str) -> str:
    factor, digits = COLUMNS[measure].factor, 1 if measure in ("onset",) else 2
    return f"{number(factor * row['mean_error'], digits)} ({number(factor * row['error_95'], digits)})"


def blind_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every measure of a video: what it says of a true clip of each event and of a still copy, and what it cannot see."""
    lines = []
    for measure, column in COLUMNS.items():
        own = table[table["measure"] == measure]
        line = {"measure": f"{column.label} ({column.unit})" if column.unit else column.label}
        true, copy = (own[own["video"] == v].groupby("event")["measured"].mean() for v in ("true", "still copy"))
        digits = 3 if measure.startswith("flow") else 1
        line |= {e: number(column.factor * true.get(e, float("nan")), digits) for e in EVENTS}
        lines.append(
            line | {"still copy": number(column.factor * copy.mean(), digits), "what it cannot see": column.blind}
        )
    return pd.DataFrame(lines)
