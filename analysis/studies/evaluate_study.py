"""`study evaluate`: every video of a study, made or not, through scorers; a table of scores for each in results/scores/."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path

from ..scorers.evaluate import FIELDS, Settings, evaluate, write_scores
from ..scorers.manifest import read_manifest
from ..scorers.registry import make_scorer
from ..scorers.scorer import Scorer
from ..study.benchmark_samples import load_samples
from ..study.files import write_atomically
from ..study.parameters import Parameters
from ..study.results_layout import runs_folder
from .export_videos import relative, states_of

MANIFEST, SCORES, CACHE = Path("results/manifest.csv"), Path("results/scores"), Path("build/evaluated")
COLUMNS = ("video", "image", "prompt", "id", "questions", "fps", "sweep", "backbone", "method", "seed", "guidance_scale",
           "main_category")  # fmt: skip


def write_manifest(parameters: Parameters, names: dict[str, str], path: Path = MANIFEST) -> list[dict[str, str]]:
    """A row for every cell, in the order of the sweeps' grids, whether its video is there or not. names: of
    backbones, as the paper calls them. Run it in the study's folder."""
    folders = {sweep: parameters.benchmark_of(sweep).folder for sweep in parameters.sweeps}
    samples = {folder: {s["id"]: s for s in load_samples(folder)} for folder in set(folders.values())}
    rows = []
    for sweep, state in states_of(parameters):
        cell, folder = state.cell, folders[sweep]
        sample = samples[folder][cell.sample]
        image = folder / sample["image-path"]
        if state.record and state.record.reference:  # what the model was given, cropped or padded
            image = runs_folder(parameters, sweep) / state.record.reference
        rows.append({
            "video": relative(state.path, path.parent), "image": relative(image, path.parent), "prompt": cell.prompt,
            "id": cell.sample, "questions": json.dumps(sample.get("questions") or []),
            "fps": str(parameters.backbones[cell.backbone].fps), "sweep": sweep,
            "backbone": names.get(cell.backbone, cell.backbone), "method": cell.method, "seed": str(cell.seed), "guidance_scale": f"{cell.guidance_scale:g}",
            "main_category": sample.get("main-category", ""),
        })  # fmt: skip

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
    return rows


def evaluate_study(
    parameters: Parameters, scorers: list[str], workers: int | None = None, names: dict[str, str] | None = None
) -> dict[str, dict[str, int]]:
    """{scorer: {status: how many rows}}; writes results/scores/SCORER.csv for each. Run it in the study's folder.

    Raises ValueError for a scorer that is unknown or cannot run here, before a video is opened.
    """
    if not scorers:
        raise ValueError("no scorer is named: --scorers NAME; `python -m analysis scorers` lists them")
    write_manifest(parameters, names or {})
    rows, _ = read_manifest(MANIFEST)
    lines, counts = evaluate(rows, scorers, Settings(CACHE), workers), {}
    made = {scorer.spelled(): scorer for scorer in map(make_scorer, scorers)}
    names = dict.fromkeys(line[FIELDS.index("scorer")] for line in lines)
    for name in names:
        own = [line for line in lines if line[FIELDS.index("scorer")] == name]
        file = SCORES / f"{re.sub(r'[^A-Za-z0-9_.=,-]+', '_', name)}.csv"
        _describe(made[name], file.with_suffix(".json"))
        write_scores(own, file)
        statuses = [line[FIELDS.index("status")] for line in own]
        counts[name] = {s: statuses.count(s) for s in dict.fromkeys(statuses)}
    return counts


def _describe(scorer: Scorer, path: Path) -> None:
    """Write what the scorer's metrics are beside its table: which columns of papers they fill, unit, range, and estimator."""
    said = {
        "scorer": scorer.spelled(), "version": scorer.version, "inputs": list(scorer.inputs),
        "metrics": {name: asdict(metric) for name, metric in scorer.metrics.items() if not metric.per_item},
    }  # fmt: skip
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(said, indent=1) + "\n"))
