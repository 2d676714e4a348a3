"""The full-size run of one sweep: make its videos, score them, summarise what was recorded, and say what they were made from.

`made_from.txt` beside the scores is committed with them. It names the cells and the scoring by hash, so a clone without the
videos knows that nothing has to be made again.
"""

from __future__ import annotations

from concurrent.futures import Executor

from ..study import made_from
from ..study.cells import expand
from ..study.files import content_key
from ..study.parameters import Parameters
from ..study.results_layout import runs_folder, sweep_folder, tables_of

NOTE = "made_from.txt"


def cells_stamp(parameters: Parameters, sweep: str) -> str:
    """Hash of the keys of a sweep's cells, the samples' questions and the code that scores; comments do not count."""
    recorded = parameters.sweeps[sweep].record is not None
    return content_key(
        {
            "cells": [cell.key for cell in expand(parameters, sweep, checked=False)],
            "samples": made_from.contents_hash([parameters.benchmark.folder / "meta.json"]),
            "scoring": made_from.scoring_code(recorded=recorded, strips=False),
        }
    )


def make_sweep(parameters: Parameters, sweep: str, executor: Executor) -> str:
    """Bring a sweep's tables up to date; what was done, in words."""
    from ..attention.recording_summaries import summarise_recordings
    from ..scoring.score import score
    from ..videos.generate import generate

    folder, stamp = sweep_folder(parameters, sweep), cells_stamp(parameters, sweep)
    if made_from.is_noted(folder / NOTE, stamp, *(folder / name for name in tables_of(parameters, sweep))):
        return "unchanged"
    source = parameters.sweeps[sweep].reference
    if source != "own" and not (runs_folder(parameters, source) / "manifest.csv").is_file():
        generate(parameters, source, executor)
    failures = generate(parameters, sweep, executor)
    table = score(parameters, sweep, executor)
    if parameters.sweeps[sweep].record:
        summarise_recordings(parameters, sweep)
    made_from.note(folder / NOTE, stamp)
    return f"{len(table)} videos made and scored" + (f", {failures} of them failed" if failures else "")
