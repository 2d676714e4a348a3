"""Studies that watch videos while they are made: the first samples of the benchmark, unsteered, one function per video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..study.cells import Cell, expand
from ..study.parameters import Parameters, Sweep
from ..study.progress import track
from .generate import reference_files

Result = TypeVar("Result")
STUDY = "study"  # the name under which the grid is expanded; no sweep of params.yaml


def study_cells(
    parameters: Parameters, backbone: str, samples: int, scales: Iterable[float] = (1.0,)
) -> list[tuple[Cell, Path]]:
    """The unsteered cells of the benchmark's first `samples`, seed 0, at each guidance scale, with their reference images.

    Raises ValueError for more samples than the benchmark has.
    """
    sweep = Sweep(backbone=backbone, samples=samples, seeds=[0], guidance_scale=list(scales))
    alone = parameters.model_copy(update={"sweeps": {STUDY: sweep}})
    cells = expand(alone, STUDY)
    images = reference_files(alone, STUDY, cells)
    return [(cell, images[cell.key]) for cell in cells]


def each_video(
    watch: Callable[..., Result], cells: list[tuple[Cell, Path]], executor: Executor, label: str, **arguments
) -> Iterator[tuple[Cell, Result]]:
    """(cell, `watch(cell, image, **arguments)`) of every cell in order, worked out by `executor` under a progress line."""
    own, images = [c for c, _ in cells], [i for _, i in cells]
    work = executor.map(partial(watch, **arguments), own, images)
    yield from zip(own, track(work, len(own), label), strict=True)


def study_videos(
    parameters: Parameters, backbone: str, samples: int, watch: Callable[..., Result], executor: Executor, label: str,
    **arguments,
) -> dict[str, Result]:  # fmt: skip
    """{sample: `watch(cell, image, backbone=..., **arguments)`} of the benchmark's first `samples`, unsteered, seed 0.

    `watch` makes the cell's video itself, with whatever observes it, in a worker process; it gets the Backbone.
    """
    cells = study_cells(parameters, backbone, samples)
    arguments["backbone"] = parameters.backbones[backbone]
    return {cell.sample: found for cell, found in each_video(watch, cells, executor, label, **arguments)}
