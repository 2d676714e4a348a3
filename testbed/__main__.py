"""`python -m testbed train`, `benchmark`: the embedded world and its models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command_line import run

CHECKPOINTS, BENCHMARK, TRAINING = Path("testbed/checkpoints"), Path("testbed/benchmark"), Path("build/training")
LINEAGES = ("wan", "cogvideox")
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


def parameters() -> dict:
    """params.yaml as it stands."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())


@app.command()
def train(
    lineages: Annotated[list[str] | None, typer.Argument(help="wan, cogvideox; both by default")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; one per core by default")] = None,
):
    """Train every model from nothing into testbed/checkpoints; a killed run goes on where it was."""
    from .train import train_all

    for lineage in lineages or LINEAGES:
        train_all(lineage, parameters()["testbed"], TRAINING / lineage, CHECKPOINTS, workers)


@app.command()
def benchmark():
    """Draw the benchmark's samples into testbed/benchmark."""
    from .benchmark import write_benchmark

    write_benchmark(BENCHMARK, parameters()["benchmark"]["seed"])


if __name__ == "__main__":
    run(app)
