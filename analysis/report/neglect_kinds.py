"""Two ways to neglect prompts, compared: which of them shows what the papers describe of their models.

One image-to-video model was tuned on true captions, but mostly with clips that mostly show their reference, the other on
captions whose event partly does not happen. What is asked of both: does the reference dominate, most in early steps (DyMoS); does the
bias set things in motion; does blur let prompts be followed (AlignVid's pilot), and does scaling; does guidance bring words back?
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..attention.recording_summaries import dominance, frame_matrix
from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.score_columns import is_proportion
from ..study.significance import mean_interval, paired_difference, sign_flip_p
from . import labels
from .findings import decided, interval, number
from .score_tables import NoTables, sweep_table

FRAMES_TABLE = "attention-frames.csv"
# What is measured of the unsteered model, and what the papers say that it is or does, each with its unit.
ONSET = "onset of what was asked for, on prompts that all follow"
LEVELS = {"followed without guidance": "%", "still copies": "%", ONSET: "frames"}
SIGNS = {
    "guidance 3 raises adherence": "points",
    "the reference is looked at more than in the twin": "points",
    "and more so in early steps": "points",
    "DyMoS moves the named object": "px",
    "blur raises adherence": "points",
    "AlignVid raises adherence": "points",
}


def _own(parameters: Parameters, study: str, backbone: str) -> pd.DataFrame:
    names = sweeps_by_backbone(parameters, study)
    if backbone not in names:
        raise NoTables(f"no sweep {study} of {backbone} in params.yaml")
    return sweep_table(parameters, names[backbone])


def _level(table: pd.DataFrame, column: str, factor: float = 1.0) -> dict:
    if table.empty:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": 0}
    mean, low, high = mean_interval(table[column], table["sample"], proportion=is_proportion(column))
    return {"value": factor * mean, "low": factor * low, "high": factor * high, "n": table["sample"].nunique()}


def _change(a: pd.DataFrame, b: pd.DataFrame, column: str, factor: float = 1.0) -> dict:
    """Of `a` against `b` on the samples and seeds that both sweeps have. Raises ValueError where one of them has no value."""
    for key in ("sample", "seed"):
        both = set(a[key]) & set(b[key])
        a, b = (t[t[key].isin(both)] for t in (a, b))
    found = paired_difference(a, b, column)
    return {"value": factor * found["difference"], "low": factor * found["low"], "high": factor * found["high"],
            "n": found["n"], "p": found["p"]}  # fmt: skip


def _of_pairs(values: pd.Series) -> dict:
    mean, low, high = mean_interval(values, values.index)
    return {"value": mean, "low": low, "high": high, "n": len(values), "p": sign_flip_p(values)}


def above_the_twin(parameters: Parameters, backbone: str, window: str) -> pd.Series:
    """Attention of later frames to the reference's less that in the text-to-video twin, in percent points, for each pair by
    its sample. window: "early" or "all" steps."""
    steered = sweeps_by_backbone(parameters, "twin-i2v")[backbone]
    found = []
    for name in (steered, parameters.sweeps[steered].reference):
        table = sweep_table(parameters, name, FRAMES_TABLE)
        plain = table[(table["window"] == window) & (table["method"] == "none")]
        found.append(pd.Series({s: 100 * dominance(frame_matrix(part)) for s, part in plain.groupby("sample")}))
    return (found[0] - found[1]).dropna()


def kinds(parameters: Parameters, backbones: list[str], blur: float = 1.0) -> pd.DataFrame:
    """A row per backbone and entry of LEVELS and SIGNS: value, low, high (95 % over prompts), in its unit, n and p. blur: the
    strength that is shown, in pixels. Raises NoTables if a sweep is missing."""
    plain = {b: _own(parameters, "baseline", b) for b in backbones}
    all_follow = set.intersection(*(set(t[t["adherence"] == 1]["sample"]) for t in plain.values()))
    rows = []
    for backbone, base in plain.items():
        guided, blurred, methods, moves = (
            _own(parameters, study, backbone) for study in ("guidance", "blur", "methods-alignvid", "motion")
        )
        early, whole = (above_the_twin(parameters, backbone, window) for window in ("early", "all"))
        own = {
            "followed without guidance": _level(base, "adherence", 100),
            "still copies": _level(base, "still_copy", 100),
            ONSET: _level(base[base["sample"].isin(all_follow)], "onset"),
            "guidance 3 raises adherence": _change(guided[guided["guidance_scale"] == 3], base, "adherence", 100),
            "the reference is looked at more than in the twin": _of_pairs(whole),
            "and more so in early steps": _of_pairs((early - whole).dropna()),
            "DyMoS moves the named object": _change(
                *(moves[moves["method"] == m] for m in ("dymos-1", "none")), "asked_px"
            ),
            "blur raises adherence": _change(blurred[np.isclose(blurred["blur"], blur)], base, "adherence", 100),
            "AlignVid raises adherence": _change(methods[methods["method"] == "alignvid"], base, "adherence", 100),
        }
        rows += [{"backbone": backbone, "sign": name} | found for name, found in own.items()]
    return pd.DataFrame(rows)


def kinds_table(found: pd.DataFrame) -> pd.DataFrame:
    """A line per entry, a column per kind: value with its interval and n, and of SIGNS the verdict on the papers' description,
    corrected over those of one kind."""
    signs = found[found["sign"].isin(SIGNS)]
    told = decided([row | {"sign": 1, "what": row["sign"]} for row in signs.to_dict("records")], family="backbone")
    verdicts = told.set_index(["backbone", "what"])["verdict"]
    lines = []
    for sign, unit in (LEVELS | SIGNS).items():
        line = {"": f"{sign} ({unit})"}
        for backbone in found["backbone"].unique():
            row = found[(found["backbone"] == backbone) & (found["sign"] == sign)].iloc[0]
            words = (
                f"{number(row['value'], 1, sign=sign in SIGNS)} ({interval(row['low'], row['high'])}; n = {row['n']})"
            )
            line[labels.backbone(backbone)] = words + (f", {verdicts[backbone, sign]}" if sign in SIGNS else "")
        lines.append(line)
    return pd.DataFrame(lines)


def kinds_sentence(found: pd.DataFrame) -> str:
    """How many of the papers' descriptions hold, of each kind."""
    table = kinds_table(found)
    signs = table[table[""].str.rpartition(" (")[0].isin(SIGNS)]
    counts = {kind: int(signs[kind].str.endswith("supported").sum()) for kind in table.columns[1:]}
    return (
        f"Of {len(SIGNS)} things that the papers describe, "
        + " and ".join(f"{n} hold on the {kind}" for kind, n in counts.items())
        + "."
    )
