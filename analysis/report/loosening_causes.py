"""Why a remedy helps or harms: which events, which failures, and what of attention and onset goes with the change.

Failures exclude each other: a *still copy* answers as its reference does, a *broken object* is none and has lost form, area or
colour of an object that should keep it, a *wrong event* is the rest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ..study.parameters import Parameters
from ..study.results_layout import FULL, lineage_of
from ..study.significance import holm, mean_and_p, paired, paired_difference, prompt_means, rank_correlation
from . import labels
from .findings import interval, number, p_words
from .loosening_curves import of_this_study
from .plots import EVENT_NAMES
from .score_tables import sweep_table

WINNER, UNSTEERED = "winner of the search", "none"
FAILURES = ("still copy", "broken object", "wrong event")
# What may carry an effect -> (site, key) of the recorded mass, the first that a model has.
MASSES = {
    "words' mass": [("text", "text"), ("joint", "text")],
    "reference's mass": [("self", "reference"), ("joint", "reference")],
}
ONSET = "onset (frames)"
PAIR = ["sample", "seed"]


def failures(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with a column of 0 and 1 per entry of FAILURES."""
    fails, still = scores["adherence"] == 0, scores["still_copy"] == 1
    broken = fails & ~still & (scores["object_integrity"] < 1)
    kinds = (still, broken, fails & ~still & ~broken)
    return scores.assign(**{name: kind.astype(int) for name, kind in zip(FAILURES, kinds, strict=True)})


def recorded(parameters: Parameters, backbone: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores, recorded masses, a row per video and entry of MASSES) of the sweep that stands apart and records; empty where a
    run of this size has none."""
    names = [
        name for name, sweep in parameters.sweeps.items()
        if of_this_study(parameters, name) and sweep.backbone == backbone and sweep.record
    ]  # fmt: skip
    if not names:
        return pd.DataFrame(), pd.DataFrame()
    scores = pd.concat([sweep_table(parameters, n) for n in names], ignore_index=True)
    cells = pd.concat([sweep_table(parameters, n, "attention-cells.csv") for n in names], ignore_index=True)
    cells = cells[(cells["window"] == "all") & (cells["statistic"] == "mass")]
    parts = []
    for name, places in MASSES.items():
        for site, key in places:
            own = cells[(cells["site"] == site) & (cells["key"] == key)]
            if len(own):
                parts.append(own.assign(mediator=name))
                break
    return scores, pd.concat(parts, ignore_index=True)


def winner_scores(backbone: str, results: Path = FULL) -> tuple[str, pd.DataFrame, pd.DataFrame] | None:
    """(its methods, scores, unsteered scores) of the first registered combination, on held-out prompts; None where none was
    confirmed."""
    file = Path(results) / "search" / f"{lineage_of(backbone)}-confirmed.csv"
    if not file.is_file():
        return None
    table = pd.read_csv(file)
    name = next(s for s in table["setting"].unique() if s != "unsteered")
    return name, *(table[table["setting"] == s] for s in (name, "unsteered"))


def outcome_changes(parameters: Parameters, backbone: str) -> pd.DataFrame:
    """A row per method (the winner last) and kind of change: adherence on each event and on all, then each failure. Columns
    setting, what, difference, low, high, p, p (Holm, over the settings), n; in points."""
    scores, _ = recorded(parameters, backbone)
    pairs = {}
    if len(scores):
        plain = scores[scores["method"] == UNSTEERED]
        pairs = {
            labels.setting(m, 1.0, parameters): (own, plain)
            for m, own in scores.groupby("method", sort=False)
            if m != UNSTEERED
        }
    if (won := winner_scores(backbone)) is not None:
        pairs[f"{WINNER}: {won[0]}"] = won[1:]
    rows = []
    for setting, pair in pairs.items():
        steered, plain = map(failures, pair)
        kinds = {"all events": None} | {words: kind for kind, words in EVENT_NAMES.items()}
        for words, kind in kinds.items():
            own = [t if kind is None else t[t["main_category"] == kind] for t in (steered, plain)]
            rows.append({"setting": setting, "what": f"followed, {words}"} | _points(*own, "adherence"))
        for name in FAILURES:
            rows.append({"setting": setting, "what": name} | _points(steered, plain, name))
    table = pd.DataFrame(rows)
    if len(table):
        table["p (Holm)"] = table.groupby("what")["p"].transform(holm)
    return table


def _points(steered: pd.DataFrame, plain: pd.DataFrame, column: str) -> dict:
    found = paired_difference(steered, plain, column, proportion=True)
    return {k: 100 * found[k] for k in ("difference", "low", "high")} | {"p": found["p"], "n": found["n"]}


def carriers(parameters: Parameters, backbone: str) -> pd.DataFrame:
    """A row per method and entry of MASSES, and ONSET: by how much the method changes it (mean, low, high, p), how that goes with
    the change in adherence over prompts (rank correlation, with interval and p), and `carried`, the change of adherence in
    points that a straight line through the prompts gives to the mean change; nan where nothing varies."""
    scores, masses = recorded(parameters, backbone)
    if scores.empty:
        return pd.DataFrame()
    onsets = scores[["method", *PAIR]].assign(mediator=ONSET, value=scores["onset"])
    every = pd.concat([masses[["method", *PAIR, "mediator", "value"]], onsets], ignore_index=True)
    plain, rows = scores[scores["method"] == UNSTEERED], []
    for method, own in scores.groupby("method", sort=False):
        if method == UNSTEERED:
            continue
        gain = 100 * prompt_means(*paired(own, plain, "adherence"))
        for mediator, part in every.groupby("mediator", sort=False):
            both = [part[part["method"] == m] for m in (method, UNSTEERED)]
            moved = prompt_means(*paired(*both, "value"))
            found = mean_and_p(moved, np.arange(len(moved)))
            rho, low, high, p = rank_correlation(moved, gain)
            slope = np.polyfit(moved, gain, 1)[0] if np.ptp(moved) > 0 else np.nan
            rows.append(
                {"setting": labels.setting(method, 1.0, parameters), "mediator": mediator}
                | {k: found[k] for k in ("mean", "low", "high", "n")} | {"p": found["p"], "effect": float(gain.mean())}
                | {"rho": rho, "rho low": low, "rho high": high, "rho p": p, "carried": float(slope * moved.mean())}
            )  # fmt: skip
    return pd.DataFrame(rows)


def outcomes_table(changes: pd.DataFrame) -> pd.DataFrame:
    """A line per setting, a column per kind of change, in points; * where it holds after the correction."""
    lines = []
    for setting, part in changes.groupby("setting", sort=False):
        line = {"setting": setting, "prompts": int(part["n"].max())}
        for row in part.to_dict("records"):
            star = "*" if row["p (Holm)"] < 0.05 else ""
            line[row["what"]] = f"{number(row['difference'], sign=True)} ({interval(row['low'], row['high'])}){star}"
        lines.append(line)
    return pd.DataFrame(lines)


def carriers_table(table: pd.DataFrame) -> pd.DataFrame:
    """`carriers` in words."""
    return pd.DataFrame(
        [
            {
                "setting": r["setting"], "goes with": r["mediator"],
                "its change": f"{number(r['mean'], 3, sign=True)} ({interval(r['low'], r['high'], 3)}), p {p_words(r['p'])}",
                "rank correlation with the change in adherence": f"{number(r['rho'], 2)} ({interval(r['rho low'], r['rho high'], 2)})",
                "carried (points)": f"{number(r['carried'], sign=True)} of {number(r['effect'], sign=True)}",
            }
            for r in table.to_dict("records")
        ]
    )  # fmt: skip


def confirmed_table(
    backbones: list[str], results: Path = FULL, registered: Path = Path("papers/registered")
) -> pd.DataFrame:
    """A line per registered combination: what the search cost, what the combination changed on the tuning prompts and held out,
    and how much of it is left. Empty where nothing was confirmed."""
    lines = []
    for backbone in backbones:
        lineage = lineage_of(backbone)
        file, note = Path(results) / "search" / f"{lineage}-shrinkage.csv", Path(registered) / f"{lineage}.yaml"
        if not (file.is_file() and note.is_file()):
            continue
        cost = YAML(typ="safe", pure=True).load(note.read_text())["search"]
        for r in pd.read_csv(file).query("measure == 'adherence'").to_dict("records"):
            held = f"{number(100 * r['held_out'], sign=True)} ({interval(100 * r['low'], 100 * r['high'])})"
            lines.append(
                {
                    "backbone": labels.backbone(backbone), "combination": r["setting"],
                    "the search": f"{cost['trials']} trials, {cost['videos']} videos, {cost['hours']:g} h",
                    "tuning prompts (points)": number(100 * r["tuning"], sign=True), "held out (points)": held, "prompts": r["n"],
                    "left": f"{number(100 * r['kept'], 0)} %", "p (Holm)": p_words(r["p (Holm)"]), "verdict": r["verdict"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines)
