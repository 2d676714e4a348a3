"""Decide the claims of papers/claims.yaml: results/claims/claims.csv and the page results/claims/claims.md."""

from __future__ import annotations

import os
from functools import partial

import pandas as pd

from ..study.files import write_atomically, write_table
from ..study.results_layout import claims_folder, notebook_folder
from ..study.significance import holm, verdict
from .claim_inputs import NotRun, Study
from .claim_rules import SIGNS, TESTS, Effect, cost
from .claim_schema import Claim, Claims

LEVEL = 0.05
ENDS = ["effect", "low", "high"]
SYMBOLS = {"supported": "✔", "contradicted": "✘", "inconclusive": "○", "not run": "–"}
COLUMNS = ["paper", "id", "where", "claim", "family", "test", "claimed", "line", "model", "effect", "low", "high", "unit",
           "n", "p", "p (Holm)", "verdict", "reason", "notebook"]  # fmt: skip


def decide(claims: Claims, study: Study) -> pd.DataFrame:
    """A row per claim and model. A claim about time has a row per device that was timed instead.

    p is corrected by Holm over the claims of a family on one model that could be tested.
    """
    rows = []
    for claim in claims.claims:
        if claim.test.kind == "cost":
            tables = {p.stem.split("-")[1]: p for p in sorted(study.beside("bench").glob("attention-*.csv"))}
            found = [(f"a block, {k}", partial(cost, claim.test, pd.read_csv(p))) for k, p in tables.items()]
            found = found or [("a block", partial(cost, claim.test, pd.DataFrame(columns=["setting", "tokens"])))]
        else:
            found = [(m, partial(TESTS[claim.test.kind], claim.test, study, m)) for m in study.models]
        rows += [_row(claim, model, test) for model, test in found]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table[ENDS] = table[ENDS].round(6) + 0.0  # no -0
    table["p (Holm)"] = table.groupby(["family", "model"])["p"].transform(_corrected)
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table


def _row(claim: Claim, model: str, test) -> dict:
    told = claim.model_dump(exclude={"test"}) | {"test": str(claim.test), "model": model, "line": claim.test.line}
    told["notebook"] = " ".join(claim.notebook)
    try:
        effect: Effect = test()
    except NotRun as missing:
        return told | {"claimed": claim.test.sign, "reason": str(missing)}
    found = vars(effect) | {"effect": effect.value, "reason": ""}
    return told | {"claimed": claim.test.sign} | {k: v for k, v in found.items() if k != "value"}


def _corrected(p: pd.Series) -> pd.Series:
    tested = p.notna()
    return p.mask(tested, pd.Series(holm(p[tested]), p.index[tested]))


def _verdict(row: dict) -> str:
    """Supported or contradicted if the whole interval lies on that side of the line, and p, corrected, is below 5 %
    where there is one; else inconclusive; "not run" without data."""
    if row["reason"]:
        return "not run"
    if row["p (Holm)"] >= LEVEL:
        return "inconclusive"
    return verdict(row["low"], row["high"], SIGNS[row["claimed"]], row["line"])


# full size or not -> what the page says of its run
NOTES = {
    False: "**This is the small run**, in which few videos stand behind a verdict; those of the full-size run, by the same "
    "rule, are on [its page](../full/claims/claims.md).",
    True: "**This is the full-size run**; its samples, seeds and machine are in [README.md](../README.md). Studies of "
    "layers and times are those of the small run.",
}


def page(table: pd.DataFrame, claims: Claims, notebooks: dict[str, str], note: str = "") -> str:
    """The Markdown page of a table of `decide`; notebooks: name -> what it links to; note: which run this is."""
    words = [f"{s} {word}" for word, s in SYMBOLS.items()]
    counts = table.groupby(["model", "paper"])["verdict"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(SYMBOLS), fill_value=0)
    lines = ["# The papers' claims, tested here", ""]
    for model in sorted(table["model"].unique(), key=lambda m: m not in claims.models):  # times last
        total = counts.loc[model].sum()
        lines += [f"**{model}: {total.sum()} claims, {', '.join(f'{n} {word}' for word, n in total.items())}.**", ""]
    lines += [
        "Every verdict is computed by `python -m analysis claims` from the tests in `papers/claims.yaml`; all numbers are in "
        "[claims.csv](claims.csv). A claim is supported if the 95 % interval over prompts lies wholly on its side and "
        "p, corrected by Holm within the claim's family, is below 0.05; contradicted if the same holds of the other side; else "
        "inconclusive. Times have quartiles over rounds and no p. These are verdicts about the small models of this "
        "repository, not about the papers' checkpoints.",
        *(["", note] if note else []),
    ]
    for model, names in claims.stand_ins.items():
        lines += ["", f"On {model}, {', '.join(f'`{new}` takes the place of `{old}`' for old, new in names.items())}."]
    for paper, title in claims.papers.items():
        part = table[table["paper"] == paper]
        total = part["verdict"].value_counts().reindex(list(SYMBOLS), fill_value=0)
        lines += ["", f"## {title}", "", ", ".join(f"{w} {n}" for w, n in zip(words, total, strict=True)), ""]
        lines += [f"| claim | {' | '.join(claims.models)} | shown in |", "|---" * (len(claims.models) + 2) + "|"]
        lines += [_line(rows, list(claims.models), notebooks) for _, rows in part.groupby("id", sort=False)]
    return "\n".join(lines) + "\n"


def _line(rows: pd.DataFrame, models: list[str], notebooks: dict[str, str]) -> str:
    """A row of the page: a cell per model; times, which are no model's, stand in the first one."""
    first = rows.iloc[0]
    cells = {m: [_cell(r) for r in rows.to_dict("records") if r["model"] == m] for m in models}
    cells[models[0]] += [f"{r['model']}: {_cell(r)}" for r in rows.to_dict("records") if r["model"] not in models]
    link = ", ".join(f"[{name[:2]}]({notebooks[name]})" for name in first["notebook"].split())
    said = f"{first['claim']} ({first['where']})<br>*{first['test']}*"
    return f"| {said} | {' | '.join('<br>'.join(c) for c in cells.values())} | {link} |"


def _cell(row: dict) -> str:
    word = f"{SYMBOLS[row['verdict']]} {row['verdict']}"
    if row["verdict"] == "not run":
        return word
    unit = f" {row['unit']}" if row["unit"] else ""
    line = f", claimed {row['claimed']} than {row['line']:g}" if row["line"] else ""
    number = f"{row['n']:.0f} tokens" if row["model"].startswith("a block") else f"n = {row['n']:.0f}"
    return f"{word}<br>{row['effect']:+.3g}{unit} ({row['low']:.3g} to {row['high']:.3g}), {number}{line}"


def write_claims(claims: Claims, study: Study) -> pd.DataFrame:
    """Decide all claims and write claims.csv and claims.md into `<root>/claims/`."""
    table = decide(claims, study)
    folder = claims_folder(study.root)
    notebooks = {}
    for name in " ".join(table["notebook"]).split():
        own = notebook_folder(name, study.root) / f"{name}.ipynb"  # not every notebook has a copy of the full-size run
        notebooks[name] = os.path.relpath(own if own.is_file() else notebook_folder(name) / f"{name}.ipynb", folder)
    text = page(table, claims, notebooks, NOTES[study.parameters.full_size])
    write_table(table.astype({"n": "Int64"}), folder / "claims.csv", "%.3g")
    write_atomically(folder / "claims.md", lambda p: p.write_text(text))
    return table
