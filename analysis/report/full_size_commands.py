"""The commands of the full-size run: make its sweeps, verify and describe them, and count the passes of a video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..study.parameters import load_parameters
from ..study.results_layout import passes_file, sweeps_of
from ..videos.command_line import Apart, Full, Workers


def full(lineage: str, apart: Apart = False, workers: Workers = None):
    """Make and score the sweeps of a lineage at full size, one after the other. A sweep whose cells and scoring have not
    changed since its scores were written keeps them, also where its videos are gone."""
    parameters = load_parameters(full=True, apart=apart)
    from ..videos.generate import default_executor
    from .full_size_run import make_sweep

    with default_executor(workers) as executor:
        for sweep in sweeps_of(parameters, lineage):
            print(f"{sweep}: {make_sweep(parameters, sweep, executor)}", flush=True)


def verify_full(
    videos: Annotated[
        int, typer.Option(help="how many are made again: each method of each sweep once, and more")
    ] = 240,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    accept: Annotated[bool, typer.Option(help="if all are equal, note that this code makes the whole run")] = False,
    workers: Workers = None,
):
    """Make a sample of the full-size run's videos again and compare every score with the written one, in
    results/full/verified.csv; ends with status 1 if one differs."""
    parameters = load_parameters(full=True)
    from ..videos.generate import default_executor
    from . import verify_full_size as full_size

    out = parameters.results / "verified.csv"
    with default_executor(workers) as executor:
        table = full_size.verify(parameters, executor, Path("build/verify"), out, count=videos, seed=seed)
    same, wrong = (table["differing"] == "").sum(), table[table["wrong"] != ""]
    print(f"{same} of {len(table)} videos have every score as written, {len(table) - same - len(wrong)} but for the last "
          f"digit; largest relative difference of {table['statistics'].sum()} recorded statistics: "
          f"{table['statistics_largest'].max():.1e}")  # fmt: skip
    if not full_size.is_equal(table):
        print(wrong[["sweep", "method", "sample", "wrong"]].to_string(), file=sys.stderr)
        raise typer.Exit(1)
    if accept:
        print(f"{full_size.accept(parameters)} sweeps are noted as made by this code")


def describe_full():
    """Write results/full/README.md: the sweeps of the full-size run, their samples and seeds, and the machine."""
    from .full_size_readme import describe_run

    parameters = load_parameters(full=True)
    describe_run(parameters, parameters.results / "README.md")


def count_passes(lineage: str, full: Full = False, workers: Workers = None):
    """Count the passes of the transformer per video of every setting of notebook 14 into RESULTS/passes/LINEAGE.csv."""
    parameters = load_parameters(full=full, apart=full)
    from ..videos.count_passes import count_passes
    from ..videos.generate import default_executor
    from .loosening_curves import of_this_study

    sweeps = [s for s in sweeps_of(parameters, lineage) if of_this_study(parameters, s)]
    if not sweeps:
        raise ValueError(f"params.yaml has no sweep loosening of {lineage} in a run of this size")
    out = passes_file(lineage, parameters.results)
    with default_executor(workers) as executor:
        print(count_passes(parameters, sweeps, executor, out).to_string(index=False))


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (full, verify_full, describe_full, count_passes):
        app.command()(command)
