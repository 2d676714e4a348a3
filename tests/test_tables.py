"""The papers' tables: complete specifications, published numbers as published, and no number that was not measured."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.papers.paper_tables import (
    SPECS,
    as_markdown,
    build,
    build_tables,
    count,
    direction,
    load_published,
    load_scores,
    markdown,
    measure,
    published_change,
    wide,
    write_tables,
)  # fmt: skip
from analysis.papers.table_schema import Metric, load_paper
from analysis.study.files import write_table
from analysis.study.parameters import load_parameters
from analysis.study.results_layout import sweep_folder
from methods.__main__ import parser, read_methods

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")
PAPERS = {p.stem: load_paper(p, PARAMETERS) for p in sorted((ROOT / SPECS).glob("*.yaml"))}
PUBLISHED = load_published(ROOT / "papers/published.csv")
EVENTS = ["modification", "addition", "deletion", "motion"]
FLOW = Metric(measured="flow_px", digits=3, estimator="flow")


def made_up(sweep, method, values, *, backbone="wan-i2v", scale=1.0, **columns):
    """Scores of a sweep's setting: `values` of every measure over samples of alternating events."""
    n = len(values)
    table = pd.DataFrame({"sample": [f"s{i}" for i in range(n)], "seed": 0, "main_category": (EVENTS * n)[:n]})
    fixed = {
        "sweep": sweep,
        "backbone": backbone,
        "method": method,
        "guidance_scale": scale,
        "blur": 0.0,
        "prompts": "own",
    }
    measures = ("macro", "adherence", "flow_px", "background_psnr")
    return table.assign(**fixed, **dict.fromkeys(measures, np.asarray(values, float))).assign(**columns)


def cells_of(paper, scores):
    return build(PAPERS[paper], scores, PUBLISHED, PARAMETERS)


@pytest.fixture(scope="module")
def some():
    """The baseline on 40 samples and AlignVid, better everywhere, on 24 of them."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 40)
    return pd.concat([made_up("baseline", "none", base), made_up("methods", "alignvid", base[:24] + 0.2)])


@pytest.fixture(scope="module")
def built(some):
    """The cells of every paper from those scores."""
    return {name: cells_of(name, some) for name in PAPERS}


def test_every_table_of_the_papers_is_there():
    expected = {
        "alignvid": {f"table{i}" for i in range(1, 17)},
        "focal_guidance": {"table1", "table2", "table3"},
        "dymos": {f"table{i}" for i in range(1, 7)} | {"figure3", "figure5"},
    }
    assert {name: set(p.tables) for name, p in PAPERS.items()} == expected
    for paper in PAPERS.values():
        for name, table in paper.tables.items():
            assert table.listed or (table.rows and table.metrics), name


@pytest.mark.parametrize(
    "change, named", [("method: nowhere", "nowhere"), ("metod: none", "metod"), ("sweep: lost", "lost")]
)
def test_a_specification_with_a_name_that_does_not_exist_is_refused(tmp_path, change, named):
    text = (ROOT / SPECS / "alignvid.yaml").read_text()
    old = "row: Wan2.1, backbone: Wan2.1, method: none}"
    assert old in text
    changed = old.replace("method: none", change if "sweep" not in change else f"method: none, {change}")
    (tmp_path / "x.yaml").write_text(text.replace(old, changed, 1))
    with pytest.raises(ValueError, match=named):
        load_paper(tmp_path / "x.yaml", PARAMETERS)


@pytest.mark.parametrize("name", PAPERS)
def test_published_values_are_those_of_the_file_and_all_are_shown(name, built):
    cells = built[name]
    shown = set()
    for table, rows in cells.groupby("table", sort=False):
        spec = {r.row: r for r in PAPERS[name].tables[table].rows}
        for c in rows.itertuples():
            row = spec[c.row]
            key = (name, row.table or table, row.published or row.row, c.metric)
            shown.add(key)
            entry = PUBLISHED.get(key)
            assert (c.published, c.grade, c.source) == (
                (entry["value"], entry["grade"], entry["source"]) if entry else ("not obtained", "", "")
            )
    for key in PUBLISHED:
        table = PAPERS[name].tables.get(key[1]) if key[0] == name else None
        if table and key[3] in table.metrics:
            assert key in shown, f"{key} is published and not in the table"


def test_no_number_is_written_in_a_specification():
    """What is published comes from the file: a row has names, a guidance scale and settings, and nothing else."""
    for paper in PAPERS.values():
        for row in (r for t in paper.tables.values() for r in t.rows):
            given = row.model_dump(exclude={"guidance_scale", "real"})
            assert all(v is None or isinstance(v, str) for v in given.values())


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_without_scores_is_not_run(name, built):
    cells = built[name]
    assert cells["measured"].notna().all() and not cells["measured"].isin(["", 0]).any()
    number = cells["measured"].map(lambda v: not isinstance(v, str))
    run = (
        cells["method"].isin(["none", "alignvid"])
        & (cells["guidance_scale"] == 1)
        & (cells["measured_on"] == "wan-i2v")
    )
    assert not (number & ~run).any()
    rest = cells[~run]
    assert (rest["measured"] == "not run").all() and rest["reason"].str.len().gt(3).all()
    assert rest[["low", "high", "n", "change", "change_low"]].isna().all().all() and (rest["direction"] == "").all()
    assert cells.loc[~number, "reason"].str.len().gt(3).all()


def test_a_row_that_a_sweep_would_measure_names_it(built):
    cells = built["alignvid"]
    row = cells[cells["row"] == "energy-based scaling"].iloc[0]
    assert row["command"] == "python -m analysis generate alignvid && python -m analysis score alignvid"
    row = cells[(cells["row"] == "CFG=5") & (cells["table"] == "table6")].iloc[0]
    assert "generate guidance " in row["command"] and "guidance 5.0" in row["reason"]


def test_every_command_is_one_that_exists(built):
    seen = 0
    for name in PAPERS:
        for text in built[name]["command"].unique():
            for words in [shlex.split(part) for part in text.split(" && ") if part]:
                seen += 1
                if words[2] == "methods":
                    options = parser().parse_args(words[3:])
                    assert "/" in options.model and options.output.suffix == ".mp4"
                    read_methods(options.method, None)
                else:
                    assert words[2] == "analysis" and words[3] in ("generate", "score")
                    assert words[4] in PARAMETERS.sweeps
    assert seen > 20


def test_rows_are_measured_on_the_samples_that_all_of_them_have(built):
    cells = built["alignvid"]
    two = cells[(cells["table"] == "table2") & (cells["metric"] == "Dynamic Degree")].set_index("row")
    assert two.loc["Wan2.1", "n"] == two.loc["Wan2.1 + AlignVid", "n"] == 24
    assert np.isclose(two.loc["Wan2.1 + AlignVid", "change"], 0.2, atol=1e-3)
    assert two.loc["Wan2.1 + AlignVid", "direction"] == "agrees"
    edits = cells[(cells["table"] == "table2") & (cells["metric"] == "Addition")].set_index("row")
    assert edits.loc["Wan2.1", "n"] == 6 and 20 < edits.loc["Wan2.1", "measured"] < 60  # in percent, of that event only


def test_the_direction_rule():
    rng = np.random.default_rng(1)
    base = rng.normal(size=30)
    baseline = made_up("baseline", "none", base)
    for shift, expected in ((0.5, "agrees"), (-0.5, "disagrees"), (0.0, "undecided")):
        noise = rng.normal(scale=0.3, size=30)
        found = measure(made_up("methods", "dymos-1", base + shift + noise - noise.mean()), baseline, FLOW)
        assert direction(found, 1) == expected
        opposite = {"agrees": "disagrees", "disagrees": "agrees"}.get(expected, expected)
        assert direction(found, -1) == opposite
    few = measure(made_up("methods", "dymos-1", base[:5] + 1), baseline[:5], FLOW)
    assert few["change_low"] > 0 and direction(few, 1) == "undecided"


def test_published_changes():
    assert published_change("71.27", "64.45") == ("+6.82", 1)
    assert published_change("0.5935", "0.5935") == ("+0.0000", 0)
    assert published_change("57.7", "58") == ("-0.3", -1)
    assert published_change("increase", None) == ("increase", 1) and published_change("decrease", "3")[1] == -1
    assert published_change("around 3-4", "1") == published_change(None, "1") == published_change("1", None) == ("", 0)


def test_failed_videos_make_a_cell_incomplete(some):
    broken = some.copy()
    broken.loc[(broken["method"] == "alignvid") & (broken["sample"] == "s3"), "flow_px"] = np.nan
    cells = cells_of("alignvid", broken)
    row = cells[(cells["row"] == "Wan2.1 + AlignVid") & (cells["metric"] == "Dynamic Degree")].iloc[0]
    assert row["measured"] == "incomplete" and "1 of 24" in row["reason"] and row["direction"] == ""


def test_scores_on_other_references_are_taken_only_where_they_are_named():
    rng = np.random.default_rng(2)
    twin = [made_up("cogvideox-twin-i2v", m, rng.random(12)) for m in ("none", "dymos-1")]
    cells = cells_of("dymos", pd.concat(twin))
    measured = cells[cells["measured"].map(lambda v: not isinstance(v, str))]
    assert set(measured["table"]) == {"figure3"} and set(measured["row"]) == {"gamma 0", "gamma 1"}


def test_tables_are_written_from_any_folder(tmp_path, monkeypatch, some):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"no sweep has a scores\.csv in"):
        load_scores(tmp_path, PARAMETERS)
    for sweep, part in some.groupby("sweep"):
        write_table(part, sweep_folder(PARAMETERS, sweep, tmp_path) / "scores.csv")
    papers, cells, loaded = build_tables(PARAMETERS, tmp_path)
    write_tables(papers, cells, tmp_path / "out")
    again = pd.read_csv(tmp_path / "out/paper_tables.csv", dtype=str, keep_default_na=False)
    assert len(again) == len(cells) and (again["measured"] != "").all() and (again["published"] != "").all()
    assert count(cells)["cells"].sum() == len(cells) and (count(cells)["measured"] > 0).all()
    for name, paper in papers.items():
        text = (tmp_path / f"out/{name}.md").read_text()
        assert text == markdown(paper, cells[cells["paper"] == name]) and "not run" in text and "| nan" not in text
        assert text.count("## ") == len(paper.tables)


def test_measured_and_published_values_never_share_a_column(built):
    for name, paper in PAPERS.items():
        cells = built[name]
        for table_name, table in paper.tables.items():
            if table.rows:
                text = wide(paper, table, cells[cells["table"] == table_name])
                assert text.columns.is_unique and not text.isna().any().any()
                kinds = [c.rsplit(": ", 1)[-1].split(",")[0] for c in text.columns[2:]]
                assert set(kinds) <= {"measured", "change and its direction", "published"}, kinds
                assert len(as_markdown(text).splitlines()) == len(text) + 2


def test_a_comparison_is_one_line_on_every_backbone():
    """A setting of two tables is one line with the cell of most prompts; the other backbone is measured for itself."""
    from analysis.papers.compared_changes import compact_table, compared_changes, counts, directions
    from analysis.papers.paper_tables import AGREEMENT, build_tables

    papers, cells, loaded = build_tables(load_parameters(ROOT / "params.yaml", full=True), ROOT / "results/full")
    backbones = ["wan-i2v", "cogvideox-i2v"]
    stand_ins = {"cogvideox-i2v": {"focal-full": "focal-joint-full"}}
    parameters = load_parameters(ROOT / "params.yaml", full=True)
    changes = compared_changes(papers, cells, loaded, stand_ins, backbones, parameters)
    assert changes.groupby("backbone").size().nunique() == 1
    line = changes.query("setting == 'AlignVid' and metric == 'Modification'").set_index("backbone")
    own = cells.query("method == 'alignvid' and guidance_scale == 1 and metric == 'Modification' and direction != ''")
    assert line.loc["wan-i2v", "n"] == own["n"].max() and line.loc["wan-i2v", "tables"].count("table") == len(own)
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
