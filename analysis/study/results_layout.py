"""Where everything lies: the one place that knows the folders of videos, scores, tables and executed notebooks.

A *lineage* is the first part of a backbone's name (`wan` of `wan-i2v`); a *study* is a sweep's name without its lineage in
front, so that `blur` and `cogvideox-blur` are one study on two lineages. `results` is the folder of the small run, or
`results/full` of the full-size one.

    runs/<lineage>/<study>/KEY.mkv, manifest.csv            videos; those of the full-size run are in runs/full/
    <results>/sweeps/<lineage>/<study>/scores.csv           also strips.webp, attention-cells.csv, -steps.csv, -frames.csv
    <results>/<notebook>/<notebook>.ipynb                   also its figures and tables
    <results>/claims/                                       claims.md, claims.csv, ledger.csv
    results/studies/<study of attention>/<lineage>/*.csv    token-maps, semantic-layers, foreground, attended-words,
                                                       keyword-anchors
    results/autoencoder/<lineage>.csv
    <results>/passes/<lineage>.csv                          passes per video of the settings of notebook 14
    results/bench/*.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .parameters import Parameters

SMALL, FULL = Path("results"), Path("results/full")
SMALL_RUNS, FULL_RUNS = Path("runs"), Path("runs/full")
SCORES, STRIPS = "scores.csv", "strips.webp"
CELLS, STEPS, FRAMES = "attention-cells.csv", "attention-steps.csv", "attention-frames.csv"
ATTENTION_STUDIES = ("token-maps", "semantic-layers", "foreground", "attended-words", "keyword-anchors")


def lineage_of(backbone: str) -> str:
    """`wan` of `wan-i2v` and `wan-i2v-control`: backbones of one lineage share a folder."""
    return backbone.split("-")[0]


def study_of(sweep: str, lineage: str) -> str:
    """`blur` of `cogvideox-blur` in the lineage `cogvideox`; a sweep without the prefix is named like its study."""
    return sweep.removeprefix(f"{lineage}-")


def place_of(parameters: Parameters, sweep: str) -> Path:
    """`<lineage>/<study>` of a sweep. Raises ValueError for an unknown one."""
    if sweep not in parameters.sweeps:
        raise ValueError(f"unknown sweep {sweep!r}; params.yaml has {list(parameters.sweeps)}")
    lineage = lineage_of(parameters.sweeps[sweep].backbone)
    return Path(lineage) / study_of(sweep, lineage)


def sweeps_of(parameters: Parameters, lineage: str) -> list[str]:
    """The sweeps of a lineage, in the order of params.yaml. Raises ValueError for a lineage that has none."""
    names = [name for name, sweep in parameters.sweeps.items() if lineage_of(sweep.backbone) == lineage]
    if not names:
        known = sorted({lineage_of(sweep.backbone) for sweep in parameters.sweeps.values()})
        raise ValueError(f"no sweep of a lineage {lineage!r}; params.yaml has {', '.join(known)}")
    return names


def runs_folder(parameters: Parameters, sweep: str) -> Path:
    """The folder of a sweep's videos and manifest, of the run that `parameters` is for."""
    return parameters.runs / place_of(parameters, sweep)


def other_runs_folder(parameters: Parameters, sweep: str) -> Path:
    """The folder of the sweep's videos in the run of the other size, some of which are the same videos."""
    return (SMALL_RUNS if parameters.full_size else FULL_RUNS) / place_of(parameters, sweep)


def sweep_folder(parameters: Parameters, sweep: str, results: Path | str | None = None) -> Path:
    """The folder of a sweep's scores, film strips and attention tables, in `results` or the folder of `parameters`' run."""
    apart = parameters.full_size and parameters.sweeps[sweep].apart
    place = place_of(parameters, sweep)
    return Path(results if results is not None else parameters.results) / ("apart" if apart else "sweeps") / place


def tables_of(parameters: Parameters, sweep: str) -> list[str]:
    """The tables that a sweep has in its folder: its scores and, where attention was recorded, summaries of it."""
    record = parameters.sweeps[sweep].record
    if record is None:
        return [SCORES]
    return [SCORES, STEPS, *([CELLS] if record.entropy or record.groups else []), *([FRAMES] if record.frames else [])]


def notebook_folder(name: str, results: Path | str = SMALL) -> Path:
    """The folder of an executed notebook, its figures and its tables."""
    return Path(results) / name


def claims_folder(results: Path | str = SMALL) -> Path:
    """The folder of claims.md, claims.csv and ledger.csv."""
    return Path(results) / "claims"


def attention_study_folder(study: str, backbone: str = "", results: Path | str = SMALL) -> Path:
    """The folder of a study's tables for the lineage of `backbone`, or of all lineages. Raises ValueError for an unknown
    study."""
    if study not in ATTENTION_STUDIES:
        raise ValueError(f"unknown study {study!r}; there are {list(ATTENTION_STUDIES)}")
    return Path(results) / "studies" / study / lineage_of(backbone)


def autoencoder_file(backbone: str, results: Path | str = SMALL) -> Path:
    """The table of what the autoencoder of a backbone's lineage alone costs."""
    return Path(results) / "autoencoder" / f"{lineage_of(backbone)}.csv"


def instruments_file(backbone: str, results: Path | str = SMALL) -> Path:
    """The table of how far each measure is from the truth, behind the autoencoder of a backbone's lineage."""
    return Path(results) / "instruments" / f"{lineage_of(backbone)}.csv"


def bench_folder(results: Path | str = SMALL) -> Path:
    """The folder of the tables that `make bench` writes, named after the kind of machine."""
    return Path(results) / "bench"


def passes_file(backbone: str, results: Path | str = SMALL) -> Path:
    """The table of counted passes of the transformer per video, of the settings of notebook 14."""
    return Path(results) / "passes" / f"{lineage_of(backbone)}.csv"
