"""What people answered on blinded sheets: means with intervals over prompts, differences by the one rule, and agreement."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from ..study.significance import clear_side, holm, mean_interval, paired_difference
from .rater_agreement import alpha_interval, krippendorff_alpha
from .rating_sheet import KEY, QUESTIONS

ANSWERS = ["study", "sheet", "rater", "trial", "question", "slot", "value", "seconds"]
KNOWN = {q["name"]: q for questions in QUESTIONS.values() for q in questions}
WORDS = {1: "higher", -1: "lower", 0: "undecided"}


def read_answers(files: list[Path], key_file: Path) -> pd.DataFrame:
    """The answers of all files with what the key says of their videos: a row per rater, trial, question and video. Columns rater,
    sheet, trial, question, kind, slot, value, video, sample, seed, method, main_category.

    `value` is the rating, 1 to 7, or 1 for the video that was chosen as the best and 0 for the others. Raises ValueError that
    lists all that is wrong: files of another study, answers outside the scale, given twice or missing.
    """
    key = pd.read_csv(key_file, dtype={"study": str, "sample": str}, keep_default_na=False)
    if lacking := [c for c in KEY if c not in key]:
        raise ValueError(f"{key_file} is no key of rating sheets: it lacks {', '.join(lacking)}")
    wrong, tables = [], []
    for file in files:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if list(table.columns) != ANSWERS:
            wrong.append(f"{file} was not saved by a rating sheet")
            continue
        wrong += [f"{file}: {text}" for text in _wrong_in(table, key)]
        tables.append(table)
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=ANSWERS)
    if not wrong:
        one = ["rater", "sheet", "trial", "question", "slot"]
        if found.duplicated(one).any():
            wrong.append(f"{int(found.duplicated(one).sum())} answers are there twice: is one file named twice?")
        wrong += _missing_in(found, key)
    if wrong:
        raise ValueError("; ".join(wrong))
    return _by_video(found.astype({"sheet": int, "trial": int}), key)


def _wrong_in(table: pd.DataFrame, key: pd.DataFrame) -> list[str]:
    """What cannot be an answer to the sheets of the key."""
    if set(table["study"]) - set(key["study"]):
        return [f"is of study {', '.join(sorted(set(table['study'])))}, the key of {key['study'].iloc[0]}"]
    slots = {(str(r.sheet), str(r.trial), r.slot) for r in key.itertuples()}
    trials, found = {s[:2] for s in slots}, []
    for r in table.itertuples():
        question, where = KNOWN.get(r.question), f"sheet {r.sheet}, trial {r.trial}, {r.question}"
        if question is None or (r.sheet, r.trial) not in trials:
            found.append(f"{where} is on no sheet")
        elif question["kind"] == "best" and (r.sheet, r.trial, r.value) not in slots:
            found.append(f"{where}: {r.value!r} is no video of it")
        elif question["kind"] == "likert" and (
            (r.sheet, r.trial, r.slot) not in slots or r.value not in map(str, range(1, question["points"] + 1))
        ):
            found.append(f"{where}, video {r.slot!r}: {r.value!r} is not 1 to {question['points']}")
    return found


def _missing_in(table: pd.DataFrame, key: pd.DataFrame) -> list[str]:
    """Raters who left answers open, for the questions that anyone was asked."""
    asked, found = list(dict.fromkeys(table["question"])), []
    per_trial = key.groupby(["sheet", "trial"])["slot"].nunique()
    for (rater, sheet), own in table.groupby(["rater", "sheet"]):
        counts = own.groupby(["trial", "question"]).size()
        for trial, slots in per_trial.loc[int(sheet)].items():
            wanted = {q: slots if KNOWN[q]["kind"] == "likert" else 1 for q in asked}
            gone = [q for q, n in wanted.items() if counts.get((str(trial), q), 0) < n]
            if gone:
                found.append(f"rater {rater}, sheet {sheet}, trial {trial}: no or not all answers to {', '.join(gone)}")
    return found


def _by_video(answers: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    answers = answers.assign(kind=answers["question"].map(lambda q: KNOWN[q]["kind"]))
    likert = answers[answers["kind"] == "likert"].merge(key, on=["study", "sheet", "trial", "slot"])
    best = answers[answers["kind"] == "best"].drop(columns="slot").merge(key, on=["study", "sheet", "trial"])
    best["value"] = (best["value"] == best["slot"]).astype(int)
    found = pd.concat([likert, best], ignore_index=True)
    found["value"] = found["value"].astype(float)
    columns = ["rater", "sheet", "trial", "question", "kind", "slot", "value", "video", "sample", "seed", "method"]
    return found[[*columns, "main_category"]]


def means(answers: pd.DataFrame) -> pd.DataFrame:
    """question, method, mean, low, high (95 %, over prompts), n (prompts), raters. Of each video the raters' answers are averaged
    first. A share for questions of which video is the best."""
    rows = []
    for (question, method), own in answers.groupby(["question", "method"], sort=False):
        mean, low, high = mean_interval(own["value"], own["sample"])
        counts = {"n": own["sample"].nunique(), "raters": own["rater"].nunique()}
        rows.append({"question": question, "method": method, "mean": mean, "low": low, "high": high} | counts)
    return pd.DataFrame(rows)


def differences(answers: pd.DataFrame) -> pd.DataFrame:
    """Every two methods on every question: question, a, b, difference (a minus b), low, high, n, changed, p, p (Holm, over all
    rows), detectable, a_is ("higher", "lower" or "undecided")."""
    rows = []
    for question, own in answers.groupby("question", sort=False):
        videos = own.groupby(["method", "sample", "seed"], sort=False)["value"].mean().reset_index()
        for a, b in combinations(dict.fromkeys(videos["method"]), 2):
            d = paired_difference(videos[videos["method"] == a], videos[videos["method"] == b], "value")
            rows.append(
                {"question": question, "a": a, "b": b}
                | {k: d[k] for k in ("difference", "low", "high", "n", "changed", "p", "detectable")}
            )
    table = pd.DataFrame(rows)
    table["p (Holm)"] = holm(table["p"])
    table["a_is"] = [
        WORDS[clear_side(r.low, r.high, p)] for r, p in zip(table.itertuples(), table["p (Holm)"], strict=True)
    ]
    return table


def agreement(answers: pd.DataFrame) -> pd.DataFrame:
    """question, level, alpha (Krippendorff's), low, high (95 %, over prompts), raters, and first_side: the mean answer to the first
    side less the mean of all, which is 0 but for chance if sides do not matter. Ratings are ordinal, choices nominal."""
    rows = []
    for question, own in answers.groupby("question", sort=False):
        likert = own["kind"].iloc[0] == "likert"
        if likert:
            units, level = own.assign(unit=own["sample"] + "/" + own["method"]), "ordinal"
        else:
            chosen, level = own[own["value"] == 1], "nominal"
            units = chosen.assign(value=pd.factorize(chosen["method"])[0], unit=chosen["sample"])
        wide = units.pivot_table(index="rater", columns="unit", values="value", aggfunc="mean")
        groups = units.drop_duplicates("unit").set_index("unit")["sample"].reindex(wide.columns).to_numpy()
        low, high = alpha_interval(wide.to_numpy(), level, groups)
        side = own.loc[own["slot"] == "A", "value"].mean() - own["value"].mean()
        rows.append({"question": question, "level": level, "alpha": krippendorff_alpha(wide.to_numpy(), level), "low": low,
                     "high": high, "raters": len(wide), "first_side": side})  # fmt: skip
    return pd.DataFrame(rows)


def as_evaluated(answers: pd.DataFrame) -> pd.DataFrame:
    """The raters' mean of each video as a table of `evaluate` has it, to be imported like any other score: metrics
    human_QUESTION for ratings and human_preferred_QUESTION for the share of raters who chose a video."""
    raters = answers["rater"].nunique()
    own = answers.groupby(["video", "question", "kind"], sort=False)["value"].mean().reset_index()
    name = np.where(own["kind"] == "best", "human_preferred_", "human_") + own["question"]
    told = {"scorer": "people", "version": f"{raters} raters", "metric": name, "status": "ok", "reason": ""}
    return own.assign(**told)[["video", "scorer", "version", "metric", "value", "status", "reason"]]


def told(answers: pd.DataFrame) -> str:
    """All of it in lines for a terminal."""
    lines = [
        f"{answers['rater'].nunique()} raters, {answers['sample'].nunique()} prompts, {answers['method'].nunique()} methods"
    ]
    for r in means(answers).itertuples():
        lines.append(f"{r.question}, {r.method}: {r.mean:.3g} ({r.low:.3g} to {r.high:.3g}), n {r.n} prompts")
    table = differences(answers)
    for r, p in zip(table.itertuples(), table["p (Holm)"], strict=True):
        seen = (
            f"; from {r.detectable:.2g} it would have been seen"
            if r.a_is == WORDS[0] and pd.notna(r.detectable)
            else ""
        )
        lines.append(f"{r.question}: {r.a} - {r.b} {r.difference:+.3g} ({r.low:.3g} to {r.high:.3g}), p {r.p:.2g}, Holm {p:.2g} over "
                     f"{len(table)}: {r.a_is}; {r.changed} of {r.n} prompts differ{seen}")  # fmt: skip
    for r in agreement(answers).itertuples():
        lines.append(f"{r.question}: Krippendorff's alpha {r.alpha:.2f} ({r.low:.2f} to {r.high:.2f}, {r.level}, {r.raters} raters); "
                     f"first side {r.first_side:+.2g}")  # fmt: skip
    return "\n".join(lines)
