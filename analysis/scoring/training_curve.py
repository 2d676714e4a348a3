"""How adherence grew with the image-to-video training: the states kept while training, sampled and scored."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import pandas as pd

from testbed.train import assemble_one

from ..study.benchmark_samples import load_samples
from ..study.cells import Cell
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters
from ..videos.generate import run_cell
from ..videos.study_videos import each_video, study_cells
from .score_video import score_video

FOLDER = "curve"  # its videos go to runs/curve


def _make(cell: Cell, image: Path, backbone: Backbone, folder: Path) -> tuple[str, str]:
    return run_cell(cell, backbone, image, folder)


def adherence_curve(
    parameters: Parameters,
    name: str,
    training: Path,
    out: Path,
    executor: Executor,
    *,
    samples: int,
    scales: list[float],
) -> pd.DataFrame:
    """Write `out` (CSV): samples seen in training, guidance scale, event, n, share with all questions right.

    name: a backbone of the testbed; training: the folder of its lineage, with a state per file
    `<training>/snapshots/i2v-<samples seen>.safetensors`. Raises FileNotFoundError without any.
    """
    lineage, states = name.split("-")[0], sorted((training / "snapshots").glob("i2v-[0-9]*.safetensors"))
    if not states:
        raise FileNotFoundError(f"no snapshots in {training / 'snapshots'}: run `make train-testbed` first")
    records = {s["id"]: s for s in load_samples(parameters.benchmark.folder)}
    rows = []
    for state in states:
        seen = int(state.stem.removeprefix("i2v-"))
        folder = Path("runs") / FOLDER / name / state.stem
        assemble_one(lineage, training, state, folder / "pipeline", image_to_video=True)
        backbone = parameters.backbones[name].model_copy(update={"checkpoint": str(folder / "pipeline")})
        own = parameters.model_copy(update={"backbones": {name: backbone}})
        cells = study_cells(own, name, samples, scales)
        made = each_video(_make, cells, executor, f"curve {name} {state.stem}", backbone=backbone, folder=folder)
        for cell, (status, reason) in made:
            image = parameters.benchmark.folder / records[cell.sample]["image-path"]
            row = {"key": cell.key, "status": status, "reason": reason, "reference": str(image)}
            scored = score_video(row, records[cell.sample], folder=folder, frames=backbone.frames)
            event = records[cell.sample]["sub-category"].split("-")[0]
            found = {"samples_seen": seen, "guidance_scale": cell.guidance_scale, "event": event}
            rows.append(found | {"right": scored["adherence"]})
    table = (
        pd.DataFrame(rows).groupby(["samples_seen", "guidance_scale", "event"])["right"].agg(n="size", adherence="mean")
    )
    table = table.reset_index().round({"adherence": 3})
    write_table(table, out)
    return table
