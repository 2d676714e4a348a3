"""The check that this code still makes the full-size run's videos: what is drawn, what is compared, what is accepted."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from analysis.report import verify_full_size as full_size
from analysis.report.full_size_run import NOTE
from analysis.study.files import write_table
from analysis.study.parameters import load_parameters
from analysis.study.results_layout import CELLS, sweep_folder, tables_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    whole = load_parameters(full=True)
    kept = ("baseline", "methods-guided", "cogvideox-twin-t2v", "cogvideox-twin-i2v", "attention-scaling")
    return whole.model_copy(update={"sweeps": {name: whole.sweeps[name] for name in kept}})


def test_every_method_of_every_sweep_is_drawn_and_the_rest_by_seed(parameters):
    found = full_size.draw(parameters, 40, seed=0)
    pairs = Counter((sweep, cell.method) for sweep, cell in found)
    assert set(pairs) == {(s, m) for s, grid in parameters.sweeps.items() for m in grid.methods}
    assert len(found) == 40 and len({(sweep, cell.key) for sweep, cell in found}) == 40
    assert found == full_size.draw(parameters, 40, seed=0) != full_size.draw(parameters, 40, seed=1)
    assert [cell.backbone for _, cell in found] == sorted(cell.backbone for _, cell in found)


@pytest.mark.parametrize("count", [3, 10**6])
def test_too_few_and_too_many_are_refused(parameters, count):
    with pytest.raises(ValueError, match=f"{count} videos are asked for; there are 16 methods"):
        full_size.draw(parameters, count, seed=0)


def test_a_changed_score_is_named_with_its_size():
    written = pd.DataFrame([{"sample": "a", "answers": "yes|no", "flow_px": 0.25, "reason": None, "macro": 1.0}])
    assert full_size.compare(written, written) == {"columns": 5, "differing": "", "wrong": ""}
    other = written.assign(flow_px=0.5, answers="no|no")
    assert full_size.compare(other, written) == {
        "columns": 5,
        "differing": "answers flow_px",
        "wrong": "answers flow_px",
    }
    rounded = full_size.compare(written.assign(flow_px=0.26), written)
    assert rounded["differing"] == "flow_px" and rounded["wrong"] == ""
    gone = written.assign(macro=float("nan"))
    assert full_size.compare(gone, written)["wrong"] == "macro"


def test_recorded_statistics_are_compared_with_those_of_the_same_video(parameters, tmp_path, monkeypatch):
    sweep = "attention-scaling"
    cell = full_size.expand(parameters, sweep, checked=False)[0]
    monkeypatch.setattr(type(parameters), "results", tmp_path)
    place = {name: getattr(cell, name) for name in full_size.CELL}
    recorded = pd.DataFrame(
        {"site": "self", "statistic": "mass", "key": ["text", "0"], "window": "all", "value": [0.5, 0.25]}
    )
    written = pd.concat([recorded.assign(**place), recorded.assign(**place | {"sample": "another"}, value=9.0)])
    write_table(written, sweep_folder(parameters, sweep) / CELLS)
    assert full_size._recorded(parameters, sweep, cell, {CELLS: recorded}) == {
        "statistics": 2,
        "statistics_largest": 0.0,
    }
    shifted = recorded.assign(value=[0.5, 0.3])
    assert full_size._recorded(parameters, sweep, cell, {CELLS: shifted})["statistics_largest"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="other statistics are recorded"):
        full_size._recorded(parameters, sweep, cell, {CELLS: recorded[:1]})


@pytest.mark.parametrize(
    ("differing", "largest", "equal"), [("", 0.0, True), ("", 9e-5, True), ("macro", 0.0, False), ("", 2e-4, False)]
)
def test_one_difference_is_enough(differing, largest, equal):
    table = pd.DataFrame({"wrong": ["", differing], "statistics_largest": [0.0, largest]})
    assert full_size.is_equal(table) is equal


def test_sweeps_without_tables_are_not_accepted(parameters, tmp_path, monkeypatch):
    monkeypatch.setattr(type(parameters), "results", tmp_path)
    folder = sweep_folder(parameters, "baseline")
    for name in tables_of(parameters, "baseline"):
        write_table(pd.DataFrame({"sample": ["a"]}), folder / name)
    assert full_size.accept(parameters) == 1
    assert [p.parent for p in tmp_path.rglob(NOTE)] == [folder]


def test_the_committed_check_is_of_this_run_and_found_no_difference():
    table = pd.read_csv(ROOT / "results/full/verified.csv", keep_default_na=False)
    grid = load_parameters(ROOT / "params.yaml", full=True).sweeps
    assert len(table) >= 200 and (table["statistics"] > 0).any() and full_size.is_equal(table)
    assert set(zip(table["sweep"], table["method"], strict=True)) == {(s, m) for s in grid for m in grid[s].methods}
