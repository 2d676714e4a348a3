"""The methods at a glance: one Markdown table, a row per backbone and setting, with the levels that changes start from."""

from __future__ import annotations

import pandas as pd

from ..study.parameters import Parameters
from . import labels
from .against_unsteered import CELL, MEASURES, change_unit
from .findings import interval, number


def glance(changes: pd.DataFrame, parameters: Parameters) -> str:
    """Markdown of `against_unsteered` tables with a column `backbone`: a row per backbone and setting, and per measure the
    change with its 95 % interval and the level without the method, on the same prompts and seeds."""
    measures = list(dict.fromkeys(changes["measure"]))
    names = ["backbone", "setting", "prompts", "videos"]
    for measure in measures:
        name, _, unit, _ = MEASURES[measure]
        names += [f"{name}: change ({change_unit(measure)})", f"from ({unit})"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (backbone, method, scale), rows in changes.groupby(["backbone", *CELL], sort=False):
        rows = rows.set_index("measure").loc[measures]
        cells = [labels.backbone(backbone), labels.setting(method, scale, parameters)]
        cells += rows[["n", "videos"]].iloc[0].astype(str).tolist()
        for measure, row in rows.iterrows():
            digits = MEASURES[measure][3]
            change = f"{number(row['difference'], digits, sign=True)} ({interval(row['low'], row['high'], digits)})"
            cells += [change, number(row["unsteered"], digits)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
