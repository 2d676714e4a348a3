"""Comparisons of the papers' tables on every backbone: one line each, whichever table and model they stand in."""

from pathlib import Path

import pytest

from analysis.papers.compared_changes import compact_table, compared_changes, counts, directions
from analysis.papers.paper_tables import build_tables
from analysis.papers.table_pages import AGREEMENT
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_comparison_is_one_line_on_every_backbone():
    """A setting of two tables is one line with the cell of most prompts; the other backbone is measured for itself."""
    papers, cells, loaded = build_tables(load_parameters(ROOT / "params.yaml", full=True), ROOT / "results/full")
    backbones = ["wan-i2v", "cogvideox-i2v"]
    stand_ins = {"cogvideox-i2v": {"focal-full": "focal-joint-full"}}
    parameters = load_parameters(ROOT / "params.yaml", full=True)
    changes = compared_changes(papers, cells, loaded, stand_ins, backbones, parameters)
    assert changes.groupby("backbone").size().nunique() == 1
    line = changes.query("setting == 'AlignVid' and metric == 'Modification'").set_index("backbone")
    own = cells.query("method == 'alignvid' and guidance_scale == 1 and metric == 'Modification' and direction != ''")
    own = own.query("beside == '' and measured_on == 'wan-i2v'")
    assert line.loc["wan-i2v", "n"] == own["n"].max() and line.loc["wan-i2v", "tables"].count("table") >= len(own)
    assert line.loc["wan-i2v", "change"] == own.loc[own["n"].idxmax(), "change"]
    found = own.loc[own["n"].idxmax()]
    assert line.loc["wan-i2v", "direction"] == found["direction"] and line.loc["cogvideox-i2v", "n"] > 5
    assert set(changes["direction"]) <= {*AGREEMENT.values(), ""}
    joint = changes.query("setting == 'Focal Guidance' and backbone == 'cogvideox-i2v'")
    assert (joint["direction"] != "").all()
    numbers = counts(changes)
    assert (numbers[list(AGREEMENT.values())].sum(axis=1) == numbers["comparisons"]).all()
    assert compact_table(changes).count("\n") == 2 + len(changes) // 2
    figure = directions(changes, "DyMoS")
    dots = sum(len(c.get_offsets()) for c in figure.axes[0].collections if hasattr(c, "get_offsets"))
    assert dots >= changes.query("paper == 'DyMoS' and backbone == 'wan-i2v' and direction != ''").shape[0]
