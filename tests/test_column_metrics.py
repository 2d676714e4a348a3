"""Which metric fills which column of a paper's table is said once, in papers/stand_ins.yaml, and everything reads it there."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from analysis.papers.table_schema import load_paper, load_stand_ins
from analysis.scorers import describe
from analysis.scorers.program import load_program
from analysis.scorers.registry import make_scorer, scorer_names
from analysis.scorers.scorer import Metric
from analysis.studies.study import RowOf, Study, StudyFile
from analysis.studies.table_study import table_of_study
from analysis.study.column_metrics import STAND_INS, columns_of_metric, fills_nothing, metrics_of_column
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
FILE = YAML(typ="safe", pure=True).load(STAND_INS.read_text())
PAPERS = {
    p: load_paper(ROOT / f"papers/tables/{p}.yaml", load_parameters(ROOT / "params.yaml")) for p in FILE["metrics"]
}
COLUMNS = [(paper, column) for paper, columns in FILE["metrics"].items() for column in columns]
PEOPLE = {"human_semantic_fidelity", "human_aesthetic_quality", "human_preferred"}  # of `rate`, which is no scorer


def test_no_second_list_of_what_fills_a_column_exists():
    assert "fills" not in {f.name for f in dataclasses.fields(Metric)}
    for file in [*(ROOT / "analysis").rglob("*.py"), *(ROOT / "analysis").rglob("*.yaml")]:
        text = file.read_text()
        assert not re.search(r"\bfills\s*[:=]", text), file
        listed = [c for paper, c in COLUMNS if f"{paper}: {c}" in text]
        assert not listed, f"{file} names columns of papers: {listed}"


@pytest.mark.parametrize(("paper", "column"), COLUMNS)
def test_the_tables_have_every_column_from_the_list(paper, column):
    own = metrics_of_column(paper, column)
    assert load_stand_ins(STAND_INS)[paper][column].real == own
    assert PAPERS[paper].metrics[column].real == own
    assert all(f"{paper}: {column}" in columns_of_metric(metric) for metric in own)


def test_every_metric_of_the_list_is_one_of_a_scorer():
    known = {metric for name in scorer_names() for metric in make_scorer(name).metrics}
    listed = {metric for paper, column in COLUMNS for metric in metrics_of_column(paper, column)}
    assert listed - known == PEOPLE
    assert columns_of_metric("visionreward") == ("dymos: VisionReward",) and columns_of_metric("onset_pixels") == ()


def test_the_scorers_page_says_what_the_list_says():
    page = describe.markdown()
    line = next(x for x in page.splitlines() if x.startswith("| `imaging_quality_musiq_pyiqa`"))
    assert line.endswith(f"stands in {', '.join(columns_of_metric('imaging_quality_musiq_pyiqa'))} |")
    simulated = page.split("### `simulated_judge`")[1].split("### ")[0]
    assert (
        "stands in" not in simulated and fills_nothing("simulated_judge:says_yes=0.9 1") and not fills_nothing("vbench")
    )


@pytest.mark.parametrize(
    ("metric", "scorer", "filled"),
    [("macro", "mine", 100.0), ("macro", "simulated_judge", None), ("other", "mine", None)],
)
def test_a_study_fills_a_column_by_the_list_alone(tmp_path, monkeypatch, metric, scorer, filled):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/scores").mkdir(parents=True)
    with open("results/manifest.csv", "w") as file:
        csv.writer(file).writerows([["video", "id", "seed", "sweep", "method", "main_category"],
                                    ["a.mkv", "s", 0, "w", "none", "addition"]])  # fmt: skip
    said = {"scorer": scorer, "version": "1", "inputs": ["questions"],
            "metrics": {metric: {"low": 0, "high": 1, "imitates": "", "fills": ["alignvid: Addition"]}}}  # fmt: skip
    (tmp_path / "results/scores/x.json").write_text(json.dumps(said))
    with open("results/scores/x.csv", "w") as file:
        csv.writer(file).writerows([["video", "metric", "status", "value"], ["a.mkv", metric, "ok", "1.0"]])
    study = Study(tmp_path, StudyFile(table="alignvid/2", rows={"Wan2.1": RowOf(sweep="w", method="none")}))
    if scorer == "simulated_judge":
        with pytest.raises(ValueError, match="nothing is scored"):
            table_of_study(study)
        return
    (cell,) = table_of_study(study).query("column == 'Addition'").to_dict("records")
    assert cell["value"] == filled if filled else pd.isna(cell["value"])


def test_unknown_columns_and_own_lists_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no column 'Beauty' of 'dymos'; it has Dynamic Degree"):
        metrics_of_column("dymos", "Beauty")
    with pytest.raises(ValueError, match="there are alignvid, dymos, focal_guidance"):
        metrics_of_column("nobody", "Beauty")
    text = (ROOT / "analysis/scorers/programs/viclip.yaml").read_text()
    (tmp_path / "viclip_program.py").write_text("")
    text = re.sub(r"^files: .*$", "", text, flags=re.M).replace(
        "better: higher", 'better: higher, fills: ["dymos: ViCLIP"]'
    )
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"own\.yaml: vbench_overall_consistency says which columns it `fills`: papers/stand_ins"
    ):
        load_program(tmp_path / "own.yaml")
