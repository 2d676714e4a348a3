"""The keys of the videos that the committed results were made from: a setting that is added to the schema changes none.

tests/data/keys.csv holds, of three cells of every full-size sweep, the hashes of weights and sampler, and the key without the
code of methods and steering, which change when a method does.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from analysis.study.resolved_settings import resolve

ROOT = Path(__file__).parent.parent
ROWS = list(csv.DictReader((ROOT / "tests/data/keys.csv").open()))


def plain_row(sweep, index, cell):
    key = replace(cell, steering="", record="", code="").key
    return {"sweep": sweep, "cell": str(index), "weights": cell.weights, "sampler": cell.sampler, "key": key}


@pytest.mark.parametrize("backbone", sorted({row["sweep"] for row in ROWS}))
def test_keys_are_those_of_the_committed_results(backbone, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = expand(load_parameters(full=True), backbone, checked=False)
    for row in [row for row in ROWS if row["sweep"] == backbone]:
        assert plain_row(backbone, int(row["cell"]), cells[int(row["cell"])]) == row


def test_settings_of_the_testbed_are_written_as_before(monkeypatch):
    """They are files that stages depend on: a new key in them would make every stage run again."""
    monkeypatch.chdir(ROOT)
    found = resolve(load_parameters(), "baseline")
    assert list(found) == ["grid", "backbone", "methods"] and "benchmark" not in found["grid"]
    assert list(found["backbone"]) == ["checkpoint", "revision", "delta", "pipeline", "dtype", "height", "width", "frames",
                                       "fps", "steps", "negative_prompt", "max_sequence_length"]  # fmt: skip
