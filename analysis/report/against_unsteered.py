"""Steered against unsteered, on the same samples and the same noise: what the method sweeps are read with."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from methods.registry import from_dict

from ..scoring.score import STRIPS
from ..study.parameters import Parameters
from ..study.significance import holm, mean_interval, paired_difference
from .score_tables import gather

# Column of the scores: (what it is called, factor, unit, digits). The estimator is part of the name.
MEASURES = {
    "adherence": ("all questions right", 100.0, "%", 1),
    "macro": ("questions right", 100.0, "%", 1),
    "flow_px": ("motion, optical flow", 1.0, "px/frame", 3),
    "background_psnr": ("background fidelity, PSNR", 1.0, "dB", 2),
    "first_psnr": ("first-frame fidelity, PSNR", 1.0, "dB", 2),
    "sharpness_retention": ("sharpness kept", 1.0, "ratio", 2),
}
CELL = ["method", "guidance_scale"]
PAIR = ["sample", "seed"]  # what is paired: the same prompt, reference and noise


def on_common_samples(parts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The scores of each row, on the samples and seeds that all rows have that are not empty."""
    keys = {name: pd.MultiIndex.from_frame(p[PAIR]) for name, p in parts.items() if len(p)}
    if not keys:
        return parts
    common = reduce(pd.MultiIndex.intersection, keys.values())
    return parts | {name: parts[name][k.isin(common)] for name, k in keys.items()}


def comparison(parameters: Parameters, backbone: str, results: Path | str | None = None) -> pd.DataFrame:
    """The scores of every sweep of `backbone` on the samples' own prompts and sharp references, a row per video; a
    setting that two sweeps have is the same video and is kept once. Raises ValueError if there are none."""
    scores = gather(parameters, results)
    plain = (scores["prompts"] == "own") & (scores["reference"] == "own") & (scores["blur"] == 0)
    own = scores[plain & (scores["backbone"] == backbone)]
    if own.empty:
        raise ValueError(f"no scores of {backbone} in {results or parameters.results}: run `dvc repro`")
    return own.drop_duplicates([*CELL, "seed", "sample"]).reset_index(drop=True)


def against_unsteered(scores: pd.DataFrame, columns: list[str], cells: list[tuple[str, float]]) -> pd.DataFrame:
    """One row per measure of `columns` and cell (method, guidance scale) in the order given.

    Columns: method, guidance_scale, measure, mean, unsteered (both on the cell's samples), difference, low, high (95 %
    interval over prompts), n (prompts), videos, p, p (Holm, over the cells of one measure). In the units of MEASURES. The
    unsteered videos are those of the same guidance scale. Raises ValueError for a cell without videos, or without
    unsteered ones.
    """
    grouped = dict(iter(scores.groupby(CELL)))
    rows = []
    for method, scale in cells:
        plain, steered = (grouped.get((m, scale)) for m in ("none", method))
        if plain is None or steered is None:
            raise ValueError(f"no videos of {'none' if plain is None else method!r} at guidance {scale:g}")
        plain = plain.merge(steered[["sample", "seed"]])
        for column in columns:
            factor = MEASURES[column][1]
            found = paired_difference(steered, plain, column)
            values = {"mean": steered[column].mean(), "unsteered": plain[column].mean()}
            values |= {k: found[k] for k in ("difference", "low", "high")}
            row = {"method": method, "guidance_scale": scale, "measure": column}
            counts = {"n": found["n"], "videos": len(steered)}
            rows.append(row | {k: factor * v for k, v in values.items()} | counts | {"p": found["p"]})
    table = pd.DataFrame(rows)
    table["p (Holm)"] = table.groupby("measure")["p"].transform(lambda p: holm(p))
    return table


def change_unit(measure: str) -> str:
    """The unit of a change: points for a share in percent."""
    unit = MEASURES[measure][2]
    return "points" if unit == "%" else unit


def glance(changes: pd.DataFrame) -> str:
    """A Markdown table of `against_unsteered` tables with a column `backbone`: a row per backbone and setting, a column per
    measure, changes with their intervals."""
    columns = list(dict.fromkeys(changes["measure"]))
    names = [f"{MEASURES[c][0]} ({change_unit(c)})" for c in columns]
    lines = [f"| backbone | setting | prompts | videos | {' | '.join(names)} |", "|---" * (len(columns) + 4) + "|"]
    for (backbone, method, scale), rows in changes.groupby(["backbone", *CELL], sort=False):
        rows = rows.set_index("measure").loc[columns]
        digits = [MEASURES[c][3] for c in columns]
        values = rows[["difference", "low", "high"]].to_numpy()
        cells = [f"{d:+.{n}f} ({lo:.{n}f} to {hi:.{n}f})" for (d, lo, hi), n in zip(values, digits, strict=True)]
        name = f"`{method}`" + (f", guidance {scale:g}" if scale != 1 else "")
        count = " | ".join(map(str, rows[["n", "videos"]].iloc[0]))
        lines.append(f"| {backbone} | {name} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def means(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A row per cell: means of `columns` in the units of MEASURES, their intervals `<column> low`, `<column> high`, n."""
    rows = []
    for key, part in scores.groupby(CELL, sort=False):
        row = dict(zip(CELL, key, strict=True)) | {"n": part["sample"].nunique()}
        for column in columns:
            interval = mean_interval(part[column], part["sample"])
            named = zip((column, f"{column} low", f"{column} high"), interval, strict=True)
            row |= {name: MEASURES[column][1] * value for name, value in named}
        rows.append(row)
    return pd.DataFrame(rows)


def pareto(points: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Which rows no other row beats: at least as high in all `columns` and higher in one. bool (rows,)."""
    values = points[columns].to_numpy(float)
    beaten = [
        bool(((values >= v).all(1) & (values > v).any(1)).any()) if not np.isnan(v).any() else True for v in values
    ]
    return ~np.array(beaten, bool)


def settings(parameters: Parameters) -> dict[str, list[dict]]:
    """The named methods of params.yaml with every field of their classes filled in, and `method`."""
    return {
        name: [asdict(from_dict(part)) | {"method": part["method"]} for part in parts]
        for name, parts in parameters.methods.items()
    }


def varied(parameters: Parameters, base: str, fields: list[str]) -> pd.DataFrame:
    """The methods of one part that differ from `base` in nothing but `fields`, itself among them: columns method and
    the fields, in the order of params.yaml. What a curve or a map over settings is drawn from."""
    known = settings(parameters)
    (reference,) = known[base]
    rows = []
    for name, parts in known.items():
        if len(parts) == 1 and parts[0]["method"] == reference["method"]:
            changed = {k for k, v in parts[0].items() if v != reference[k]}
            if changed <= set(fields):
                rows.append({"method": name} | {f: parts[0][f] for f in fields})
    return pd.DataFrame(rows)


def shown_samples(scores: pd.DataFrame, cells: list[tuple[str, float]]) -> list[str]:
    """One sample of each event type: of those that all `cells` have and whose film strips are kept the one on which most of
    `cells` differ in adherence from the unsteered video, the first of equals. A rule, so that no strip is chosen by hand.
    Strips are of the first seed."""
    scores = scores[scores["seed"] == scores["seed"].iloc[0]]
    grouped = dict(iter(scores.groupby(CELL)))
    common = set.intersection(*(set(grouped[cell]["sample"]) for cell in cells))
    order = [sample for sample in dict.fromkeys(scores["sample"]) if sample in common][:STRIPS]
    wide = scores[scores["sample"].isin(order)].pivot_table(index="sample", columns=CELL, values="adherence")
    changes = pd.Series(0, index=wide.index)
    for method, scale in cells:
        changes += (wide[method, scale] != wide["none", scale]).astype(int)
    kinds = scores.drop_duplicates("sample").set_index("sample")["main_category"].loc[order]
    return [max(kinds[kinds == kind].index, key=lambda s: (changes[s], -order.index(s))) for kind in kinds.unique()]
