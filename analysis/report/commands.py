"""`python -m analysis import-scores`, `compare` and `rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Full = Annotated[bool, typer.Option("--full", help="the full-size run: results/full")]


def import_scores(
    name: Annotated[str, typer.Argument(help="what the rows are called")],
    scores: Annotated[list[Path], typer.Argument(help="tables of `evaluate`")],
    manifest: Annotated[Path, typer.Option(help="of the scored videos: video, sample, seed, backbone, method ...")],
    benchmark: Annotated[Path | None, typer.Option(help="folder that has the samples' main categories")] = None,
    scorer: Annotated[str | None, typer.Option(help="take the values of this one alone")] = None,
    full: Full = False,
):
    """Join tables of `evaluate` with the manifest of their videos into RESULTS/real/NAME.csv, from which `tables` takes rows."""
    from ..study.results_layout import FULL, SMALL
    from . import imported_scores as imported

    path = imported.import_scores(name, scores, manifest, FULL if full else SMALL, benchmark=benchmark, scorer=scorer)
    table = imported.load_imported(path.parent.parent)[name]
    for metric, part in table[~table["metric"].str.contains("/")].groupby("metric", sort=False):
        without = part["value"].isna().sum()
        said = (
            f"; {without} without a value: {', '.join(sorted(set(part.loc[part['value'].isna(), 'status'])))}"
            if without
            else ""
        )
        print(f"{metric}, {part['estimator'].iloc[0]}: {len(part)} videos{said}")
    print(f"{path}: `python -m analysis tables` has rows of it")


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (import_scores,):
        app.command()(command)
