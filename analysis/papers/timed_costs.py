"""What the claims about time found, for the tables that publish times: the attention of one block, timed alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..study.parameters import Parameters
from .claim_inputs import NotRun, Study
from .claim_rules import cost
from .claim_schema import load_claims


def load_costs(parameters: Parameters, results: Path) -> dict[str, dict]:
    """By the claim's id, `measured`, `low` and `high` in % on this repository's own machine (the processor); claims whose
    setting was not timed are left out."""
    claims = load_claims(parameters)
    table = Study(Path(results), parameters, claims.models, claims.stand_ins).beside("bench") / "attention-cpu.csv"
    if not table.is_file():
        return {}
    rows, found = pd.read_csv(table), {}
    for claim in claims.claims:
        if claim.test.kind == "cost":
            try:
                effect = cost(claim.test, rows)
            except NotRun:
                continue
            found[claim.id] = {"measured": effect.value, "low": effect.low, "high": effect.high}
    return found
