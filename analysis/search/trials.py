"""The study of a search: its journal, its loop, and what a trial is worth. A killed search goes on where it was.

The sampler of each trial is seeded by how many trials have ended, so that a search that was stopped and resumed tries the same
combinations as one that ran through. A trial that was cut off is marked as failed and tried again; one that the model refuses
counts as ended, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ..report.loosening_curves import KEPT
from ..study.significance import prompt_means
from .combinations import Combination

OBJECTIVES = ("adherence", KEPT, "asked_px")  # all of them to be raised
STARTUP = 24  # trials that are drawn at random before the sampler learns from them
Evaluate = Callable[[Combination], pd.DataFrame]


def values_per_prompt(table: pd.DataFrame) -> dict[str, list[float]]:
    """{objective: means per prompt, in the prompts' order} of a table of scores, over those prompts that it is defined for.
    Raises ValueError where a video has no value."""
    found = {}
    for column in OBJECTIVES:
        own = table[table["main_category"] == "motion"] if column == "asked_px" else table
        found[column] = [round(v, 4) for v in prompt_means(own[column], own["sample"]).tolist()]
    return found


def open_study(journal: Path, name: str, made_for: str) -> optuna.Study:
    """The study in a journal file, made if there is none; trials that were cut off are marked as failed. Raises ValueError for
    a journal of other settings (`made_for`)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    if journal.is_file():  # a process that was killed while it wrote leaves a line without an end
        text = journal.read_bytes()
        journal.write_bytes(text[: text.rfind(b"\n") + 1])
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["maximize"] * len(OBJECTIVES), load_if_exists=True
    )
    known = study.user_attrs.get("made_for")
    if known is None:
        study.set_user_attr("made_for", made_for)
    elif known != made_for:
        raise ValueError(
            f"{journal} is of other settings of the search, prompts or weights ({known}, now {made_for}): move it away to "
            "search anew"
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def ended(study: optuna.Study) -> int:
    """How many trials have ended by themselves: with values, or because the model refused the combination."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.state == TrialState.COMPLETE or "refused" in t.user_attrs for t in trials)


def run_trials(
    study: optuna.Study, trials: int, seed: int, suggest: Callable[[optuna.Trial], Combination], evaluate: Evaluate
) -> int:
    """Try combinations until `trials` have ended; how many were tried now. The unsteered model is evaluated first.

    Raises RuntimeError if the first ten combinations are all refused."""
    tried = 0
    if "unsteered" not in study.user_attrs:
        study.set_user_attr("unsteered", values_per_prompt(evaluate(Combination((), (), 0.0))))
    while (before := ended(study)) < trials:
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + before, n_startup_trials=min(STARTUP, max(1, trials // 3))
        )
        trial, began = study.ask(), time.monotonic()
        combination = suggest(trial)
        trial.set_user_attr("setting", {"parts": list(combination.parts), "blur": combination.blur})
        trial.set_user_attr("names", list(combination.names))
        try:
            table = evaluate(combination)
        except ValueError as error:
            trial.set_user_attr("refused", " ".join(str(error).split())[:300])
            study.tell(trial, state=TrialState.FAIL)
            if before >= 9 and not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                raise RuntimeError(f"{before + 1} combinations were refused; the last: {error}") from None
        else:
            found = values_per_prompt(table)
            trial.set_user_attr("per prompt", found)
            trial.set_user_attr("videos", len(table))
            trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
            study.tell(trial, [sum(v) / len(v) for v in found.values()])
        tried += 1
    return tried


def cost_of(study: optuna.Study) -> dict[str, float]:
    """What a search cost: trials, refused ones, videos, hours on the machines that ran it."""
    trials = study.get_trials(deepcopy=False)
    return {
        "trials": ended(study),
        "refused": sum("refused" in t.user_attrs for t in trials),
        "videos": sum(t.user_attrs.get("videos", 0) for t in trials),
        "hours": round(sum(t.user_attrs.get("seconds", 0) for t in trials) / 3600, 2),
    }
