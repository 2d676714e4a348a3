"""methods/advice.yaml and docs/which_method.md: what `python -m methods advise` tells, written from papers/remedies.yaml, the
published numbers and, once it has been run, the full-size table of notebook 14."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ..study.backbone_settings import family_of
from ..study.files import write_atomically
from ..study.input_edits import split
from ..study.parameters import Parameters
from ..study.results_layout import FULL, notebook_folder
from .findings import interval, number
from .loosening_curves import Remedy, load_remedies, point_of

ADVICE, PAGE, PUBLISHED = Path("methods/advice.yaml"), Path("docs/which_method.md"), Path("papers/published.csv")
NOTEBOOK = "14_loosening"
TITLES = {"alignvid": "AlignVid", "dymos": "DyMoS", "focal_guidance": "Focal Guidance", "alg": "ALG"}
UNITS = {"adherence": "points of adherence", "asked_px": "px of displacement"}


def advice(parameters: Parameters, results: Path = FULL) -> dict:
    """The content of methods/advice.yaml. `parameters`: of the full-size run."""
    named = parameters.notebooks[NOTEBOOK]
    file = notebook_folder(NOTEBOOK, results) / "matched.csv"
    matched = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    published = pd.read_csv(PUBLISHED)
    schedules = {b: noise_levels(parameters, b) for b in named["backbones"]}
    return {
        "loss": named["shown"],
        "measured": bool(len(matched)),
        "remedies": [
            {
                "name": r.name, "label": r.label, "kind": r.kind, "needs_guidance": r.needs_guidance, "code": r.code,
                "check": _checkable(parameters, r), "source": r.source, "noise": _noise(r, schedules),
                "found": _found(matched, r, named["shown"], parameters), "reported": [_reported(published, *cell) for cell in r.reported],
            }
            for r in load_remedies()
        ],
    }  # fmt: skip


def noise_levels(parameters: Parameters, backbone: str) -> tuple[str, list[float]]:
    """("flow" or "diffusion", noise level of every step, and 0) of a backbone's scheduler."""
    from methods.command_line.advise import levels
    from methods.command_line.checkpoint import open_checkpoint

    return levels(open_checkpoint(parameters.backbones[backbone].checkpoint), parameters.backbones[backbone].steps)


def _noise(remedy: Remedy, schedules: dict[str, tuple[str, list[float]]]) -> dict[str, list[float]]:
    """{kind of schedule: [high, low]}, the part of the noise path of the steps in which a remedy acts; {} for all steps."""
    if remedy.window is None:
        return {}
    found = {}
    for kind, noise in schedules.values():
        steps = len(noise) - 1
        inside = [i for i in range(steps) if remedy.window[0] - 1e-9 <= (i + 1) / steps <= remedy.window[1] + 1e-9]
        found.setdefault(kind, [1.0 if inside[0] == 0 else round(noise[inside[0]], 4), round(noise[inside[-1] + 1], 4)])
    return found


def _checkable(parameters: Parameters, remedy: Remedy) -> list[dict]:
    """Methods by which a pipeline is asked whether it takes the remedy; none where files of the testbed would be needed."""
    for setting in remedy.settings:
        _, parts = split(parameters.methods.get(point_of(setting, 1.0)[0], []))
        if parts and not any("clip" in part for part in parts):
            return parts
    return []


def _found(matched: pd.DataFrame, remedy: Remedy, loss: float, parameters: Parameters) -> list[dict]:
    """What the full-size run found at this loss, a row per family, guidance scale and gain; [] where it was not run."""
    if matched.empty:
        return []
    own = matched[(matched["remedy"] == remedy.name) & np.isclose(matched["loss"], loss)]
    return [
        {
            "family": family_of(parameters.backbones[row["backbone"]].pipeline),
            "guidance": float(row["guidance_scale"]), "gain": UNITS[row["gain"]], "reached": bool(row["reached"]),
            **{k: round(float(row[c]), 2) for k, c in (("change", "change"), ("low", "change low"), ("high", "change high"))},
            "clear": bool(row["reached"] and row["change p (Holm)"] < 0.05 and row["change low"] > 0),
            "prompts": int(row["n"]),
        }
        for row in own.to_dict("records")
    ]  # fmt: skip


def _reported(published: pd.DataFrame, paper: str, table: str, without: str, own: str, column: str) -> str:
    """A published change in words. Raises ValueError for a cell that published.csv does not have."""
    values, grades = [], set()
    for row in (without, own):
        cell = published[(published[["paper", "table", "row", "column"]] == [paper, table, row, column]).all(axis=1)]
        if len(cell) != 1:
            raise ValueError(f"{PUBLISHED} has {len(cell)} cells {paper}, {table}, {row}, {column}")
        values.append(str(cell["value"].iloc[0]))
        grades.add(str(cell["grade"].iloc[0]))
    place = f"{TITLES.get(paper, paper)}'s {table.replace('table', 'table ')}"
    graded = "" if grades == {"paper"} else f" ({', '.join(sorted(grades - {'paper'}))} source)"
    return f"{without.split(' | ')[0]}, {column}: {values[0]} to {values[1]} in {place}{graded}"


def write_advice(parameters: Parameters, advice_file: Path = ADVICE, page: Path = PAGE) -> dict:
    """Write methods/advice.yaml and the page, and return the content."""
    content = advice(parameters)
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = None, False, 125
    yaml.dump(content, text)
    head = "# Written by `python -m analysis advice`; read by `python -m methods advise`.\n"
    write_atomically(advice_file, lambda path: path.write_text(head + text.getvalue()))
    write_atomically(page, lambda path: path.write_text(page_of(content)))
    return content


def page_of(content: dict) -> str:
    """docs/which_method.md."""
    lines = [
        "# Which method",
        "",
        "<!-- Written by `python -m analysis advice`; do not edit. -->",
        "What can be tried against videos that leave their reference as it is. `python -m methods advise MODEL` tells the same for a",
        "pipeline of yours, with the numbers for its own schedule and depth. *Acts at noise* is a part of the noise path, from 1, pure",
        'noise, to 0, so that it carries over to other schedulers and numbers of steps: `WINDOW` is `("noise", high, low)`, `BLOCK` the',
        "block at the published share of the depth.",
        "",
    ]
    if content["measured"]:
        lines += [f"*Small world*: what is changed where {number(content['loss'])} dB of the fidelity of what must not change are lost, on",
                  "the small models, with 95 % intervals over prompts; what holds after the correction is bold."]  # fmt: skip
    else:
        lines += ["*Small world*: not measured yet; notebook 14 of the full-size run will tell."]
    lines += [
        "",
        "| remedy | how | acts at noise | small world | reported on real checkpoints | default from |",
        "|---|---|---|---|---|---|",
    ]
    for r in content["remedies"]:
        noise = "; ".join(f"{kind}: {high:g} to {low:g}" for kind, (high, low) in r["noise"].items()) or "all steps"
        found = "; ".join(_in_words(row) for row in r["found"]) or "not measured yet"
        label = r["label"] + (" (needs guidance)" if r["needs_guidance"] else "")
        code = re.sub(r"\{(\w+)[^}]*\}", lambda m: m[1].upper(), r["code"])
        cells = [label, f"`{code}`", noise, found, "; ".join(r["reported"]) or "–", r["source"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _in_words(row: dict) -> str:
    said = f"{number(row['change'], sign=True)} {row['gain']} ({interval(row['low'], row['high'])})"
    where = f"{row['family'].split('Transformer')[0]}, guidance {row['guidance']:g}: "
    return where + (
        f"**{said}**" if row["clear"] else said if row["reached"] else f"never loses so much; {said} at its strongest"
    )
