"""DyMoS's strength and share of the steps for one backbone: the paper tunes both for each (2605.19398, section 4.1)."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import pandas as pd

from ..report.loosening_curves import KEPT
from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.significance import paired_difference
from .combinations import Combination
from .evaluate_combination import evaluate

MOTION = "asked_px"  # displacement of the object that is asked to move, in pixels: dynamic degree's stand-in


def tune_dymos(
    parameters: Parameters, backbone: str, prompts: Path, runs: Path, executor: Executor, out: Path
) -> pd.DataFrame:
    """Try every strength and share of `search.dymos` on the prompts in a folder, and write `out` (CSV).

    A row per pair: `gamma`, `share` of the steps, `asked_px` and `kept_psnr` (dB) of the unsteered model plus their changes with
    the interval over prompts, n, and `chosen`, by `choose`.
    """
    grid = parameters.search.dymos
    given = dict(parameters=parameters, backbone=backbone, split=grid.prompts, prompts=prompts)
    plain = evaluate(Combination((), (), 0.0), **given, runs=runs, executor=executor)
    rows = []
    for gamma in grid.gammas:
        for share in grid.shares:
            part = {"method": "dymos", "gamma": gamma, "window": [0, share]}
            table = evaluate(
                Combination((f"dymos {gamma:g}, {share:g}",), (part,), 0.0), **given, runs=runs, executor=executor
            )
            row = {"gamma": gamma, "share": share}
            for column in (MOTION, KEPT):
                found = paired_difference(table, plain, column)
                row |= {f"unsteered {column}": plain[column].mean(), f"change of {column}": found["difference"]}
                row |= {f"{column} {end}": found[end] for end in ("low", "high")} | {"n": found["n"]}
            rows.append(row)
    found = pd.DataFrame(rows)
    found["chosen"] = [int(i == choose(found, parameters.search.loss)) for i in found.index]
    write_table(found.round(4), out)
    return found


def choose(table: pd.DataFrame, loss: float) -> int:
    """The row of the pair that moves the object furthest and loses at most `loss` dB of what must not change; of equals the
    weaker one. If all lose more: the one that loses least."""
    moved, kept = f"change of {MOTION}", f"change of {KEPT}"
    allowed = table[table[kept] >= -loss]
    if allowed.empty:
        return int(table.sort_values([kept, "gamma", "share"], ascending=[False, True, True]).index[0])
    return int(allowed.sort_values([moved, "gamma", "share"], ascending=[False, True, True]).index[0])
