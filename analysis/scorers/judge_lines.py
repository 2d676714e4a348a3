"""The lines under a table that a judge made: how often it errs, by the calibrations that are there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .judge_calibration import calibrate, judged_by

JUDGES = Path("judges")  # `calibrate-judge JUDGE -o judges/NAME`: a folder for each calibration
LEVELS = {"macro": "question", "adherence": "video"}  # what a judge's metrics are counted in


def judge_lines(judged: Iterable[tuple[str, str, str]], folders: Iterable[Path] = (JUDGES,)) -> list[str]:
    """A sentence for each judge and metric, and for each calibration of it, with its folder; one that names the command
    where there is none.

    judged: (scorer as the tables spell it, its version, metric of `LEVELS`). folders: where calibrations are looked for.
    """
    known, lines = _calibrations(folders), []
    for scorer, version, metric in dict.fromkeys(judged):
        judge = f"{scorer} (version {version})" if version else scorer
        if judge not in known:
            lines.append(judged_by(judge, None))
        for folder, answers in known.get(judge, ()):
            try:
                said = judged_by(judge, calibrate(answers, LEVELS[metric]))
            except ValueError as error:
                said = f"Judged by {judge}, whose calibration says nothing of `{metric}`: {error}."
            lines.append(f"`{metric}`: {said} ({folder})")
    return list(dict.fromkeys(lines))


def _calibrations(folders: Iterable[Path]) -> dict[str, list[tuple[Path, pd.DataFrame]]]:
    """judge -> (folder, answers) of its calibrations."""
    found: dict[str, list] = {}
    files = {file.resolve(): file for folder in folders for file in sorted(folder.glob("*/answers.csv"))}
    for file in files.values():
        answers = pd.read_csv(file, dtype=str, keep_default_na=False)
        for judge in answers["judge"].unique() if "judge" in answers else ():
            found.setdefault(judge, []).append((file.parent, answers))
    return found
