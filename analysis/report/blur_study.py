"""Notebook 02: what blurring the reference changes in videos and in attention, as tables, sentences and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pandas as pd

from ..attention import recording_summaries as attention
from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.significance import holm, paired_difference
from . import labels
from .findings import decided, effect, interval, number
from .score_tables import sweep_table

ADHERENCE, FLOW, FIDELITY = "adherence (points)", "flow (px / frame)", "background fidelity (dB)"
MOVED_ASKED = "displacement, move prompts (px)"
MEASURES = {
    "adherence": ADHERENCE,
    "displacement_px": "displacement (px)",
    "flow_px": FLOW,
    "sharpness_retention": "sharpness retention",
    "background_psnr": FIDELITY,
}
WORDS = ("words in text attention", "text in joint attention")
REFERENCE = ("reference in self-attention", "reference in joint attention")
CONDITIONS = ("entropy, words", "entropy, text and reference")


@dataclass
class Blurred:
    """One backbone's videos at every blur level (0 is the clean reference), and what was recorded at the ends."""

    scores: pd.DataFrame
    cells: pd.DataFrame
    steps: pd.DataFrame

    @property
    def levels(self) -> list[float]:
        """Standard deviations of the blur in pixels, the clean reference first."""
        return sorted(self.scores["blur"].unique())

    def ends(self, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of a recorded table under the clean and under the most blurred reference."""
        return tuple(table[table["blur"] == v].reset_index(drop=True) for v in (0.0, table["blur"].max()))


def load(parameters: Parameters, backbones: list[str]) -> dict[str, Blurred]:
    """The study of each backbone, on the samples that were blurred. Raises NoTables if one of its tables is missing."""
    found = {}
    for b in backbones:
        sharp, soft, recorded = (sweeps_by_backbone(parameters, s)[b] for s in ("baseline", "blur", "attention-blur"))
        clean, blurred = sweep_table(parameters, sharp), sweep_table(parameters, soft)
        scores = pd.concat([clean[clean["sample"].isin(blurred["sample"])], blurred], ignore_index=True)
        cells = sweep_table(parameters, recorded, "attention-cells.csv").query("window == 'all'")
        steps = sweep_table(parameters, recorded, "attention-steps.csv")
        by_step = attention.measures(steps, ["blur", "step", "block"])
        found[b] = Blurred(scores, attention.measures(cells, attention.CELL), by_step)
    return found


def changes_table(studies: dict[str, Blurred]) -> pd.DataFrame:
    """Every measure at every level against the clean reference, same prompts and noise: columns backbone, blur sigma (px),
    measure, n, p, difference, low, high (adherence in points), gained, lost, p (Holm) over the five measures and all
    levels of a backbone. Displacement is there a second time, of the prompts that ask for a move alone, uncorrected."""
    rows = []
    for b, own in studies.items():
        for level, (column, words) in product(own.levels[1:], MEASURES.items()):
            blurred, clean = (own.scores[own.scores["blur"] == v] for v in (level, 0.0))
            rows.append({"backbone": b, "blur sigma (px)": level, "measure": words} | _change(blurred, clean, column))
            if column == "displacement_px":
                asked = [t[t["main_category"] == "motion"] for t in (blurred, clean)]
                row = {"backbone": b, "blur sigma (px)": level, "measure": MOVED_ASKED}
                rows.append(row | _change(*asked, column))
    table = pd.DataFrame(rows)
    family = table["measure"] != MOVED_ASKED
    corrected = table[family].groupby("backbone")["p"].transform(lambda p: holm(p))
    return table.assign(**{"p (Holm)": corrected})


def _change(a: pd.DataFrame, b: pd.DataFrame, column: str) -> dict:
    found = paired_difference(a, b, column)
    ends = {k: found[k] for k in ("difference", "low", "high")}
    if column == "adherence":
        ends = {k: 100 * v for k, v in ends.items()}
    at_margin = paired_difference(a, b, column, line=-1.0)["p"] if column == "background_psnr" else float("nan")
    return ends | {k: found[k] for k in ("n", "gained", "lost", "p")} | {"p at -1": at_margin}


def ratios_table(studies: dict[str, Blurred]) -> pd.DataFrame:
    """Attention under the most blurred reference over that under the clean one: `attention.compare` per backbone."""
    parts = {b: attention.compare(*own.ends(own.cells)) for b, own in studies.items()}
    return pd.concat(parts, names=["backbone"]).reset_index("backbone").reset_index(drop=True)


def claims(changes: pd.DataFrame, ratios: pd.DataFrame) -> pd.DataFrame:
    """AlignVid's claims about blur by one rule: columns backbone, claim, effect, n, p (Holm), verdict."""
    levels = sorted(changes["blur sigma (px)"].unique())
    mild, strong = levels[0], levels[-1]
    of_videos = [
        ("mild blur improves adherence (section 3)", ADHERENCE, mild, 1, 0),
        ("mild blur keeps fidelity within 1 dB (G.1)", FIDELITY, mild, 1, -1),
        ("strong blur raises motion (G.1), by flow", FLOW, strong, 1, 0),
        ("strong blur raises motion (G.1), by displacement on move prompts", MOVED_ASKED, strong, 1, 0),
        ("strong blur degrades fidelity (G.1)", FIDELITY, strong, -1, 0),
    ]
    of_attention = [
        ("blur raises attention to the words (figure 2)", WORDS, 1),
        ("blur makes text weigh more than the image (figure 2)", (attention.TEXT_SHARE,), 1),
        ("blur takes attention off the reference (figure 2)", REFERENCE, -1),
        ("blur lowers the entropy over the conditions (figure 2)", CONDITIONS, -1),
        ("blur lowers the entropy over image tokens (figure 2)", ("entropy, image tokens",), -1),
    ]
    rows = []
    for b in changes["backbone"].unique():
        mine = changes[changes["backbone"] == b].set_index(["measure", "blur sigma (px)"])
        name = labels.backbone(b)
        for claim, measure, level, sign, line in of_videos:
            row, unit = mine.loc[(measure, level)], measure.split("(")[-1].rstrip(")")
            words = effect(*row[["difference", "low", "high"]], unit, digits=1 if measure != FLOW else 3)
            rows.append({"backbone": name, "claim": claim, "effect": f"σ {level:g} px: {words}", "n": int(row["n"])})
            p = row["p"] if line == 0 else row["p at -1"]
            rows[-1] |= {"low": row["low"], "high": row["high"], "p": p, "sign": sign, "line": line}
        ratio = ratios[ratios["backbone"] == b].set_index("measure")
        for claim, names, sign in of_attention:
            for row in (ratio.loc[n] for n in names if n in ratio.index):
                words = f"ratio {number(row['mean'], 4)} ({interval(row['low'], row['high'], 4)})"
                rows.append({"backbone": name, "claim": claim, "effect": words, "n": int(row["n"])})
                rows[-1] |= {"low": row["low"], "high": row["high"], "p": row["p"], "sign": sign, "line": 1}
    return decided(rows, "backbone")


def findings(changes: pd.DataFrame, ratios: pd.DataFrame) -> list[str]:
    """Sentences: adherence at the mildest and the strongest blur, motion and fidelity at the strongest, and attention."""
    levels = sorted(changes["blur sigma (px)"].unique())
    mine = changes.set_index(["backbone", "measure", "blur sigma (px)"])
    backbones = list(changes["backbone"].unique())

    def told(measure: str, level: float, unit: str, digits: int = 1) -> str:
        rows = [(b, mine.loc[(b, measure, level)]) for b in backbones]
        parts = [
            f"{effect(*row[['difference', 'low', 'high']], unit, int(row['n']), digits)} on the {labels.backbone(b)}"
            for b, row in rows
        ]
        return " and ".join(parts)

    looks = []
    for b in backbones:
        ratio = ratios[ratios["backbone"] == b].set_index("measure")
        parts = []
        for words, names in (("the text", WORDS), ("the reference", REFERENCE)):
            row = next(ratio.loc[n] for n in names if n in ratio.index)
            low, high = (100 * (row[k] - 1) for k in ("low", "high"))
            parts.append(f"{words} {effect(100 * (row['mean'] - 1), low, high, '%', int(row['n']), 2)}")
        looks.append(f"{' and to '.join(parts)} on the {labels.backbone(b)}")
    return [
        f"The mildest blur (σ {levels[0]:g} px) changes adherence by {told(ADHERENCE, levels[0], 'points')}; the strongest "
        f"(σ {levels[-1]:g} px) by {told(ADHERENCE, levels[-1], 'points')}.",
        f"The strongest blur changes optical flow by {told(FLOW, levels[-1], 'px / frame', 3)}, displacement on prompts "
        f"that ask for a move by {told(MOVED_ASKED, levels[-1], 'px')}, and fidelity to the background by "
        f"{told(FIDELITY, levels[-1], 'dB')}.",
        f"Relative to the clean reference, attention changes by this much: to {'; to '.join(looks)}.",
    ]
