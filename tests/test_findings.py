"""The README's findings: effects and intervals are those of the full-size tables, rounded as the sentence says them."""

from functools import cache
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text().split())
WAN, COG = "wan-i2v", "cogvideox-i2v"


@cache
def read(table: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results/full" / f"{table}.csv")


def row(table: str, effect: str, **where) -> dict:
    """The numbers of the one row with these values; `less`, `less_low` and `less_high` are those of its decrease."""
    rows = read(table)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, f"{len(rows)} rows of {table}.csv with {where}"
    found = rows.iloc[0]
    numbers = {"effect": found[effect], "low": found["low"], "high": found["high"], "n": int(found["n"])}
    return numbers | {"less": -found[effect], "less_low": -found["high"], "less_high": -found["low"]}


def claim(model, name):
    return row("claims/claims", "effect", id=name, model=model)


def sweep(backbone, method, measure, guidance=1.0):
    where = dict(backbone=backbone, method=method, measure=measure, guidance_scale=guidance)
    return row("07_method_sweeps/method_sweeps", "difference", **where)


def share(backbone, setting):
    return row("01_testbed/testbed", "adherence %", backbone=backbone, setting=setting)


def tuned(table, measure):
    return row(table, "difference", measure=measure, setting="tuned only (control)")


def appears(lineage):
    """Of the videos of a lineage with guidance 5 in which a shape shall appear: the share that follows the prompt."""
    rows = pd.read_csv(ROOT / f"results/full/sweeps/{lineage}/guidance/scores.csv")
    rows = rows[rows["sub_category"].str.startswith("appear") & (rows["guidance_scale"] == 5)]
    return {"effect": 100 * rows["adherence"].mean(), "n": len(rows)}


FINDINGS = [
    ("the Wan model does what the prompt asks in {effect:.0f} % of {n} samples ({low:.0f} to {high:.0f})", share(WAN, "guidance 1")),
    ("the CogVideoX model in {effect:.0f} % ({low:.0f} to {high:.0f})", share(COG, "guidance 1")),
    ("with guidance 5 both in {effect:.0f} % ({low:.0f} to {high:.0f} and", share(WAN, "guidance 5")),
    ("both in {effect:.0f} % (80 to 90 and {low:.0f} to {high:.0f}; {n} samples)", share(COG, "guidance 5")),
    ("Shapes that shall appear stay the hardest, with {effect:.0f} % and", appears("wan")),
    ("% and {effect:.0f} % of {n} samples", appears("cogvideox")),
    ("are followed in {effect:.0f} % against", share(WAN, "guidance 1, held-out combination")),
    ("against {effect:.0f} % of the others by the Wan model", share(WAN, "guidance 1, seen combination")),
    ("by the Wan model, in {effect:.0f} % against", share(COG, "guidance 1, held-out combination")),
    ("against {effect:.0f} % by the CogVideoX model", share(COG, "guidance 1, seen combination")),
    ("lifts the Wan model's adherence by {effect:.0f} points without guidance ({low:.0f} to {high:.0f}; all {n} prompts, three seeds)", claim(WAN, "alignvid-adherence")),
    ("for {less:.2f} dB of the background's fidelity ({less_low:.2f} to {less_high:.2f})", claim(WAN, "alignvid-fidelity")),
    ("and by {effect:.0f} with it ({low:.0f} to {high:.0f}; {n} prompts)", claim(WAN, "guidance-alignvid")),
    ("In joint attention it lowers adherence by {less:.0f} ({less_low:.0f} to {less_high:.0f})", claim(COG, "alignvid-adherence")),
    ("and by {less:.0f} with guidance ({less_low:.0f} to {less_high:.0f})", claim(COG, "guidance-alignvid")),
    ("scaled alone they give {effect:.0f} ({low:.0f} to {high:.0f}; {n} prompts)", sweep(COG, "alignvid-image-keys", "adherence")),
    ("those of the text alone {effect:+.0f} ({low:.0f} to {high:.0f})", sweep(COG, "alignvid-text-keys", "adherence")),
    ("nothing is lost: {effect:+.1f} ({low:.1f} to {high:.1f}; {n} prompts)", sweep(COG, "alignvid-released", "adherence")),
    ("costs the CogVideoX model {less:.0f} dB of the background", sweep(COG, "alignvid-always", "background_psnr")),
    ("without guidance by {effect:.1f} to", sweep(WAN, "dymos-1", "adherence")),
    ("to {effect:+.1f} points on the Wan model", sweep(WAN, "dymos-0.6", "adherence")),
    ("model and by {effect:.1f} to", sweep(COG, "dymos-1", "adherence")),
    ("to {effect:.1f} on the CogVideoX model ({n} prompts, three seeds", sweep(COG, "dymos-0.6", "adherence")),
    ("there {effect:.1f} as its older release has it", sweep(COG, "dymos-released", "adherence")),
    ("gives {effect:+.0f} there ({low:.0f} to {high:.0f}; {n} prompts)", sweep(COG, "dymos-0.8", "adherence", 3.0)),
    ("falls a little without guidance ({less:.3f} pixels a frame, {less_low:.3f} to {less_high:.3f})", claim(COG, "unguided-dymos")),
    ("rises a little with it ({effect:.3f}, {low:.3f} to {high:.3f}; {n} prompts)", claim(COG, "dymos-motion")),
    ("on the Wan model by {less:.0f} points without guidance ({less_low:.0f} to {less_high:.0f})", sweep(WAN, "alg", "adherence")),
    ("and {less:.0f} with it ({less_low:.0f} to {less_high:.0f})", sweep(WAN, "alg", "adherence", 3.0)),
    ("on the CogVideoX model by {less:.0f} ({less_low:.0f} to {less_high:.0f}) and", sweep(COG, "alg", "adherence")),
    (") and {effect:.0f} ({low:.0f} to {high:.0f}), and without", sweep(COG, "alg", "adherence", 3.0)),
    ("rises under blur by {effect:.1f} % of itself in the Wan model ({low:.1f} to {high:.1f})", claim(WAN, "blur-text-attention")),
    ("falls by {less:.1f} % in the CogVideoX model ({less_low:.1f} to {less_high:.1f})", claim(COG, "blur-text-attention")),
    ("by {effect:.1f} points in the Wan model", claim(WAN, "dominance")),
    ("and {effect:.1f} in the CogVideoX model", claim(COG, "dominance")),
    ("on the Wan model by {effect:.3f} pixels a frame ({low:.3f} to {high:.3f})", sweep(WAN, "dymos-all-steps", "flow_px")),
    ("for {less:.1f} dB of background", sweep(WAN, "dymos-all-steps", "background_psnr")),
    ("lifts the Wan model's adherence by {effect:.0f} points ({low:.0f} to {high:.0f}; {n} prompts, five seeds)", tuned("12_focal_ablation/focal_ablation", "adherence")),
    ("the guidance adds {effect:.1f} to that ({low:.1f} to {high:.1f})", claim(WAN, "focal-tuned")),
    ("the tuned control gains {effect:.0f} points ({low:.0f} to {high:.0f}; {n} prompts, two seeds)", tuned("13_focal_joint/focal_joint", "all questions right (points)")),
    ("and the guidance nothing on top ({low:.0f} to {high:.0f})", claim(COG, "focal-tuned")),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "numbers"), FINDINGS, ids=lambda x: x[:50] if isinstance(x, str) else "")
def test_the_readme_says_what_the_full_size_run_found(sentence, numbers):
    assert sentence.format_map(numbers) in README
