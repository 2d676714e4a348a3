"""Videos of a combination on the prompts of a split, made and scored; videos that are there are kept."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pandas as pd

from ..report.loosening_curves import with_kept
from ..scoring.score_video import score_video
from ..study.backbone_settings import Backbone
from ..study.benchmark_samples import load_samples
from ..study.cells import Cell, expand
from ..study.parameters import Benchmark, Parameters, Sweep
from ..study.progress import track
from ..study.search_settings import Split
from ..videos.generate import reference_files
from ..videos.run_cell import run_cell
from .combinations import Combination

TRIED = "tried"  # the name under which a combination is expanded; nothing of params.yaml


def cells_of(
    parameters: Parameters, backbone: str, combination: Combination, split: Split, prompts: Path
) -> list[tuple[Cell, Path]]:
    """The cells of a combination on the prompts in a folder, with their reference images. Raises ValueError for a part that
    does not exist or is refused."""
    sweep = Sweep(
        backbone=backbone, samples=split.prompts, seeds=split.seeds, guidance_scale=[parameters.search.guidance_scale],
        blur=[combination.blur], methods=[TRIED], benchmark=TRIED,
    )  # fmt: skip
    alone = parameters.model_copy(
        update={
            "benchmarks": {TRIED: Benchmark(folder=prompts)},
            "sweeps": {TRIED: sweep},
            "methods": {TRIED: list(combination.parts)},
        }
    )
    cells = expand(alone, TRIED)
    images = reference_files(alone, TRIED, cells)
    return [(cell, images[cell.key]) for cell in cells]


def make_and_score(cell: Cell, image: Path, sample: dict, *, backbone: Backbone, folder: Path, root: Path) -> dict:
    """The scores of a cell's video, which is made first if it is not there; {"status": "failed", "reason": ...} if it cannot."""
    status, reason = run_cell(cell, backbone, image, folder, root)
    row = {"key": cell.key, "sample": cell.sample, "seed": cell.seed, "status": status, "reason": reason}
    return (
        score_video(row | {"reference": str(image)}, sample, folder=folder, frames=backbone.frames)
        if status == "ok"
        else row
    )


def evaluate(
    combination: Combination, *, parameters: Parameters, backbone: str, split: Split, prompts: Path, runs: Path,
    executor: Executor,
) -> pd.DataFrame:  # fmt: skip
    """A row per video with its scores and the fidelity of `with_kept`. Raises ValueError, with the first reason, if a video cannot be made."""
    cells = cells_of(parameters, backbone, combination, split, prompts)
    samples = {s["id"]: s for s in load_samples(prompts)}
    work = partial(make_and_score, backbone=parameters.backbones[backbone], folder=runs, root=Path.cwd())
    found = executor.map(work, *zip(*cells, strict=True), [samples[cell.sample] for cell, _ in cells])
    label = " + ".join(combination.names) or "unsteered"
    table = pd.DataFrame(list(track(found, len(cells), label)))
    if len(failed := table[table["status"] != "ok"]):
        raise ValueError(f"{label}: {len(failed)} of {len(table)} videos cannot be made; {failed['reason'].iloc[0]}")
    table.columns = [c.replace("-", "_") for c in table.columns]
    return with_kept(table)
