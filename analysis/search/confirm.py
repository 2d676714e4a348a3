"""The registered settings on held-out prompts and other seeds: does the winner hold, and how much does it shrink?"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import pandas as pd

from ..report.loosening_curves import KEPT
from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.score_columns import COLUMNS
from ..study.significance import decide, holm, paired_difference
from ..study.video_key import weights_hash
from ..videos.count_passes import passes_of
from .combinations import Combination
from .evaluate_combination import cells_of, evaluate
from .trials import OBJECTIVES

UNSTEERED = "unsteered"


def confirm(
    parameters: Parameters, registered: dict, prompts: Path, runs: Path, executor: Executor, out: Path
) -> pd.DataFrame:
    """Run what `registered` (registration.read_registration) names on the held-out prompts in a folder.

    Writes `<lineage>-confirmed.csv`, the scores per video, and `<lineage>-shrinkage.csv` into `out`, and returns the latter: a row
    per setting and objective with the change on the tuning prompts, the one held out with its interval, p (Holm, over the
    settings), n, `kept`, the share of the tuning change that is left, the smallest difference that could be seen, the passes per
    video, and the verdict on the registered measure. Raises ValueError if the prompts, seeds, guidance or weights are not those
    that were registered.
    """
    backbone, split = registered["backbone"], parameters.search.held_out
    now = {
        "weights": weights_hash(backbone, parameters.backbones[backbone]),
        "held_out": split.model_dump() | {"key": prompts.name},
        "guidance_scale": parameters.search.guidance_scale,
    }
    if changed := [k for k, v in now.items() if registered[k] != v]:
        raise ValueError(f"{changed[0]} is {now[changed[0]]}; what was registered is {registered[changed[0]]}")
    given = dict(parameters=parameters, backbone=backbone, split=split, prompts=prompts)
    tried = {UNSTEERED: Combination((), (), 0.0)}
    tried |= {s["name"]: Combination((s["name"],), tuple(s["parts"]), s["blur"]) for s in registered["settings"]}
    tables = {name: evaluate(c, **given, runs=runs, executor=executor) for name, c in tried.items()}
    passes = {}
    for name, c in tried.items():
        cell, image = cells_of(parameters, backbone, c, split, prompts)[0]
        passes[name] = executor.submit(passes_of, cell, image, parameters.backbones[backbone]).result()
    scores = pd.concat([t.assign(setting=name) for name, t in tables.items()], ignore_index=True)
    shown = ["setting", "sample", "seed", "main_category", *[c for c in COLUMNS if c in scores], KEPT]
    write_table(scores[shown].round(4), out / f"{registered['lineage']}-confirmed.csv")
    table = shrinkage(tables, registered["settings"]).assign(registered=registered["digest"])
    table["passes"] = table["setting"].map(passes)
    write_table(table.round(4), out / f"{registered['lineage']}-shrinkage.csv")
    return table


def shrinkage(tables: dict[str, pd.DataFrame], settings: list[dict]) -> pd.DataFrame:
    """A row per registered setting and objective; see `confirm`. tables: scores by name of the setting, UNSTEERED among them."""
    rows = []
    for setting in settings:
        for column in OBJECTIVES:
            pair = [tables[name] for name in (setting["name"], UNSTEERED)]
            if column == "asked_px":
                pair = [t[t["main_category"] == "motion"] for t in pair]
            found, tuned = paired_difference(*pair, column), setting["tuning_change"][column]
            row = {"setting": setting["name"], "measure": column, "tuning": tuned, "held_out": found["difference"]}
            row |= {k: found[k] for k in ("low", "high", "p", "n", "detectable")}
            rows.append(row | {"kept": found["difference"] / tuned if tuned else float("nan")})
    table = pd.DataFrame(rows)
    table["p (Holm)"] = table.groupby("measure")["p"].transform(holm)
    ends = zip(table["measure"], table["low"], table["high"], table["p (Holm)"], strict=True)
    table["verdict"] = [decide(low, high, p, 1) if m == OBJECTIVES[0] else "" for m, low, high, p in ends]
    return table
