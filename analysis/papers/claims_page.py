"""The page of decided claims, claims.md: by what a claim is about, with a tally each, readable in a minute."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from ..report import labels
from ..report.findings import number
from ..study.parameters import Parameters
from ..study.results_layout import claims_folder, notebook_folder
from .claim_schema import KNOWN, Claim, Claims, Correlation, Cost, Difference, FirstHalf, Setting, Trend

SYMBOLS = {"supported": "✔", "contradicted": "✘", "inconclusive": "○", "not run": "–"}
OWN = "together"  # the key under `papers` of the claims that no paper makes
EFFICACY = ("adherence", "macro", "flow_px", "displacement_px", "asked_px", "still_copy", "onset")
COSTS = ("first_psnr", "background_psnr", "subject_psnr", "object_integrity", "sharpness_retention")
# kind -> (heading, what it holds)
KINDS = {
    "efficacy": ("Efficacy", "Does a method do what it is for: prompts followed, motion?"),
    "cost": (
        "Harmlessness and cost",
        "What it costs in fidelity, sharpness, adherence or time. A method that changes nothing passes these, and so does "
        "one that freezes the video: read them with its efficacy.",
    ),
    "mechanism": ("Mechanism", "What the papers say about attention and blocks, whatever it does to the video."),
    "own": ("This repository's own", "Combinations and conditions that no paper claims anything about."),
}
SIBLINGS = {
    "text-to-video": "text-to-video model",
    "control": "tuned without guidance",
    "tuned-full": "tuned with it",
    "tuned-fsg": "tuned with it",
    "tuned-cache": "tuned with it",
}
DIGITS = {"points": 1, "dB": 2, "px / frame": 4, "px": 2, "nats": 4, "%": 2}
SMOKE = (
    "> **Smoke run.** So few videos show that the pipeline works, and no more, so no verdict is stated here. The verdicts are "
    "on [the full-size page](../full/claims/claims.md).\n"
)


def kind_of(claim: Claim) -> str:
    """What a claim is about, by its paper and its test: a key of KINDS. A margin, or a measure of fidelity or time, makes it
    one about cost; a measure of attention or of blocks, or a correlation, one about the mechanism."""
    test = claim.test
    if claim.paper == OWN:
        return "own"
    if isinstance(test, Cost):
        return "cost"
    if isinstance(test, Correlation | FirstHalf) or any(m not in EFFICACY + COSTS for m in test.measures):
        return "mechanism"
    return "cost" if test.line or test.measures[0] in COSTS else "efficacy"


def page(table: pd.DataFrame, claims: Claims, parameters: Parameters) -> str:
    """The Markdown of a table of `decide`, of the run that `parameters` is for; a small run states no verdict."""
    lines = ["# The papers' claims, tested here", ""]
    if not parameters.full_size:
        lines += [SMOKE, *_tested(table, claims)]
        return "\n".join(lines) + "\n"
    kinds = {claim.id: kind_of(claim) for claim in claims.claims}
    table = table.assign(kind=table["id"].map(kinds))
    lines += [*_glance(table, claims), ""]
    lines += [
        f"Signs: {', '.join(f'{s} {word}' for word, s in SYMBOLS.items())}. Supported: the 95 % interval over prompts lies "
        "wholly on the claimed side, and p, corrected within the claim's family by Holm, is below 0.05; contradicted: the "
        "same on the other side. Times have quartiles over rounds and no p. These are verdicts about the small models of "
        "this repository, not about the papers' checkpoints. All numbers: [claims.csv](claims.csv); how to read them: "
        "[docs/reading-notebooks.md](../../../docs/reading-notebooks.md); samples, seeds and machine: [README](../README.md)."
    ]
    for kind, (heading, about) in KINDS.items():
        part = table[table["kind"] == kind]
        lines += ["", f"## {heading}", "", f"{about} {_tallies(part, claims)}.", ""]
        lines += [f"| claim | {' | '.join(map(labels.backbone, claims.models))} | shown in |"]
        lines += ["|---" * (len(claims.models) + 2) + "|"]
        chosen = [claim for claim in claims.claims if kinds[claim.id] == kind]
        lines += [_line(claim, part[part["id"] == claim.id], claims, parameters) for claim in chosen]
    for model, names in claims.stand_ins.items():
        used = sorted(new for new in names.values() if labels.family(new, parameters) == "Focal Guidance")
        lines += ["", f"¹ On the {labels.backbone(model)}, Focal Guidance runs with a trained projection (settings "
                  f"{', '.join(f'`{n}`' for n in used)})."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _glance(table: pd.DataFrame, claims: Claims) -> list[str]:
    lines = [f"| | {' | '.join(map(labels.backbone, claims.models))} |", "|---" * (len(claims.models) + 1) + "|"]
    for kind, (heading, _) in KINDS.items():
        part = table[table["kind"] == kind]
        cells = [_tally(part[part["model"] == model]) for model in claims.models]
        lines.append(f"| {heading} | {' | '.join(cells)} |")
    timed = table[~table["model"].isin(claims.models)]
    for device, part in timed.groupby("model", sort=False):
        lines.append(f"| Times, {device} | {_tally(part)} |" + " |" * (len(claims.models) - 1))
    return lines


def _tally(part: pd.DataFrame) -> str:
    counts = part["verdict"].value_counts()
    return ", ".join(f"{s} {counts.get(word, 0)}" for word, s in SYMBOLS.items() if word != "not run" or word in counts)


def _tallies(part: pd.DataFrame, claims: Claims) -> str:
    told = []
    for model in claims.models:
        counts = part[part["model"] == model]["verdict"].value_counts()
        supported, total = counts.get("supported", 0), counts.sum()
        told.append(
            f"{labels.backbone(model)}: {supported} of {total} supported, {counts.get('contradicted', 0)} contradicted"
        )
    return "; ".join(told)


def _line(claim: Claim, rows: pd.DataFrame, claims: Claims, parameters: Parameters) -> str:
    """A row: a cell per model; times, which are no model's, stand in the first one."""
    records = rows.to_dict("records")
    cells = {m: [_cell(r) for r in records if r["model"] == m] for m in claims.models}
    cells[next(iter(claims.models))] += [
        f"{r['model']}: {_cell(r)}" for r in records if r["model"] not in claims.models
    ]
    replaced = {old for names in claims.stand_ins.values() for old in names}
    note = "¹" if any(s.method in replaced for s in claim.test.settings) else ""
    source = "" if claim.paper == OWN else f" ({claims.papers[claim.paper].split(' (')[0]}, {claim.where})"
    said = f"{claim.claim}{note}{source}<br>*{compared(claim.test, parameters)}*"
    return f"| {said} | {' | '.join('<br>'.join(c) or '–' for c in cells.values())} | {_links(claim, parameters.results)} |"


def _links(claim: Claim, results: Path) -> str:
    """Links to the notebooks, from the page's folder: to the full-size copy where there is one."""
    links = {}
    for name in claim.notebook:
        own = notebook_folder(name, results) / f"{name}.ipynb"
        found = own if own.is_file() else notebook_folder(name) / own.name
        links[name] = os.path.relpath(found, claims_folder(results))
    return ", ".join(f"[{name[:2]}]({link})" for name, link in links.items())


def _cell(row: dict) -> str:
    sign = SYMBOLS[row["verdict"]]
    if row["verdict"] == "not run":
        return f"{sign} not run"
    unit = row["unit"]
    digits = DIGITS.get(unit, 2)
    margin = f", line {number(row['line'], digits if row['line'] % 1 else 0)}" if row["line"] else ""
    count = f"{row['n']:,.0f} tokens" if row["model"].startswith("a block") else f"n = {row['n']:.0f}"
    ends = f"{number(row['low'], digits)} to {number(row['high'], digits)}"
    told = f"{sign} {number(row['effect'], digits, sign=True)} {unit}".strip() + f" ({ends}), {count}{margin}"
    return told + _undecided(row, digits)


def _undecided(row: dict, digits: int) -> str:
    """What an inconclusive cell could have shown: why not, or how many prompts changed and which difference would be seen."""
    if row["verdict"] != "inconclusive":
        return ""
    if isinstance(row["caveat"], str) and row["caveat"]:
        return f"; undecided: {row['caveat']}"
    if pd.isna(row["detectable"]):
        return ""
    return f"; {row['changed']:.0f} changed, {number(row['detectable'], digits)} would have been seen"


def _tested(table: pd.DataFrame, claims: Claims) -> list[str]:
    """What a small run can say: which claims have data, and how many prompts."""
    lines = [f"| claim | {' | '.join(map(labels.backbone, claims.models))} |", "|---" * (len(claims.models) + 1) + "|"]
    for claim in claims.claims:
        rows = table[table["id"] == claim.id].to_dict("records")
        told = {r["model"]: "not run" if r["verdict"] == "not run" else f"n = {r['n']:.0f}" for r in rows}
        timed = [text for model, text in told.items() if model not in claims.models]
        cells = [told.get(m) or (timed[0].replace("n = ", "tokens: ") if timed and not i else "–")
                 for i, m in enumerate(claims.models)]  # fmt: skip
        lines.append(f"| {claim.claim} | {' | '.join(cells)} |")
    return lines


# --- Words ------------------------------------------------------------------------------------------------------------
def setting_words(setting: Setting, parameters: Parameters) -> str:
    """A setting of claims.yaml as a reader would say it."""
    plain = setting.method == "none" and (setting.model or setting.blur or setting.reference == "twin")
    said = [] if plain else [labels.setting(setting.method, setting.guidance_scale, parameters)]
    said += [SIBLINGS[setting.model]] if setting.model else []
    said += [f"reference blurred, σ {setting.blur:g}"] * (setting.blur > 0)
    said += ["from the text-to-video model's frame"] * (setting.reference == "twin")
    said += ["others' prompts"] * (setting.prompts != "own") + ["early steps"] * (setting.window == "early")
    said += [f"{setting.blocks} of the blocks"] * (setting.blocks != "all")
    return ", ".join(said)


def compared(test: Difference | Trend | Correlation | FirstHalf | Cost, parameters: Parameters) -> str:
    """What a test compares, in words."""
    if isinstance(test, Cost | FirstHalf):
        return str(test)
    words = [setting_words(s, parameters) for s in test.settings]
    if isinstance(test, Correlation):
        measures = " with ".join(KNOWN[m].label for m in test.measures)
        return f"{measures}: {words[0]}" + (f", change from {words[1]}" if test.b else "")
    label = KNOWN[test.measure].label
    if isinstance(test, Trend):
        return f"{label} over {len(words)} levels: {words[0]} to {words[-1]}"

    text = f"{label}: {words[0]} against {'; '.join(words[1 : 1 + len(test.against)])}"
    return text + (f"; less {words[-2]} against {words[-1]}" if test.beyond else "")
