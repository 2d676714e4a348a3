"""Decide the claims of papers/claims.yaml: results/claims/claims.csv and the page results/claims/claims.md."""

from __future__ import annotations

from functools import partial

import pandas as pd

from ..study.files import write_atomically, write_table
from ..study.results_layout import claims_folder
from ..study.significance import decide as by_rule
from ..study.significance import holm
from .claim_inputs import NotRun, Study
from .claim_rules import SIGNS, TESTS, Effect, cost
from .claim_schema import Claim, Claims
from .claims_page import page

ENDS = ["effect", "low", "high"]
COLUMNS = ["paper", "id", "where", "claim", "family", "test", "claimed", "line", "model", "effect", "low", "high", "unit",
           "n", "changed", "detectable", "p", "p (Holm)", "verdict", "caveat", "reason", "notebook"]  # fmt: skip


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
    table["p (Holm)"] = table.groupby(["family", "model"])["p"].transform(lambda p: holm(p))
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


def _verdict(row: dict) -> str:
    """By `significance.decide`; "inconclusive" where a caveat says that the numbers decide nothing, "not run" without
    data."""
    if row["reason"]:
        return "not run"
    if isinstance(row["caveat"], str) and row["caveat"]:
        return "inconclusive"
    return by_rule(row["low"], row["high"], row["p (Holm)"], SIGNS[row["claimed"]], row["line"])


def write_claims(claims: Claims, study: Study) -> pd.DataFrame:
    """Decide all claims and write claims.csv and claims.md into `<root>/claims/`."""
    table = decide(claims, study)
    folder = claims_folder(study.root)
    text = page(table, claims, study.parameters)
    write_table(table.astype({"n": "Int64", "changed": "Int64"}), folder / "claims.csv", "%.3g")
    write_atomically(folder / "claims.md", lambda p: p.write_text(text))
    return table
