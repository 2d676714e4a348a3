"""Steered against unsteered, on the same samples and the same noise: what the method sweeps are read with."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatch
from functools import reduce
from pathlib import Path

import pandas as pd

from methods.registry import from_dict

from ..scoring.score import STRIPS
from ..study.input_edits import split
from ..study.parameters import Parameters
from ..study.score_columns import is_proportion
from ..study.significance import holm, mean_interval, paired_difference
from . import labels
from .film_strips import outcomes
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


def on_common(videos: pd.DataFrame, cells) -> pd.DataFrame:
    """The videos of `cells` (method, guidance scale), on the samples and seeds that all of them have."""
    parts = {cell: part for cell, part in videos.groupby(CELL) if cell in cells}
    return pd.concat(on_common_samples(parts).values(), ignore_index=True)


def comparison(parameters: Parameters, backbone: str, results: Path | str | None = None) -> pd.DataFrame:
    """The scores of every sweep of `backbone` on the samples' own prompts of all categories and sharp references, a row per
    video; a setting that two sweeps have is the same video and is kept once. Raises ValueError if there are none."""
    scores = gather(parameters, results)
    plain = (scores["prompts"] == "own") & (scores["reference"] == "own") & (scores["blur"] == 0)
    plain &= scores["categories"] == ""
    own = scores[plain & (scores["backbone"] == backbone)]
    if own.empty:
        raise ValueError(f"no scores of {backbone} in {results or parameters.results}: run `dvc repro`")
    return own.drop_duplicates([*CELL, "seed", "sample"]).reset_index(drop=True)


def cells_of(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """The settings (method, guidance scale) that have videos, in the order of the scores."""
    return list(scores[CELL].drop_duplicates().itertuples(index=False, name=None))


def shown_cells(
    parameters: Parameters, backbone: str, scores: pd.DataFrame, sweeps: list[str], settings: list[str]
) -> list[tuple[str, float]]:
    """The settings that tables and figures of the methods show, by guidance scale, method and order in params.yaml.

    sweeps: patterns of sweeps' names without the lineage, such as "methods*": all that these sweeps of the backbone hold;
    settings: names of `methods`, without guidance. Only what has videos in `scores`, and an unsteered run at the same
    guidance scale. Raises ValueError for a pattern or a name that params.yaml does not have.
    """
    lineage = f"{backbone.split('-')[0]}-"
    studies = {name: name.removeprefix(lineage) for name in parameters.sweeps}
    for pattern in sweeps:
        if not any(fnmatch(study, pattern) for study in studies.values()):
            raise ValueError(f"no sweep of params.yaml is called like {pattern!r}")
    if unknown := [name for name in settings if name not in parameters.methods]:
        raise ValueError(f"{unknown[0]!r} is not in `methods` of params.yaml")
    chosen = [(method, 1.0) for method in settings]
    for name, sweep in parameters.sweeps.items():
        if sweep.backbone == backbone and any(fnmatch(studies[name], pattern) for pattern in sweeps):
            chosen += [(method, scale) for method in sweep.methods for scale in sweep.guidance_scale]
    order, made = list(parameters.methods), set(cells_of(scores))
    chosen = {c for c in chosen if c in made and c[0] != "none" and ("none", c[1]) in made}
    return sorted(chosen, key=lambda c: (c[1], labels.family_order(labels.family(c[0], parameters)), order.index(c[0])))


def guidance_cells(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """Guidance alone, at every scale that has unsteered videos."""
    return sorted(c for c in cells_of(scores) if c[0] == "none" and c[1] != 1)


def against_unsteered(scores: pd.DataFrame, columns: list[str], cells: list[tuple[str, float]]) -> pd.DataFrame:
    """One row per measure of `columns` and cell (method, guidance scale) in the order given.

    Columns: method, guidance_scale, measure, mean, unsteered (both on the cell's samples), difference, low, high (95 %
    interval over prompts), n (prompts), videos, p, p (Holm, over the cells of one measure). In the units of MEASURES. The
    unsteered videos are those of the same guidance scale; for guidance alone, ("none", scale), those without guidance.
    Raises ValueError for a cell without videos, or without unsteered ones.
    """
    grouped = dict(iter(scores.groupby(CELL)))
    rows = []
    for method, scale in cells:
        base = 1.0 if method == "none" else scale
        plain, steered = grouped.get(("none", base)), grouped.get((method, scale))
        if plain is None or steered is None:
            raise ValueError(f"no videos of {'none' if plain is None else method!r} at guidance {scale:g}")
        plain = plain.merge(steered[PAIR])
        for column in columns:
            factor = MEASURES[column][1]
            found = paired_difference(steered, plain, column)
            values = {"mean": steered[column].mean(), "unsteered": plain[column].mean()}
            values |= {k: found[k] for k in ("difference", "low", "high")}
            row = {"method": method, "guidance_scale": scale, "measure": column}
            counts = {"n": found["n"], "videos": len(steered)}
            rows.append(row | {k: factor * v for k, v in values.items()} | counts | {"p": found["p"]})
    table = pd.DataFrame(rows)
    if len(table):
        table["p (Holm)"] = table.groupby("measure")["p"].transform(lambda p: holm(p))
    return table


def shown_changes(scores: pd.DataFrame, columns: list[str], cells: list[tuple[str, float]]) -> pd.DataFrame:
    """`against_unsteered` of guidance alone and of `cells`. They are two families of Holm's correction: guidance is what the
    methods are held against, and no method under test."""
    families = [against_unsteered(scores, columns, group) for group in (guidance_cells(scores), cells)]
    return pd.concat([f for f in families if len(f)], ignore_index=True)


def every_change(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`shown_changes` of all settings that have videos and an unsteered run at the same guidance scale, in order of name."""
    made = cells_of(scores)
    return shown_changes(scores, columns, sorted(c for c in made if c[0] != "none" and ("none", c[1]) in made))


def first_of_each_method(
    scores: pd.DataFrame, cells: list[tuple[str, float]], parameters: Parameters
) -> list[tuple[str, float]]:
    """The unsteered model, then of each method the first of `cells` without guidance; only those that have as many prompts
    as any of them has, so that all may be compared on these."""
    prompts = scores.groupby(CELL)["sample"].nunique()
    plain = [cell for cell in cells if cell[1] == 1]
    most, found = max(prompts[cell] for cell in plain), {}
    for cell in plain:
        if prompts[cell] == most:
            found.setdefault(labels.family(cell[0], parameters), cell)
    return [("none", 1.0), *found.values()]


def with_outcomes(videos: dict[str, pd.DataFrame], parameters: Parameters) -> dict[str, pd.DataFrame]:
    """The scores of several backbones with a column `outcome`, one of labels.OUTCOMES (see film_strips.outcomes)."""
    found = outcomes(pd.concat(videos, names=["backbone", "row"]), parameters.benchmark.seed)
    return {backbone: own.assign(outcome=found.loc[backbone]) for backbone, own in videos.items()}


def change_unit(measure: str) -> str:
    """The unit of a change: points for a share in percent."""
    unit = MEASURES[measure][2]
    return "points" if unit == "%" else unit


def means(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A row per cell: means of `columns` in the units of MEASURES, their intervals `<column> low`, `<column> high`, n."""
    rows = []
    for key, part in scores.groupby(CELL, sort=False):
        row = dict(zip(CELL, key, strict=True)) | {"n": part["sample"].nunique()}
        for column in columns:
            interval = mean_interval(part[column], part["sample"], proportion=is_proportion(column))
            named = zip((column, f"{column} low", f"{column} high"), interval, strict=True)
            row |= {name: MEASURES[column][1] * value for name, value in named}
        rows.append(row)
    return pd.DataFrame(rows)


def settings(parameters: Parameters) -> dict[str, list[dict]]:
    """The named methods of params.yaml with every field of their classes filled in, and `method`; without those that edit
    inputs."""
    return {
        name: [asdict(from_dict(part)) | {"method": part["method"]} for part in parts]
        for name, parts in parameters.methods.items()
        if not split(parts)[0]
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
