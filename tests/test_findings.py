"""The README's findings: every number is one of a full-size table or computed from its scores, rounded as the sentence
says it. `python tests/test_findings.py` prints sentences and table as they have to be."""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.papers.claim_schema import load_claims
from analysis.papers.claims_page import kind_of
from analysis.study.parameters import load_parameters
from analysis.study.significance import paired_difference

ROOT = Path(__file__).parents[1]
FULL = ROOT / "results/full"
README = " ".join((ROOT / "README.md").read_text().split())
WAN, COG = "wan", "cogvideox"


@cache
def read(path: str) -> pd.DataFrame:
    return pd.read_csv(FULL / path)


def numbers(effect, low, high, n, **more) -> dict:
    """Values for a sentence; `less`, `less_low` and `less_high` are those of the decrease."""
    return dict(effect=effect, low=low, high=high, n=int(n), less=-effect, less_low=-high, less_high=-low, **more)


def row(path: str, effect: str, **where) -> dict:
    """The numbers of the one row of a table with these values."""
    rows = read(path)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, f"{len(rows)} rows of {path} with {where}"
    found = rows.iloc[0].to_dict()
    return numbers(found[effect], found["low"], found["high"], found["n"], corrected=found.get("p (Holm)"))


def scores(lineage: str, *studies: str) -> pd.DataFrame:
    return pd.concat([read(f"sweeps/{lineage}/{study}/scores.csv") for study in studies], ignore_index=True)


def change(steered, unsteered, column, factor=1.0) -> dict:
    """`steered` minus `unsteered` on the samples and seeds of `steered`; prompts that changed as `changed`."""
    pairs = pd.MultiIndex.from_frame(steered[["sample", "seed"]])
    partner = unsteered[pd.MultiIndex.from_frame(unsteered[["sample", "seed"]]).isin(pairs)]
    found = paired_difference(steered, partner, column)
    moved = steered.groupby("sample")[column].mean() != partner.groupby("sample")[column].mean()
    return numbers(
        *(factor * found[k] for k in ("difference", "low", "high")), found["n"], changed=int(moved.sum()),
        before=factor * partner[column].mean(), after=factor * steered[column].mean(),
    )  # fmt: skip


def unsteered(lineage):
    return scores(lineage, "baseline", "repeats")


def guided(lineage, scale=5):
    found = scores(lineage, "guidance")
    return change(found[found["guidance_scale"] == scale], unsteered(lineage), "adherence", 100)


def moves(lineage, method, scale=1):
    """Change of the named object's displacement on the prompts that ask for motion; of guidance alone, against none."""
    found = scores(lineage, "motion", "motion-guided")
    steered = found[(found["method"] == method) & (found["guidance_scale"] == scale)]
    plain = found[(found["method"] == "none") & (found["guidance_scale"] == (1 if method == "none" else scale))]
    return change(steered, plain, "asked_px")


def claim(lineage, name):
    return row("claims/claims.csv", "effect", id=name, model=f"{lineage}-i2v")


def sweep(lineage, method, guidance=1.0, measure="adherence"):
    where = dict(backbone=f"{lineage}-i2v", method=method, measure=measure, guidance_scale=guidance)
    return row("07_method_sweeps/method_sweeps.csv", "difference", **where)


def share(lineage, setting):
    return row("01_testbed/testbed.csv", "adherence %", backbone=f"{lineage}-i2v", setting=setting)


def control(lineage):
    """What post-training without guidance changes."""
    table, measure = {
        WAN: ("12_focal_ablation/ablation.csv", "adherence"),
        COG: ("13_focal_joint/ablation.csv", "adherence"),
    }[lineage]
    return row(table, "difference", measure=measure, setting="tuned, no guidance (control)")


def untrained():
    found = scores(WAN, "focal-ablation")
    none = found[found["method"] == "none"]
    return change(found[found["method"] == "focal-full"], none, "adherence", 100)


def findings():
    """(the sentence, its numbers)."""
    return [
        ("the Wan-type model follows {effect:.0f} % of {n} prompts ({low:.0f} to {high:.0f})", share(WAN, "no guidance")),
        ("the CogVideoX-type model {effect:.0f} % ({low:.0f} to {high:.0f}).", share(COG, "no guidance")),
        ("guidance 5 adds {effect:.0f} points ({low:.0f} to {high:.0f}; {n} prompts)", guided(WAN)),
        ("prompts) and {effect:.0f} ({low:.0f} to {high:.0f}), for twice the compute", guided(COG)),
        ("it adds {effect:.1f} points on the Wan-type model ({low:.1f} to {high:.1f})", claim(WAN, "alignvid-adherence")),
        ("and {effect:.1f} on the CogVideoX-type model ({low:.1f} to {high:.1f}); neither survives", claim(COG, "alignvid-adherence")),
        ("In all ten it adds {effect:.0f} ({low:.0f} to {high:.0f}; {n} prompts)", sweep(WAN, "alignvid-early-all")),
        ("and {effect:.1f} ({low:.1f} to {high:.1f}). In joint", sweep(COG, "alignvid-early-all")),
        ("beyond the paper, give {effect:.1f} ({low:.1f} to {high:.1f}).", sweep(COG, "alignvid-reference-keys")),
        ("goes {effect:.1f} pixels further under guidance 3 ({low:.1f} to {high:.1f}; of {before:.1f})", moves(WAN, "dymos-1", 3)),
        ("and {effect:.1f} without ({low:.1f} to {high:.1f}), both inconclusive", moves(WAN, "dymos-1")),
        ("that of the CogVideoX-type model {less:.1f} pixels less ({less_low:.1f} to {less_high:.1f})", moves(COG, "dymos-1", 3)),
        ("and {less:.1f} less ({less_low:.1f} to {less_high:.1f}). 4.", moves(COG, "dymos-1")),
        ("On the {n} prompts that ask for a move", moves(WAN, "dymos-1")),
        ("changed no prompt's score among {n}.", untrained()),
        ("{effect:.0f} points on the Wan-type model ({low:.0f} to {high:.0f}; {n} prompts; not significant after correction)", control(WAN)),
        ("and {effect:.0f} on the CogVideoX-type model ({low:.0f} to {high:.0f}; {n} prompts)", control(COG)),
        ("Guidance on top adds {effect:.1f} ({low:.1f} to {high:.1f})", claim(WAN, "focal-tuned")),
        ("and {effect:.1f} ({low:.1f} to {high:.1f}). 5.", claim(COG, "focal-tuned")),
        ("by {less:.1f} points on the Wan-type model ({less_low:.1f} to {less_high:.1f})", sweep(WAN, "alg")),
        ("and {less:.1f} on the CogVideoX-type model ({less_low:.1f} to {less_high:.1f})", sweep(COG, "alg")),
        ("shortens moves, by {less:.1f} pixels ({less_low:.1f} to {less_high:.1f})", moves(WAN, "alg", 3)),
        ("and {less:.1f} ({less_low:.1f} to {less_high:.1f}) under guidance 3.", moves(COG, "alg", 3)),
    ]  # fmt: skip


def cell(found, digits=1):
    return f"{found['effect']:+.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def table():
    """The rows of the README's table."""
    pair = {
        "guidance 3 alone": [(guided(x, 3), moves(x, "none", 3)) for x in (WAN, COG)],
        "AlignVid": [(sweep(x, "alignvid"), moves(x, "alignvid")) for x in (WAN, COG)],
        "AlignVid, released code": [(sweep(x, "alignvid-released"), None) for x in (WAN, COG)],
        "DyMoS, γ 1": [(sweep(x, "dymos-1"), moves(x, "dymos-1")) for x in (WAN, COG)],
        "Low-pass guidance": [(sweep(x, "alg"), moves(x, "alg")) for x in (WAN, COG)],
        "Focal Guidance, untrained": [(claim(x, "focal-zero-shot"), None) for x in (WAN, COG)],
        "post-training alone": [(control(x), None) for x in (WAN, COG)],
    }
    return [
        f"| {name} | " + " | ".join(cell(c) if c else "–" for both in cells for c in both) + " |"
        for name, cells in pair.items()
    ]


# Kinds of claims, as the claims page tallies them -> the README's words for them.
WORDS = {"efficacy": "that a method works", "mechanism": "about attention and layers", "cost": "about costs"}


def tally():
    """Lines of the README: how many of the papers' claims of each kind were supported, contradicted and inconclusive."""
    kinds = {
        c.id: kind_of(c) for c in load_claims(load_parameters(ROOT / "params.yaml"), ROOT / "papers/claims.yaml").claims
    }
    claims = read("claims/claims.csv")
    claims = claims.assign(kind=claims["id"].map(kinds))
    lines = []
    for kind, words in WORDS.items():
        parts = [claims[(claims["kind"] == kind) & (claims["model"] == f"{x}-i2v")] for x in (WAN, COG)]
        verdicts = ("supported", "contradicted", "inconclusive")
        counts = [[int((part["verdict"] == v).sum()) for v in verdicts] for part in parts]
        first = ", ".join(f"{n} {v}" for n, v in zip(counts[0], verdicts, strict=True))
        second = ", ".join(map(str, counts[1]))
        lines.append(f"* {words} ({len(parts[0])}): Wan-type {first}; CogVideoX-type {second}.")
    return lines


@pytest.mark.parametrize("index", range(len(findings())))
def test_the_readme_says_what_the_full_size_run_found(index):
    sentence, values = findings()[index]
    assert sentence.format_map(values) in README


def test_sentences_carry_what_their_verdicts_carry():
    """The README calls these inconclusive, not significant, or unchanged."""
    claims = read("claims/claims.csv")
    verdict = claims.set_index(["id", "model"])["verdict"]
    assert verdict["alignvid-adherence", "wan-i2v"] == verdict["alignvid-adherence", "cogvideox-i2v"] == "inconclusive"
    blocks = json.loads((ROOT / "methods/calibrated_blocks.json").read_text())
    assert {b["family"]: len(b["blocks"]) for b in blocks} == {
        "WanTransformer3DModel": 1,
        "CogVideoXTransformer3DModel": 2,
    }
    assert verdict["dymos-motion", "wan-i2v"] == verdict["unguided-dymos", "wan-i2v"] == "inconclusive"
    assert verdict["dymos-motion", "cogvideox-i2v"] == verdict["unguided-dymos", "cogvideox-i2v"] == "contradicted"
    assert control(WAN)["corrected"] > 0.05 > control(COG)["corrected"]
    assert untrained()["changed"] == 0


@pytest.mark.parametrize("line", [*table(), *tally()])
def test_the_readmes_tables_are_the_full_size_runs(line):
    assert line in (ROOT / "README.md").read_text()


def test_neglect_was_trained_in_as_often_as_the_readme_says():
    for card in ("wan", "cogvideox"):
        text = " ".join((ROOT / f"testbed/checkpoints/{card}.md").read_text().split())
        assert "In 27 % of the clips of the last image-to-video phase the described event does not happen" in text
    assert "In 27 % of the clips of the last training phase" in README


if __name__ == "__main__":
    print(*(sentence.format_map(values) for sentence, values in findings()), *table(), *tally(), sep="\n")
