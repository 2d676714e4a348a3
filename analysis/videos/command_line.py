"""`python -m analysis generate` and `merge`. Neither torch nor a model is loaded where nothing has to be made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..study import made_from
from ..study.parameters import Parameters, load_parameters
from ..study.results_layout import runs_folder, sweeps_of

MADE = Path("build/made")  # what the videos and scores on this machine were made from
Sweeps = Annotated[list[str] | None, typer.Argument(help="names in `sweeps` of params.yaml; all by default")]
Lineage = Annotated[str | None, typer.Option(help="all sweeps of a lineage, the first part of their backbones' names")]
Full = Annotated[bool, typer.Option("--full", help="the full-size run: runs/full, results/full")]
Apart = Annotated[
    bool, typer.Option("--apart", help="the sweeps that stand apart, at full size: runs/full, results/full/apart")
]
Workers = Annotated[int | None, typer.Option(help="processes; one per GPU or per core by default")]


def chosen(parameters: Parameters, sweeps: list[str] | None, lineage: str | None) -> list[str]:
    """The sweeps that a command is for: those named, those of a lineage, or all. Raises ValueError for both, and for one
    without a full size where that is asked for."""
    if sweeps and lineage:
        raise ValueError(f"give names of sweeps or --lineage {lineage}, not both")
    others = [s for s in sweeps or [] if s not in parameters.sweeps] if parameters.full_size else []
    if others and others[0] in load_parameters(full=True, apart=True).sweeps:
        raise ValueError(f"sweep {others[0]!r} stands apart from the full-size run: give --apart")
    if others and others[0] in load_parameters().sweeps:
        raise ValueError(f"sweep {others[0]!r} has no full size: give it `full: {{samples: ..., seeds: [...]}}`")
    return sweeps_of(parameters, lineage) if lineage else sweeps or list(parameters.sweeps)


def generate(
    sweeps: Sweeps = None,
    lineage: Lineage = None,
    full: Full = False,
    apart: Apart = False,
    workers: Workers = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only every n-th video; `merge` writes the manifest when all are done")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="make only what is failed, corrupt, missing: one or more, with commas")
    ] = None,
    stop_after: Annotated[int, typer.Option(min=1, help="failures of one kind in a row after which the run ends")] = 3,
    prune: Annotated[
        bool, typer.Option("--prune", help="delete videos of older grids, which lie in runs/trash, for good")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="address of a Dask scheduler, whose workers have one thread each, instead of local processes"
        ),
    ] = None,
):
    """Make the videos of sweeps of params.yaml in runs/LINEAGE/STUDY, keeping those that exist; status 1 if one could not be
    made."""
    parameters = load_parameters(full=full or apart, apart=apart)
    asked = chosen(parameters, sweeps, lineage)
    files = {s: MADE / "videos" / runs_folder(parameters, s) for s in asked}
    if shard is None and only is None:  # unchanged sweeps are skipped before torch is loaded
        files = {s: f for s, f in files.items() if not made_from.is_noted(f, made_from.of_videos(parameters, s))}
        if not files:
            print("nothing to make: no setting, checkpoint or code of these sweeps has changed")
    failures = 0
    if files:
        from ..study.dask_workers import dask_executor
        from .generate import default_executor
        from .generate import generate as make

        wanted = [state.strip() for state in only.split(",")] if only else []
        with dask_executor(scheduler) if scheduler else default_executor(workers) as executor:
            for sweep, file in files.items():
                failed = make(parameters, sweep, executor, part=shard, only=wanted, stop_after=stop_after)
                if shard is None and not failed:  # failed videos are tried again
                    made_from.note(file, made_from.of_videos(parameters, sweep))
                failures += failed
    if prune:
        from .stored_files import empty_trash, trash_folder

        deleted = sum(empty_trash(trash_folder(parameters, sweep)) for sweep in asked)
        print(f"{deleted} videos of older grids were deleted")
    if failures:
        print(
            f"{failures} videos were not made; they count as wrong. `generate --only failed,corrupt` tries them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def merge(
    sweeps: Sweeps = None,
    lineage: Lineage = None,
    full: Full = False,
    apart: Apart = False,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", help="another machine's runs/ (runs/full with --full), copied first; repeatable"),
    ] = None,
):
    """Write the manifests of sweeps whose videos were made in shards. Nothing is made: status 1 if a video is missing, failed or
    corrupt, and the manifest says which."""
    parameters = load_parameters(full=full or apart, apart=apart)
    from .generate import merge as merge_sweep
    from .records import count_states

    bad = 0
    for sweep in chosen(parameters, sweeps, lineage):
        counts = count_states(merge_sweep(parameters, sweep, source or []))
        print(f"{sweep}: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
        if counts["ok"] == sum(counts.values()):
            made_from.note(MADE / "videos" / runs_folder(parameters, sweep), made_from.of_videos(parameters, sweep))
        bad += sum(counts.values()) - counts["ok"]
    if bad:
        raise typer.Exit(1)
