"""The tables of all sweeps as one: scores, and summaries of recorded attention."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..study.parameters import Parameters


class NoTables(ValueError):
    """No sweep has a table in the folder."""


def gather(parameters: Parameters, folder: Path | str, pattern: str = "{}.csv") -> pd.DataFrame:
    """The tables `<folder>/<pattern>`, {} being a sweep's name, of all sweeps that have one, in the order of params.yaml.

    Columns `sweep`, `backbone`, `prompts` ("own" or "shuffled") and `reference` ("own", or "twin" where the references are
    another sweep's videos) say what a row is of. A setting that two sweeps have is the same video twice. Raises NoTables,
    a ValueError, if there is none.
    """
    tables = []
    for name, sweep in parameters.sweeps.items():
        if (path := Path(folder) / pattern.format(name)).is_file():
            known = {"sweep": name, "backbone": sweep.backbone, "prompts": sweep.prompts}
            known["reference"] = "own" if sweep.reference == "own" else "twin"
            tables.append(pd.read_csv(path).assign(**known))
    if not tables:
        raise NoTables(f"no {pattern.format('SWEEP')} in {folder}: run `dvc repro`, or name the folder that has them")
    return pd.concat(tables, ignore_index=True)
