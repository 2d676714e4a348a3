"""Every table that a judge made says how often it errs, or how to find out: the papers' tables, a study's, a comparison."""

import numpy as np
import pytest
import test_study_table as of_study
from test_judge_calibration import answers
from test_real_rows import WAN, cells_of, small, written
from test_tables import PAPERS

from analysis.papers.table_pages import markdown
from analysis.report.compare_scores import compare, read_side, told
from analysis.report.imported_scores import import_scores, load_imported, scorer_of
from analysis.scorers.judge_calibration import calibrate, judged_by
from analysis.scorers.judge_lines import judge_lines
from analysis.studies.study import Study, StudyFile
from analysis.studies.table_study import as_markdown, table_of_study

QWEN = "qwen_judge (version 1)"
NOT_CALIBRATED = "judge not calibrated: run `python -m analysis calibrate-judge qwen_judge -o judges/NAME`"


def calibrated(folder, judge, *, seed=0, sensitivity=0.9):
    """A calibration as `calibrate-judge` leaves it; its answers."""
    table = answers(np.random.default_rng(seed), 40, sensitivity, 0.8).assign(judge=judge).astype(str)
    folder.mkdir(parents=True)
    table.to_csv(folder / "answers.csv", index=False)
    return table


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_judge_has_a_line_for_each_metric_and_calibration(here):
    asked = [("qwen_judge", "1", "macro"), ("qwen_judge", "1", "adherence"), ("qwen_judge", "1", "macro")]
    (line,) = judge_lines(asked)
    assert NOT_CALIBRATED in line and line.startswith(f"Judged by {QWEN}; ")
    one, two = calibrated(here / "judges/a", QWEN), calibrated(here / "judges/b", QWEN, seed=1, sensitivity=0.6)
    calibrated(here / "judges/c", "qwen_judge:model=X (version 1)", seed=2)
    lines = judge_lines(asked)
    assert lines == [
        f"`{metric}`: {judged_by(QWEN, calibrate(table, level))} (judges/{name})"
        for metric, level in (("macro", "question"), ("adherence", "video"))
        for name, table in (("a", one), ("b", two))
    ]
    assert "finds" in lines[0] and "of the questions" in lines[0] and "of the videos" in lines[2]
    assert len(judge_lines(asked, (here / "judges", here / "judges"))) == 4  # a folder that is named twice counts once
    (other,) = judge_lines([("qwen_judge", "2", "macro")])  # another version is another judge
    assert "qwen_judge (version 2); judge not calibrated" in other
    (elsewhere,) = judge_lines([("omiti2v_import", "9f3e48d", "macro")])
    assert "calibrate-judge JUDGE" in elsewhere


def test_a_calibration_that_says_nothing_is_named(here):
    table = calibrated(here / "judges/a", QWEN)
    table[table["video"] == "true"].to_csv(here / "judges/a/answers.csv", index=False)
    (line,) = judge_lines([("qwen_judge", "1", "macro")])
    assert "says nothing of `macro`" in line and "0 wrong" in line and "(judges/a)" in line


def test_estimators_are_taken_apart():
    assert scorer_of("qwen_judge:dtype=float32,model=X 1") == ("qwen_judge:dtype=float32,model=X", "1")
    assert scorer_of("my_judge") == ("my_judge", "")


def test_the_papers_tables_say_it_of_the_judges_rows_alone(here):
    import_scores("omit", *written(here, WAN), here)
    page = markdown(PAPERS["alignvid"], cells_of("alignvid", small(), load_imported(here)))
    table2 = page.partition("## Table 2")[2].partition("\n## ")[0]
    assert table2.count(NOT_CALIBRATED) == 1
    assert "Judged by" not in markdown(PAPERS["alignvid"], cells_of("alignvid", small(), {}))
    said = judged_by(QWEN, calibrate(calibrated(here / "judges/a", QWEN)))
    page = markdown(PAPERS["alignvid"], cells_of("alignvid", small(), load_imported(here)))
    assert f"- `macro`: {said} (judges/a)" in page and "not calibrated" not in page


def test_a_studys_table_says_it(here):
    (here / "params.yaml").write_text("benchmark: {}\n")
    study, videos = Study(here, StudyFile(table="alignvid/2", rows=of_study.ROWS)), of_study.manifest()
    of_study.write(dict.fromkeys(videos, ("1.0", "ok")), of_study.FLOW, "flow")
    assert "udge" not in as_markdown(table_of_study(study))
    of_study.write(dict.fromkeys(videos, ("1.0", "ok")), of_study.JUDGE, "judge")
    found = table_of_study(study)
    page = as_markdown(found)
    assert (
        page.endswith("by any factor.\n")
        and "- Judged by judge (version 3); judge not calibrated: run `python -m" in page
    )
    said = judged_by("judge (version 3)", calibrate(calibrated(here / "judges/a", "judge (version 3)")))
    assert f"|\n\n- `macro`: {said} (" in as_markdown(found)


def test_a_comparison_says_it_of_each_judge(here):
    for name, means, scorer in (("a", 0.4, ("qwen_judge", "1")), ("b", 0.6, ("other", "2"))):
        written(here / name, {("Wan2.1", "none"): means}, scorer=scorer)
    one, other = (read_side(f"{name}/scores.csv", None) for name in "ab")
    said = told(compare(one, other, ["macro", "flow_px"]), one, other)
    assert said.count("judge not calibrated") == 2 and "Judged by other (version 2)" in said
    sentence = judged_by(QWEN, calibrate(calibrated(here / "judges/a", QWEN)))
    assert f"\n`macro`: {sentence} (judges/a)\n" in told(compare(one, other, ["macro"]), one, other)
    assert "Judged by" not in told(compare(one, other, ["flow_px"]), one, other)
