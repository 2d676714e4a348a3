"""The papers' tables: complete specifications, published numbers as published, and no number that was not measured."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.papers.paper_tables import (
    SPECS,
    build,
    build_tables,
    give_directions,
    load_published,
    load_scores,
    measure,
    published_change,
    write_tables,
)
from analysis.papers.table_commands import OLDER, command
from analysis.papers.table_pages import as_markdown, count, markdown, repeated, wide
from analysis.papers.table_schema import STAND_INS, Metric, load_paper, load_stand_ins
from analysis.study.files import write_table
from analysis.study.parameters import load_parameters
from analysis.study.presets import split_table
from analysis.study.results_layout import sweep_folder
from analysis.study.score_columns import COLUMNS
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
        "categories": "",
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
    return pd.concat([made_up("baseline", "none", base), made_up("methods-alignvid", "alignvid", base[:24] + 0.2)])


@pytest.fixture(scope="module")
def built(some):
    """The cells of every paper from those scores."""
    return {name: cells_of(name, some) for name in PAPERS}


def test_every_table_of_the_papers_is_there():
    expected = {
        "alignvid": {f"table{i}" for i in range(1, 17)},
        "focal_guidance": {"table1", "table2", "table3"},
        "dymos": {f"table{i}" for i in range(1, 7)} | {"figure3", "figure5", "figure6"},
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
    stand_ins = ROOT / "papers" / STAND_INS
    old = "row: Wan2.1, backbone: Wan2.1, method: none}"
    assert old in text
    changed = old.replace("method: none", change if "sweep" not in change else f"method: none, {change}")
    (tmp_path / "x.yaml").write_text(text.replace(old, changed, 1))
    with pytest.raises(ValueError, match=named):
        load_paper(tmp_path / "x.yaml", PARAMETERS, stand_ins)


def test_what_stands_in_for_what_is_said_once(tmp_path):
    """Every metric of the tables is in one file, all of which is used, and says what its column sees or why there is none."""
    stand_ins = load_stand_ins(ROOT / "papers" / STAND_INS)
    assert list(stand_ins) == ["alignvid", "dymos", "focal_guidance"]
    for name, paper in PAPERS.items():
        used = {m for t in paper.tables.values() for m in t.metrics}
        assert used == set(stand_ins[name]), name
        assert all(bool(m.sees) == bool(m.measured) for m in paper.metrics.values())
        for m in (m for m in paper.metrics.values() if m.measured in COLUMNS):
            assert (m.factor, bool(m.digits)) == (COLUMNS[m.measured].factor, True)
        fidelity = {k for k, m in paper.metrics.items() if m.measured == "background_psnr"}
        assert fidelity <= {"I2V Background"}, "what masks the objects out says nothing of appearance"
    (tmp_path / "x.yaml").write_text("columns: {}\nmetrics: {alignvid: {Deletion: {use: nothing}}}\n")
    with pytest.raises(ValueError, match="nothing"):
        load_stand_ins(tmp_path / "x.yaml")


def test_focal_guidance_is_scored_as_the_paper_scores():
    metrics = PAPERS["focal_guidance"].metrics
    assert {metrics[m].measured for m in ("Dynamic Attributes", "Human Motion")} == {"adherence"}


@pytest.mark.parametrize("name", PAPERS)
def test_published_values_are_those_of_the_file_and_all_are_shown(name, built):
    cells = built[name]
    shown = set()
    for table, rows in cells.groupby("table", sort=False):
        spec = {r.row: r for r in PAPERS[name].tables[table].rows}
        for c in rows.itertuples():
            row = spec[c.row]
            key = (name, row.table or table, row.published or row.row, c.metric)
            told = [(*key[:3], f"{c.metric}: {kind}") for kind in ("direction", "order")]
            shown |= {key, *told}
            entry, stated = PUBLISHED.get(key), [PUBLISHED[k] for k in told if k in PUBLISHED]
            assert c.published == (entry["value"] if entry else "not obtained")
            graded = [s["value"] + ("" if s["grade"] == "paper" else f" ({s['grade']})") for s in stated]
            assert c.stated == "; ".join(graded)
            first = entry or (stated[0] if stated else {"grade": "", "source": ""})
            assert (c.grade, c.source) == (first["grade"], first["source"])
            if stated and told[0] in PUBLISHED:
                assert c.published_change == stated[0]["value"] and c.direction_grade in ("paper", "derived")
    for key in PUBLISHED:
        table = PAPERS[name].tables.get(key[1]) if key[0] == name else None
        if table and key[3].rsplit(": ", 1)[0] in table.metrics:
            assert key in shown, f"{key} is published and not in the table"


def test_no_direction_that_is_compared_rests_on_the_grade_secondary(built):
    cells = pd.concat(built.values())
    assert not (cells.loc[cells["direction"] != "", "direction_grade"] == "secondary").any()


def test_no_number_is_written_in_a_specification():
    """What is published comes from the file: a row has names, a guidance scale and settings, and nothing else."""
    for paper in PAPERS.values():
        for row in (r for t in paper.tables.values() for r in t.rows):
            given = row.model_dump(exclude={"guidance_scale", "real", "beside"})
            assert all(v is None or isinstance(v, str) for v in given.values())
        for model in paper.backbones.values():
            assert all((paper.paper, *where) in PUBLISHED for where in model.settings.values())


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


def test_a_column_that_is_younger_than_the_scores_is_not_run_and_says_so(built):
    cells = built["alignvid"].query("row == 'Wan2.1 + AlignVid' and table == 'table2'").set_index("metric")
    assert cells.loc["Aesthetic Quality", "measured"] == "not run" and cells.loc["Aesthetic Quality", "reason"] == OLDER
    assert cells.loc["Aesthetic Quality", "command"] == "python -m analysis score methods-alignvid"
    assert not isinstance(cells.loc["Dynamic Degree", "measured"], str)


def test_samples_for_which_a_column_is_not_defined_are_left_out_and_failed_videos_are_not():
    values = np.linspace(0.2, 0.8, 12)
    plain, steered = made_up("baseline", "none", values), made_up("methods-alignvid", "alignvid", values)
    metric = Metric(measured="object_integrity", factor=100, digits=1, estimator="objects")
    plain, steered = (t.assign(object_integrity=np.where(t["sample"] == "s3", np.nan, 0.5)) for t in (plain, steered))
    found = measure(steered, plain, metric)
    assert (found["n"], found["measured"], found["change"], found["changed"]) == (11, 50.0, 0.0, 0)
    steered.loc[steered["sample"] == "s5", ["flow_px", "object_integrity"]] = np.nan
    assert measure(steered, plain, metric)["measured"] == "incomplete"


def test_an_event_without_samples_is_said_to_have_none(some):
    two = some[~some["main_category"].isin(["motion"])]
    cell = (
        cells_of("focal_guidance", two)
        .query("table == 'table3' and row == 'Wan2.1' and metric == 'Human Motion'")
        .iloc[0]
    )
    assert (cell["measured"], cell["command"]) == ("not run", "")
    assert cell["reason"] == "no sample of this event among the 30 prompts"


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
                elif words[3] == "study":
                    assert words[3:7] == ["study", "new", "NAME", "--table"] and words[8:] == ["--benchmark", "DIR"]
                    paper, table = split_table(words[7])
                    assert paper == name and table in PAPERS[paper].tables
                elif words[3] != "rate":
                    assert words[2] == "analysis" and words[3] in ("generate", "score")
                    assert words[4] in PARAMETERS.sweeps
    assert seen > 20


def test_commands_have_the_papers_own_steps_and_guidance(built):
    def of(paper, table, name):
        row = next(r for r in PAPERS[paper].tables[table].rows if r.row == name)
        return command(row, PAPERS[paper].backbones[row.backbone], PARAMETERS, PUBLISHED, paper)

    assert "--steps 40 --guidance 3.5 " in of("dymos", "table1", "Wan 2.2-14B | Ours")
    assert "--steps 40 --guidance 1.0 " in of("alignvid", "table2", "Wan2.1 + AlignVid")
    sampled = "--steps 25 --guidance 10.0 --pipe sampling_type="
    for name, how in (("FramePack", "inverted_anti_drifting"), ("FramePack-F1", "vanilla")):
        assert sampled + how in of("alignvid", "table2", name)
    for cells in built.values():
        real = cells[cells["command"].str.contains("methods generate")]
        assert real["command"].str.contains("--guidance ").all()


def test_rows_without_guidance_are_marked_and_compared_apart():
    rng = np.random.default_rng(3)
    base = rng.uniform(0.2, 0.6, 40)
    made = [
        made_up("baseline", "none", base),
        made_up("methods", "dymos-1", base + 0.2),
        made_up("methods", "alg", base),
    ]
    cells = cells_of("dymos", pd.concat(made)).query("table == 'table1' and metric == 'Dynamic Degree (VBench)'")
    own, beside = cells[cells["beside"] == ""], cells[cells["beside"] == "yes"]
    assert (own["guidance_scale"] == 3).all() and (own["measured"] == "not run").all()
    assert (beside["guidance_scale"] == 1).all() and not beside["measured"].map(lambda v: isinstance(v, str)).any()
    line = beside.set_index("row").loc["Wan 2.1-14B | Ours, without guidance"]
    assert (line["published"], line["direction"]) == ("54.5", "agrees")
    assert beside["row"].str.contains("this repository's own").sum() == 1  # low-pass guidance does not exist there
    assert count(cells)["measured"].sum() == 0


def test_a_row_and_its_baseline_are_measured_on_all_samples_that_the_two_have(built):
    cells = built["alignvid"]
    two = cells[(cells["table"] == "table2") & (cells["metric"] == "Dynamic Degree")].set_index("row")
    assert (two.loc["Wan2.1", "n"], two.loc["Wan2.1 + AlignVid", "n"]) == (40, 24)
    assert np.isclose(two.loc["Wan2.1 + AlignVid", "change"], 0.2, atol=1e-3)
    assert two.loc["Wan2.1 + AlignVid", "direction"] == "agrees"
    edits = cells[(cells["table"] == "table2") & (cells["metric"] == "Addition")].set_index("row")
    assert (
        edits.loc["Wan2.1 + AlignVid", "n"] == 6 and 20 < edits.loc["Wan2.1", "measured"] < 60
    )  # in percent, of that event only


def test_the_direction_rule():
    rng = np.random.default_rng(1)
    base = rng.normal(size=30)
    baseline = made_up("baseline", "none", base)
    for shift, expected in ((0.5, "agrees"), (-0.5, "disagrees"), (0.0, "undecided")):
        noise = rng.normal(scale=0.3, size=30)
        found = measure(made_up("methods", "dymos-1", base + shift + noise - noise.mean()), baseline, FLOW)
        opposite = {"agrees": "disagrees", "disagrees": "agrees"}.get(expected, expected)
        for sign, word in ((1, expected), (-1, opposite)):
            give_directions([cell := found | {"sign": sign}])
            assert cell["direction"] == word and cell["p (Holm)"] == found["p"]
    few = measure(made_up("methods", "dymos-1", base[:5] + 1), baseline[:5], FLOW) | {"sign": 1}
    give_directions([few])
    assert few["change_low"] > 0 and few["direction"] == "undecided"  # five prompts cannot reach 5 %


def test_directions_are_corrected_over_the_cells_of_a_table():
    cell = {"sign": 1, "ends": (0.1, 0.3), "p": 0.02}
    alone, several = [dict(cell)], [dict(cell) for _ in range(3)]
    give_directions(alone)
    give_directions([*several, cell | {"sign": 0, "p": 0.5}])  # no published direction: not of the family
    assert [c["direction"] for c in alone] == ["agrees"]
    assert [(c["direction"], round(c["p (Holm)"], 6)) for c in several] == [("undecided", 0.06)] * 3


def test_a_comparison_that_stands_twice_is_one_test_and_counts_once(some):
    """Two models of a paper with one stand-in have the same videos: the second is marked, and is no further test."""
    scores = some.assign(method=some["method"].replace("alignvid", "alignvid-all-keys"), backbone="cogvideox-i2v")
    cells = cells_of("alignvid", scores.assign(sweep="cogvideox-" + scores["sweep"])).query("table == 'table2'")
    steered = cells[cells["row"].isin(["FramePack + AlignVid", "FramePack-F1 + AlignVid"]) & (cells["direction"] != "")]
    assert len(steered) == 8 and steered.groupby("metric")["p (Holm)"].nunique().eq(1).all()
    worst = steered.drop_duplicates("metric")
    assert (worst["p (Holm)"] <= 4 * worst["p"] + 1e-12).all(), "four tests, not eight"
    assert repeated(cells)["FramePack-F1 + AlignVid"] == "FramePack + AlignVid"
    assert count(cells)[["agrees", "disagrees", "undecided"]].to_numpy().sum() == 4
    assert "- FramePack-F1, second run: the same videos as FramePack;" in markdown(PAPERS["alignvid"], cells)


def test_undecided_cells_say_how_many_prompts_changed_and_what_would_have_been_seen(monkeypatch, some):
    from analysis.papers import paper_tables

    def fixed(a, b, column, proportion):
        return {"difference": 0.01, "low": -0.1, "high": 0.1, "n": 6, "p": 0.5, "changed": 2, "detectable": 0.123}

    monkeypatch.setattr(paper_tables, "paired_difference", fixed)
    cells = cells_of("alignvid", some)
    cell = cells.query("table == 'table2' and row == 'Wan2.1 + AlignVid' and metric == 'Addition'").iloc[0]
    assert (cell["direction"], cell["changed"], cell["detectable"]) == ("undecided", 2, 12.3)
    page = markdown(PAPERS["alignvid"], cells)
    assert "undecided; 2 of 6 prompts changed; from 12.3 it would have been seen" in page


def test_published_changes():
    assert published_change("71.27", "64.45") == ("+6.82", 1)
    assert published_change("0.5935", "0.5935") == ("+0.0000", 0)
    assert published_change("57.7", "58") == ("-0.3", -1)
    assert published_change("3-4", "1") == published_change(None, "1") == published_change("1", None) == ("", 0)


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
    counted = count(cells).set_index("paper")
    assert counted["cells"].sum() == (cells["beside"] == "").sum()
    assert (counted.loc[["alignvid", "focal_guidance"], "measured"] > 0).all()
    for name, paper in papers.items():
        text = (tmp_path / f"out/{name}.md").read_text()
        assert text == markdown(paper, cells[cells["paper"] == name]) and "not run" in text and "| nan" not in text
        assert text.count("## ") == len(paper.tables) + 1  # and what stands in for what


def test_units_that_differ_within_a_column_stand_in_its_cells(built):
    table = PAPERS["dymos"].tables["table5"]
    text = wide(PAPERS["dymos"], table, built["dymos"].query("table == 'table5'")).set_index("row")
    assert text.loc["Baseline", "Wan 2.2: published"] == "831 s per video, A100 80GB"
    assert text.loc["+ALG overhead", "Wan 2.2: published"] == "+4.7 %"


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
