"""Generate the videos of a sweep with the diffusers pipelines, in several processes, resuming where a run stopped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, as_completed
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from ..study.benchmark_samples import load_samples
from ..study.cells import Cell, expand
from ..study.files import check_writable
from ..study.parameters import Parameters
from ..study.progress import track
from ..study.results_layout import other_runs_folder, runs_folder
from ..study.workers import gpu_pool, stopping, visible_gpus, worker_pool
from .load_backbone import check_backbone, load_pipeline
from .records import (
    STATES,
    VideoState,
    count_states,
    kind_of,
    mixed_machines,
    reasons,
    shard,
    state_of,
    sweep_states,
    write_tables,
)
from .run_cell import run_cell
from .sample_video import reference_image, sample_video
from .stored_files import bring_back, remove_abandoned, set_aside, take_over, trash_folder

__all__ = ["default_executor", "generate", "load_pipeline", "merge", "reference_files", "reference_image", "run_cell",
           "sample_video"]  # fmt: skip

# glibc reads these when a process starts; without them it hands large tensors back to the system after every operation.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4294967296")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "4294967296")

ALIKE = 3  # failures of the same kind in a row after which a run ends
PULSE = 10.0  # seconds between looks at whether a cluster still has workers


def _one_thread():
    torch.set_num_threads(1)


def default_executor(workers: int | None = None) -> AbstractContextManager[Executor]:
    """One process per GPU, each of which sees its own alone, or one single-threaded process per core (which beats fewer
    with more threads). Raises ValueError for more workers than GPUs."""
    gpus = visible_gpus(torch.cuda.device_count())
    return stopping(gpu_pool(gpus, workers) if gpus else worker_pool(workers, _one_thread))


def generate(
    parameters: Parameters,
    sweep: str,
    executor: Executor,
    *,
    part: str | None = None,
    only: Collection[str] = (),
    stop_after: int = ALIKE,
) -> int:
    """Make all videos of a sweep in its folder of runs/ and write the manifest; how many cells have no sound video at the end.

    Videos that exist and are what was written are kept, so a killed run goes on, and a changed grid costs its new cells
    only; those of an older grid are moved to runs/trash, from where they come back with it.
    part: "i/n", a shard: no manifest is written (see `merge`). only: states ("failed", "corrupt", "missing") of the cells
    that are made. Raises ValueError after `stop_after` failures of the same kind in a row; what is finished is kept.
    """
    cells = expand(parameters, sweep)
    name = parameters.sweeps[sweep].backbone
    backbone, folder = parameters.backbones[name], runs_folder(parameters, sweep)
    images = reference_files(parameters, sweep, cells)
    if unknown := [state for state in only if state not in STATES[1:]]:
        raise ValueError(f"--only has {unknown[0]!r}; allowed are {', '.join(STATES[1:])}")
    mine = shard(cells, part)
    check_writable(folder)
    if part is None:  # it would say that the sweep is whole, also when this run is cut off
        (folder / "manifest.csv").unlink(missing_ok=True)
    remove_abandoned(folder)
    bring_back(mine, trash_folder(parameters, sweep), folder)
    take_over(mine, other_runs_folder(parameters, sweep), folder)
    before = [state_of(cell, folder, deep=True) for cell in mine]
    todo = [s.cell for s in before if (s.state in only if only else s.state != "ok" or _unread(s))]
    if todo:
        check_backbone(name, backbone)
        counts = ", ".join(f"{n} {state}" for state, n in count_states(before).items() if n)
        _say(f"generate {sweep}: {len(mine)} videos, {counts}")
    root = Path.cwd()
    jobs = {executor.submit(run_cell, c, backbone, images[c.key], folder, root): c.key for c in todo}
    outcome = _outcomes(jobs, executor, folder, f"generate {sweep}", stop_after)
    after = [_with(outcome, state_of(cell, folder)) for cell in cells]
    own = [s for s in after if s.cell.key in {c.key for c in mine}]
    if part is None:
        if moved := set_aside(folder, trash := trash_folder(parameters, sweep), cells):
            _say(f"generate {sweep}: {moved} videos that are not in the grid any more are in {trash}; "
                 f"`generate {sweep} --prune` deletes them")  # fmt: skip
        if not only or not count_states(after)["missing"]:
            write_tables(folder, after, images)
    _report(sweep, own)
    return sum(s.state != "ok" for s in own)


def merge(parameters: Parameters, sweep: str, sources: Iterable[Path] = ()) -> list[VideoState]:
    """Write the manifest of a sweep from the videos that are there, and make none: where each cell stands, checksums compared.

    sources: other folders like runs/ (or runs/full, for the full-size run), whose videos of this sweep are copied first.
    """
    cells, folder = expand(parameters, sweep), runs_folder(parameters, sweep)
    check_writable(folder)
    for source in sources:
        if not source.is_dir():
            raise ValueError(f"no folder {source} to merge from")
        take_over(cells, source / folder.relative_to(parameters.runs), folder)
        _take_over_failures(cells, source / folder.relative_to(parameters.runs), folder)
    states = sweep_states(parameters, sweep, deep=True)
    write_tables(folder, states, reference_files(parameters, sweep, cells))
    _report(sweep, states)
    return states


def reference_files(parameters: Parameters, sweep: str, cells: Iterable[Cell]) -> dict[str, Path]:
    """Where each cell's reference image is, by the cell's key."""
    if (source := parameters.sweeps[sweep].reference) != "own":
        return {c.key: runs_folder(parameters, source) / f"{c.image}.mkv" for c in cells}
    folder = parameters.benchmark_of(sweep).folder
    files = {s["id"]: folder / s["image-path"] for s in load_samples(folder)}
    return {c.key: files[c.sample] for c in cells}


def _unread(state: VideoState) -> bool:
    """Whether a video that is taken for ok was never compared with anything: an older version wrote no checksums."""
    return state.record is None or not state.record.sha256


def _outcomes(
    jobs: dict[Future, str], executor: Executor, folder: Path, label: str, stop_after: int
) -> dict[str, tuple[str, str]]:
    """{key: (status, reason)} of all jobs. Raises ValueError after `stop_after` alike failures in a row."""
    outcome, kind, in_a_row = {}, "", 0
    for job in track(_finished(jobs, executor), len(jobs), label):
        status, reason = job.result()
        if status == "ok" and not _is_here(folder / f"{jobs[job]}.mkv", patient=hasattr(executor, "check")):
            status, reason = "failed", f"a worker has made a video that is not in {folder}: it needs this very folder"
        outcome[jobs[job]] = status, reason
        same = kind_of(reason)
        in_a_row = in_a_row + 1 if status != "ok" and same == kind else int(status != "ok")
        kind = same
        if in_a_row >= stop_after:
            raise ValueError(
                f"stopped after {in_a_row} failures of one kind in a row; the last: {reason}. "
                f"{sum(s == 'ok' for s, _ in outcome.values())} videos were made and are kept; the next run goes on"
            )
    return outcome


def _finished(jobs: Iterable[Future], executor: Executor) -> Iterator[Future]:
    """Jobs as they finish; meanwhile an executor that has a `check` may raise."""
    check, pending = getattr(executor, "check", None), set(jobs)
    for job in [job for job in jobs if job.done()]:  # as_completed has these in no order
        pending.discard(job)
        yield job
    while pending:
        try:
            for job in as_completed(set(pending), timeout=PULSE if check else None):
                pending.discard(job)
                yield job
        except TimeoutError:
            check()


def _is_here(video: Path, *, patient: bool) -> bool:
    """Whether a worker's video has arrived: a shared folder shows it some seconds later on another machine."""
    end = time.monotonic() + (10 if patient else 0)
    while not video.is_file():
        if time.monotonic() >= end:
            return False
        time.sleep(0.5)
    return True


def _with(outcome: dict[str, tuple[str, str]], state: VideoState) -> VideoState:
    """The state of a cell, with the reason of a failure that no record could be written of."""
    status, reason = outcome.get(state.cell.key, ("ok", ""))
    return replace(state, state="failed", reason=reason) if state.state == "missing" and status == "failed" else state


def _take_over_failures(cells: Iterable[Cell], source: Path, folder: Path) -> None:
    for cell in cells:
        failure = source / f"{cell.key}.json"
        if (
            failure.is_file()
            and not (folder / f"{cell.key}.mkv").exists()
            and not (source / f"{cell.key}.mkv").exists()
        ):
            (folder / failure.name).write_bytes(failure.read_bytes())


def _report(sweep: str, states: list[VideoState]) -> None:
    for state, reason, count in reasons(states):
        _say(f"{sweep}: {count} {state}{', the first' if count > 1 else ''}: {reason}")
    for difference in mixed_machines(states):
        _say(f"{sweep}: videos were made with different versions or devices, and last digits may differ: {difference}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
