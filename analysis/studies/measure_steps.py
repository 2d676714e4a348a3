"""`study plan --measure N`: make the first N videos of each sweep that are missing, so that their time is known."""

from __future__ import annotations

from pathlib import Path

from ..study.cells import expand
from ..study.parameters import Parameters
from ..study.results_layout import runs_folder
from ..videos.generate import default_executor, reference_files, run_cell
from ..videos.records import sweep_states


def make_some(parameters: Parameters, count: int) -> None:
    """Make at most `count` videos of each sweep, one at a time, in the study's folder; they are the study's own videos and are not
    made again. The first of a sweep has what only a first one needs, such as the compilation of kernels.

    Raises ValueError with the reason if one cannot be made, and for a count below 1.
    """
    if count < 1:
        raise ValueError(f"--measure is {count}; at least 1 is wanted")
    with default_executor(1) as executor:
        for sweep, grid in parameters.sweeps.items():
            cells, folder = expand(parameters, sweep), runs_folder(parameters, sweep)
            states = sweep_states(parameters, sweep)
            made = sum(s.state == "ok" for s in states)
            todo = [s.cell for s in states if s.state != "ok"][: max(0, count - made)]
            images, backbone = reference_files(parameters, sweep, cells), parameters.backbones[grid.backbone]
            folder.mkdir(parents=True, exist_ok=True)
            for cell in todo:
                status, reason = executor.submit(
                    run_cell, cell, backbone, images[cell.key], folder, Path.cwd()
                ).result()
                if status != "ok":
                    raise ValueError(f"{sweep}: {cell.sample}, {cell.method} could not be made: {reason}")
