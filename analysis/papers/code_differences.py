"""What the differences between a paper and its code do, measured: the `ledger` of papers/claims.yaml as a table."""

from __future__ import annotations

import pandas as pd

from ..study.files import write_table
from ..study.results_layout import claims_folder
from ..study.significance import holm
from .claim_inputs import PAIR, NotRun, Study, common
from .claim_rules import difference
from .claim_schema import SCORES, Claims, Difference, LedgerRow

ENDS = ["value", "low", "high"]
MEASURED = ("adherence", "flow_px", "background_psnr")  # following the prompt, moving, keeping the reference


def changed(row: LedgerRow, study: Study, model: str) -> int:
    """Number of videos of which any score differs between the two settings."""
    columns = [c for c in SCORES if c in study.scores]
    tables = [study.rows(study.scores, model, s).drop_duplicates(PAIR)[[*PAIR, *columns]] for s in (row.a, row.b)]
    a, b = (t[columns].reset_index(drop=True) for t in common(*tables))
    return int((a.ne(b) & ~(a.isna() & b.isna())).any(axis=1).sum())


def measure(claims: Claims, study: Study) -> pd.DataFrame:
    """A row per ledger entry, model and measure: the difference a - b with interval, n, p and p corrected by Holm over
    all entries of a model; `changed`, how many videos differ at all. `missing` says why there is no value."""
    rows = []
    for entry in claims.ledger:
        for model in study.models:
            told = entry.model_dump(exclude={"a", "b"}) | {"model": model, "a": str(entry.a), "b": str(entry.b)}
            for name in MEASURED:
                test = Difference(kind="difference", measure=name, a=entry.a, b=entry.b, sign="higher")
                try:
                    effect = difference(test, study, model)
                except NotRun as missing:
                    rows.append(told | {"measure": name, "unit": SCORES[name].unit, "missing": str(missing)})
                    continue
                found = vars(effect) | {"changed": changed(entry, study, model), "missing": ""}
                rows.append(told | {"measure": name} | found)
    columns = [*told, "measure", "unit", "value", "low", "high", "n", "changed", "p", "p (Holm)", "missing"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table[ENDS] = table[ENDS].astype(float).round(6) + 0.0  # no -0
    table["p (Holm)"] = table.groupby("model")["p"].transform(lambda p: holm(p))
    return table


def write_ledger(claims: Claims, study: Study) -> pd.DataFrame:
    """Measure all entries and write `<root>/claims/ledger.csv`."""
    table = measure(claims, study)
    write_table(table.astype({"n": "Int64", "changed": "Int64"}), claims_folder(study.root) / "ledger.csv", "%.3g")
    return table
