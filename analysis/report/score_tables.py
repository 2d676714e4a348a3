"""The result tables of sweeps and studies: scores, summaries of recorded attention, and film strips' neighbours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..study.parameters import Parameters
from ..study.results_layout import SCORES, attention_study_folder, autoencoder_file, sweep_folder
from ..study.score_columns import MOTION, PARTIAL

ALWAYS = "flow_px"  # every video that was scored has it, so that a column not defined is told from a video that failed

ATTENTION = ("attention-cells.csv", "attention-steps.csv", "attention-frames.csv")


class NoTables(ValueError):
    """No sweep has a table in the folder."""


def _read(path: Path, made_by: str) -> pd.DataFrame:
    if not path.is_file():
        raise NoTables(f"no {path}: run `dvc repro`, or `python -m analysis {made_by}`")
    return pd.read_csv(path)


def sweep_table(
    parameters: Parameters, sweep: str, table: str = SCORES, results: Path | str | None = None
) -> pd.DataFrame:
    """A table of one sweep: `scores.csv`, or one of ATTENTION of a recorded sweep. Raises NoTables if it is not there,
    ValueError for an unknown sweep."""
    folder = sweep_folder(parameters, sweep, results)
    return _read(folder / table, f"score {sweep}")


def study_table(study: str, backbone: str, table: str, results: Path | str = "results") -> pd.DataFrame:
    """A table (`layers`, `maps`, `ratios`, `words` ...) of an attention study of a backbone's lineage, such as
    `study_table("foreground", "wan-i2v", "ratios")`. Raises NoTables if it is not there."""
    return _read(attention_study_folder(study, backbone, results) / f"{table}.csv", f"{study} --backbone {backbone}")


def autoencoder_table(backbone: str) -> pd.DataFrame:
    """What the autoencoder of a backbone's lineage alone costs, a row per question. Raises NoTables if it is not there."""
    return _read(autoencoder_file(backbone), f"reconstruct --backbone {backbone}")


def videos_of(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows of one setting that a column is of, one per sample and seed; a setting that two sweeps have is the same video.

    Measures of asked motion are of whichever sweep measured them, all others of the sweeps of all categories, which a sweep of
    one would unbalance. Samples for which a column is not defined are left out; videos that failed are not.
    """
    if column not in MOTION:
        rows = rows[rows["categories"] == ""]
    if column in PARTIAL and column in rows and rows[column].notna().any():
        rows = rows[rows[column].notna() | rows[ALWAYS].isna()]
    return rows.drop_duplicates(["sample", "seed"])


def gather(parameters: Parameters, results: Path | str | None = None, table: str = SCORES) -> pd.DataFrame:
    """The tables of that name of all sweeps that have one and do not stand apart, in the order of params.yaml.

    Columns `sweep`, `backbone`, `prompts` ("own" or "shuffled"), `reference` ("own", or "twin" where the references are
    another sweep's videos) and `categories` ("" for all, else those that the sweep is confined to) say what a row is of. A setting that two sweeps have is the same video twice. Raises NoTables,
    a ValueError, if there is none.
    """
    tables = []
    for name, sweep in parameters.sweeps.items():
        if sweep.apart:
            continue
        if (path := sweep_folder(parameters, name, results) / table).is_file():
            known = {"sweep": name, "backbone": sweep.backbone, "prompts": sweep.prompts}
            known["reference"] = "own" if sweep.reference == "own" else "twin"
            known["categories"] = " ".join(sweep.categories)
            tables.append(pd.read_csv(path).assign(**known))
    if not tables:
        where = parameters.results if results is None else results
        raise NoTables(f"no sweep has a {table} in {where}: run `dvc repro`, or name the folder that has them")
    return pd.concat(tables, ignore_index=True)
