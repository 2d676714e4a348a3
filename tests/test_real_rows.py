"""Scores of the papers' own models beside those of the small ones: each row with its own estimator, pairs of its own."""

import numpy as np
import pandas as pd
import pytest
from test_tables import PAPERS, PARAMETERS, PUBLISHED, made_up

from analysis.papers import real_rows, table_commands
from analysis.papers.paper_tables import build, write_tables
from analysis.papers.table_pages import count, markdown
from analysis.report.imported_scores import IMPORTED, import_scores, join, load_imported, wide
from analysis.study.files import write_table

JUDGE = "qwen_judge 1"
KINDS = ["modification", "addition", "deletion"]


def written(tmp_path, settings, *, samples=30, seeds=1, scorer=("qwen_judge", "1"), seed=0, **columns):
    """A manifest and a table of `evaluate` in a folder: {(backbone, method): mean of macro}."""
    rng, videos, scores = np.random.default_rng(seed), [], []
    for (backbone, method), mean in settings.items():
        for s in range(seeds):
            for i in range(samples):
                video = f"{backbone}/{method}/{i}-{s}.mp4"
                videos.append({"video": video, "id": f"sample_{i}", "seed": s, "backbone": backbone, "method": method,
                               "guidance_scale": 1.0, "main_category": KINDS[i % 3], "prompt": "p"} | columns)  # fmt: skip
                macro = min(1.0, max(0.0, round(mean + rng.normal(0, 0.1), 2)))
                values = {"macro": macro, "adherence": int(macro > 0.5), "answer/q1": 1, "flow_px": 1 + macro}
                scores += [(video, *scorer, name, repr(v), "ok", "") for name, v in values.items()]
    tmp_path.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(videos).to_csv(tmp_path / "manifest.csv", index=False)
    table = pd.DataFrame(scores, columns=["video", "scorer", "version", "metric", "value", "status", "reason"])
    table.to_csv(tmp_path / "scores.csv", index=False)
    return [tmp_path / "scores.csv"], tmp_path / "manifest.csv"


def small():
    """The small models' scores that AlignVid's table 2 and DyMoS's table 1 need."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 40)
    rows = [made_up("baseline", "none", base), made_up("methods-alignvid", "alignvid", base[:24] + 0.2)]
    rows += [made_up("methods-guided", m, base + g, scale=3.0) for m, g in (("none", 0), ("dymos-1", 0.1), ("alg", 0))]
    return pd.concat(rows)


def cells_of(paper, scores, imported, *tables):
    """The cells of a paper's tables, or of some of them."""
    spec = PAPERS[paper]
    if tables:
        spec = spec.model_copy(update={"tables": {name: spec.tables[name] for name in tables}})
    return build(spec, scores, PUBLISHED, PARAMETERS, imported=imported)


WAN = {("Wan2.1", "none"): 0.4, ("Wan2.1", "alignvid"): 0.6}


def test_scores_and_manifest_become_a_row_with_its_own_estimator(tmp_path):
    import_scores("omit", *written(tmp_path, WAN), tmp_path)
    imported = load_imported(tmp_path)
    assert list(imported["omit"].columns) == IMPORTED
    cells = cells_of("alignvid", small(), imported)
    real = cells[cells["beside"] == "real: omit"]
    steered = real.query("table == 'table2' and row == 'Wan2.1 + AlignVid, omit'").set_index("metric")
    cell = steered.loc["Modification"]
    assert cell["estimator"] == f"macro, {JUDGE}" and (cell["n"], cell["direction"]) == (10, "agrees")
    own = imported["omit"].query("metric == 'macro' and main_category == 'modification'")
    means = own.groupby("method")["value"].mean()
    assert cell["measured"] == pytest.approx(100 * means["alignvid"], abs=0.006)
    assert cell["change"] == pytest.approx(100 * (means["alignvid"] - means["none"]), abs=0.006)
    assert cell["published"] == PUBLISHED["alignvid", "table2", "Wan2.1 + AlignVid", "Modification"]["value"]
    assert steered.loc["Dynamic Degree", "estimator"] == f"flow_px, {JUDGE}"
    assert (
        steered.loc["Aesthetic Quality", "measured"] == "not run"
        and "omit" in steered.loc["Aesthetic Quality", "reason"]
    )
    page = markdown(PAPERS["alignvid"], cells)
    line = next(x for x in page.splitlines() if x.startswith("| Wan2.1 + AlignVid, omit |"))
    assert f"by macro, {JUDGE}" in line and "exact oracle" not in line
    lines = [x for x in page.splitlines() if x.startswith("| Wan2.1")]
    assert lines.index(line) == lines.index(next(x for x in lines if x.startswith("| Wan2.1 + AlignVid |"))) + 1


@pytest.mark.parametrize("paper", PAPERS)
def test_a_real_row_changes_no_row_of_the_small_models(tmp_path, paper):
    """One more backbone, on samples of other names, once emptied whole tables."""
    names = {"alignvid": "Wan2.1", "dymos": "Wan 2.1-14B", "focal_guidance": "Wan2.1-I2V"}
    settings = {(names[paper], m): 0.5 for m in ("none", "alignvid", "dymos-1", "focal-full")}
    import_scores("other", *written(tmp_path, settings), tmp_path)
    without, beside = cells_of(paper, small(), {}), cells_of(paper, small(), load_imported(tmp_path))
    real = beside["beside"].str.startswith("real: ")
    assert real.sum() > 3 and pd.to_numeric(beside.loc[real, "measured"], errors="coerce").notna().any()
    pd.testing.assert_frame_equal(beside[~real].reset_index(drop=True), without, check_dtype=False)
    assert count(beside).equals(count(without))
    write_tables({paper: PAPERS[paper]}, beside, tmp_path / "out")


def test_two_imports_are_two_rows_with_pairs_and_families_of_their_own(tmp_path):
    import_scores("a", *written(tmp_path / "a", WAN), tmp_path)
    import_scores("b", *written(tmp_path / "b", WAN, samples=9, seeds=2, scorer=("other", "2"), seed=5), tmp_path)
    cells = cells_of("alignvid", small(), load_imported(tmp_path), "table2").query(
        "table == 'table2' and metric == 'Addition'"
    )
    two = cells[cells["row"].str.startswith("Wan2.1 + AlignVid,")].set_index("row")
    assert list(two["n"]) == [10, 3] and list(two["videos"]) == [10, 6]
    assert list(two["estimator"]) == [f"macro, {JUDGE}", "macro, other 2"]


def test_videoscores_dynamic_degree_is_of_all_samples_whatever_they_ask_for(tmp_path):
    """What stands in for it on the small models counts the samples that ask for motion, which other benchmarks do not mark."""
    scores, manifest = written(tmp_path, {("Wan 2.1-14B", "none"): 0.5}, scorer=("videoscore", "1"))
    table = pd.read_csv(scores[0]).replace({"metric": {"flow_px": "videoscore_dynamic_degree"}})
    table.to_csv(scores[0], index=False)
    import_scores("v", scores, manifest, tmp_path)
    cells = cells_of("dymos", small(), load_imported(tmp_path), "table1")
    (cell,) = cells[cells["beside"] == "real: v"].query("metric == 'Dynamic Degree (VideoScore)'").to_dict("records")
    assert cell["n"] == 30 and cell["estimator"] == "videoscore_dynamic_degree, videoscore 1"
    wanted = table.query("metric == 'videoscore_dynamic_degree'")["value"].astype(float).mean()
    assert cell["measured"] == pytest.approx(wanted, abs=0.006)


def test_focal_guidance_counts_videos_with_every_answer_right_of_each_dimension(tmp_path):
    scores, manifest = written(tmp_path, {("Wan2.1-I2V", "none"): 0.5})
    table = pd.read_csv(manifest)
    table["main_category"] = table["main_category"].map(
        {"modification": "Dynamic Attributes", "addition": "Human Motion", "deletion": "Human Interaction"}
    )
    table.to_csv(manifest, index=False)
    imported = {"f": join(scores, manifest)}
    cells = cells_of("focal_guidance", small(), imported, "table1").query(
        "table == 'table1' and row == 'Wan2.1-I2V, f'"
    )
    cells = cells.set_index("metric")
    for metric in ("Dynamic Attributes", "Human Motion", "Human Interaction"):
        own = imported["f"].query("metric == 'adherence' and main_category == @metric")["value"]
        assert cells.loc[metric, "measured"] == pytest.approx(own.mean(), abs=6e-5)
        assert cells.loc[metric, "estimator"] == f"adherence, {JUDGE}" and cells.loc[metric, "n"] == 10
    page = markdown(PAPERS["focal_guidance"], cells_of("focal_guidance", small(), imported, "table1"))
    assert "Human Interaction: measured, by the estimator that the row names" in page


def test_missing_videos_are_wrong_and_other_failures_make_a_cell_incomplete(tmp_path):
    scores, manifest = written(tmp_path, WAN)
    table = pd.read_csv(scores[0], dtype=str, keep_default_na=False)
    gone = table["video"] == "Wan2.1/alignvid/0-0.mp4"
    table.loc[gone, ["value", "status", "reason"]] = ["", "missing", "no file"]
    table.to_csv(scores[0], index=False)
    imported = {"x": join(scores, manifest)}
    lost = imported["x"].query("sample == 'sample_0' and method == 'alignvid'").set_index("metric")["value"]
    assert (lost["macro"], lost["adherence"]) == (0, 0) and np.isnan(lost["flow_px"])
    cells = cells_of("alignvid", small(), imported, "table2").query(
        "table == 'table2' and row == 'Wan2.1 + AlignVid, x'"
    )
    cells = cells.set_index("metric")
    assert cells.loc["Modification", "n"] == 10 and cells.loc["Dynamic Degree", "measured"] == "incomplete"
    table.loc[gone, "status"] = "failed"
    table.to_csv(scores[0], index=False)
    cells = cells_of("alignvid", small(), {"x": join(scores, manifest)}, "table2").query(
        "row == 'Wan2.1 + AlignVid, x'"
    )
    cells = cells.query("table == 'table2'").set_index("metric")
    assert "1 of 10 videos have no macro" in cells.loc["Modification", "reason"]


def test_settings_that_cannot_be_told_apart_are_not_mixed(tmp_path):
    scores, manifest = written(tmp_path, WAN | {("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "none"): 0.3})
    cells = cells_of("alignvid", small(), {"x": join(scores, manifest)}, "table2").query("table == 'table2'")
    cell = cells[(cells["row"] == "Wan2.1, x") & (cells["metric"] == "Addition")].iloc[0]
    assert cell["measured"] == "incomplete" and "several settings" in cell["reason"]


def test_a_manifest_may_name_the_row(tmp_path):
    """As for what people rated, where the rows of a table are events."""
    scores, manifest = written(tmp_path, {("", "a"): 0.4})
    table = pd.read_csv(manifest).assign(row="Addition | AlignVid")
    table.to_csv(manifest, index=False)
    found = join(scores, manifest)
    found["metric"] = found["metric"].replace("flow_px", "human_semantic_fidelity")
    cells = cells_of("alignvid", small(), {"people": found}, "table15").query("row == 'Addition | AlignVid, people'")
    cell = cells.set_index("metric").loc["human semantic fidelity"]
    assert 1 < cell["measured"] < 2 and cell["published"] == "5.72"


def damage(tmp_path, change):
    scores, manifest = written(tmp_path, WAN, samples=3)
    tables = {
        "scores": pd.read_csv(scores[0], dtype=str, keep_default_na=False),
        "manifest": pd.read_csv(manifest, dtype=str),
    }
    change(tables)
    tables["scores"].to_csv(scores[0], index=False)
    tables["manifest"].to_csv(manifest, index=False)
    return scores, manifest


def drop(name, column):
    return lambda t: t.update({name: t[name].drop(columns=column)})


def put(name, column, value, row=0):
    return lambda t: t[name].__setitem__(column, [value if i == row else v for i, v in enumerate(t[name][column])])


@pytest.mark.parametrize(
    "change, said",
    [
        (drop("scores", "status"), "no table of `evaluate`: it lacks status"),
        (drop("manifest", "method"), "lacks method; a manifest of scores has"),
        (put("scores", "value", "high"), "'high' is no number"),
        (put("scores", "value", ""), "is ok and has no value"),
        (put("scores", "video", "other.mp4"), "1 scored videos are not in"),
        (lambda t: t.update(scores=t["scores"][4:]), "1 videos of .* were not scored"),
        (lambda t: t.update(scores=pd.concat([t["scores"], t["scores"][:1]])), "there twice"),
        (put("scores", "version", "2"), "macro is there by"),
        (put("manifest", "id", "sample_1"), "two videos of one sample, seed and setting"),
        (put("manifest", "video", ""), "1 rows have no video"),
        (put("manifest", "seed", "x"), "seed and guidance_scale are numbers"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        join(*damage(tmp_path, change))


def test_one_of_two_scorers_can_be_taken(tmp_path):
    scores, manifest = written(tmp_path, WAN, samples=3)
    table = pd.read_csv(scores[0], dtype=str, keep_default_na=False)
    pd.concat([table, table.assign(scorer="second")]).to_csv(scores[0], index=False)
    with pytest.raises(ValueError, match="with --scorer"):
        join(scores, manifest)
    assert set(join(scores, manifest, scorers=["second"])["estimator"]) == {"second 1"}
    with pytest.raises(ValueError, match="no values by 'third'; there are qwen_judge, second"):
        join(scores, manifest, scorers=["third"])
    with pytest.raises(ValueError, match="no name of a file"):
        import_scores("../x", scores, manifest, tmp_path, scorers=["second"])


def test_categories_come_from_the_benchmark(tmp_path):
    scores, manifest = written(tmp_path, WAN, samples=5, main_category="")
    found = join(scores, manifest, benchmark=real_rows.PRESETS.parent.parent / "benchmarks/fixtures/omiti2v")
    kinds = found.drop_duplicates("sample").set_index("sample")["main_category"]
    assert list(kinds) == ["modification", "addition", "deletion", "modification", "addition"]
    table = wide(found)
    assert len(table) == 10 and {"macro", "adherence", "flow_px"} <= set(table) and "answer/q1" not in table


def test_a_file_of_another_kind_among_the_imports_is_refused(tmp_path):
    write_table(pd.DataFrame({"sample": [1], "value": [2]}), tmp_path / "real/x.csv")
    with pytest.raises(ValueError, match=r"x\.csv was not written by"):
        load_imported(tmp_path)


def test_cells_of_tables_with_presets_name_the_study_that_fills_them(tmp_path, monkeypatch):
    presets = tmp_path / "presets.yaml"
    rows = "{FramePack: {method: none}, FramePack + AlignVid: {method: alignvid-framepack}}"
    presets.write_text(f"papers: {{alignvid: {{tables: {{table2: {{rows: {rows}}}}}}}}}\n")
    original = real_rows.preset_runs
    monkeypatch.setattr(table_commands, "preset_runs", lambda p, t, r: original(p, t, r, presets))
    monkeypatch.setattr(real_rows, "preset_runs", lambda p, t, r: original(p, t, r, presets))
    cells = cells_of("alignvid", small(), {}).set_index(["table", "row", "metric"])["command"]
    wanted = "python -m analysis study new NAME --table alignvid/2 --benchmark DIR"
    sweeps = cells["table2", "FramePack", "Addition"]
    assert "analysis generate" in sweeps, "a sweep of the small model has the row, and was not run"
    without = PARAMETERS.model_copy(update={"sweeps": {}})
    cells = build(PAPERS["alignvid"], small(), PUBLISHED, without).set_index(["table", "row", "metric"])["command"]
    assert cells["table2", "FramePack", "Addition"] == cells["table2", "FramePack + AlignVid", "Deletion"] == wanted
    assert "methods generate" in cells["table4", "FramePack, text keys", "Addition"], "no presets: one video"
    assert cells["table15", "Addition | AlignVid", "human aesthetic quality"].startswith("python -m analysis rate ")
    scores, manifest = written(tmp_path, {("FramePack", "none"): 0.4, ("FramePack", "alignvid-framepack"): 0.5})
    found = build(PAPERS["alignvid"], small(), PUBLISHED, without, imported={"x": join(scores, manifest)})
    assert "FramePack + AlignVid, x" in set(found["row"])


def test_a_row_of_which_the_paper_does_not_say_the_model_is_there_for_each(tmp_path):
    settings = {
        ("Wan2.1", "none"): 0.4,
        ("Wan2.1", "alignvid-wan"): 0.6,
        ("FramePack", "none"): 0.5,
        ("FramePack", "alignvid-framepack"): 0.5,
    }
    imported = {"x": join(*written(tmp_path, settings))}
    cells = cells_of("alignvid", small(), imported, "table3").query("metric == 'Addition'").set_index("row")
    wan, framepack = (cells.loc[f"scalar scaling, x, {m}"] for m in ("Wan2.1", "FramePack"))
    assert (wan["method"], framepack["method"]) == ("alignvid-wan", "alignvid-framepack")
    assert wan["direction"] == "agrees" and framepack["direction"] == "undecided"
    assert {"baseline, x, Wan2.1", "baseline, x, FramePack"} <= set(cells.index)
    alone = {"x": join(*written(tmp_path, dict(list(settings.items())[:2])))}
    assert "scalar scaling, x" in set(cells_of("alignvid", small(), alone, "table3")["row"])


def test_a_simulated_judge_fills_no_row(tmp_path):
    imported = {"s": join(*written(tmp_path, WAN, scorer=("simulated_judge:says_yes=0.9,says_no=0.9", "1")))}
    assert not any(row.endswith(", s") for row in cells_of("alignvid", small(), imported, "table2")["row"])
