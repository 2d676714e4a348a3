"""The rows of a study's table against intervals and differences that are worked out by hand from the same scores."""

import csv
import json

import numpy as np
import pytest

from analysis.studies.evaluate_study import MANIFEST, SCORES
from analysis.studies.study import RowOf, Study, StudyFile
from analysis.studies.table_study import as_markdown, table_of_study, write_study_table
from analysis.study.significance import holm, sign_flip_p

KINDS = ("modification", "addition", "deletion")
ROWS = {
    "Wan2.1": RowOf(sweep="wan2.1", method="none"),
    "Wan2.1 + AlignVid": RowOf(sweep="wan2.1", method="alignvid-wan", against="Wan2.1"),
    "FramePack": RowOf(missing="its backbone was left out of this study"),
}
JUDGE = {
    "scorer": "judge", "version": "3", "inputs": ["questions"],
    "metrics": {"macro": {"low": 0, "high": 1, "imitates": ""}},
}  # fmt: skip
FLOW = {
    "scorer": "flow", "version": "1", "inputs": [],
    "metrics": {"dynamic_degree_raft_torchvision": {"low": 0, "high": 1, "imitates": "VBench dynamic_degree"}},
}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("benchmark: {}\n")
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path, StudyFile(table="alignvid/2", rows=ROWS))


def write(scores, said, name):
    """A table of scores, {video: (value, status)}, with what its scorer says of itself."""
    SCORES.mkdir(parents=True, exist_ok=True)
    (SCORES / f"{name}.json").write_text(json.dumps(said))
    with (SCORES / f"{name}.csv").open("w") as file:
        out = csv.writer(file)
        out.writerow(["video", "scorer", "version", "metric", "value", "status", "reason"])
        for video, (value, status) in scores.items():
            out.writerow([video, name, "1", *said["metrics"], value, status, ""])


def manifest(samples=12, seeds=2):
    """{video: (sample, seed, method, kind)} of a study, written as its manifest."""
    videos = {}
    MANIFEST.parent.mkdir(parents=True, exist_ok=True)
    with MANIFEST.open("w") as file:
        out = csv.writer(file)
        out.writerow(["video", "id", "seed", "sweep", "method", "main_category"])
        for i in range(samples):
            for seed in range(seeds):
                for method in ("none", "alignvid-wan"):
                    kind, video = KINDS[i % 3], f"../runs/{method}{i}_{seed}.mkv"
                    out.writerow([video, f"s{i}", seed, "wan2.1", method, kind])
                    videos[video] = (f"s{i}", seed, method, kind)
    return videos


def cell(found, row, column):
    (own,) = found[(found["row"] == row) & (found["column"] == column)].to_dict("records")
    return own


def test_means_are_over_the_samples_of_a_category_in_per_cent_and_changes_are_paired(study):
    rng, videos = np.random.default_rng(0), manifest()
    scores = {v: (str(rng.integers(0, 5) / 4 + 0.0), "ok") for v in videos}
    write(scores, JUDGE, "judge")
    write({v: (str(float(rng.integers(0, 2))), "ok") for v in videos}, FLOW, "flow")
    found = table_of_study(study)
    values = {videos[v]: float(x) for v, (x, _) in scores.items()}
    for kind in KINDS:
        own = cell(found, "Wan2.1 + AlignVid", kind.capitalize())
        mine = {k: x for k, x in values.items() if k[2] == "alignvid-wan" and k[3] == kind}
        samples = sorted({k[0] for k in mine})
        means = [np.mean([x for k, x in mine.items() if k[0] == s]) for s in samples]
        assert own["value"] == pytest.approx(100 * np.mean(means)) and own["n"] == len(samples) == 4
        difference = [
            np.mean([x - values[k[0], k[1], "none", kind] for k, x in mine.items() if k[0] == s]) for s in samples
        ]
        assert own["change"] == pytest.approx(100 * np.mean(difference))
        assert own["low"] <= own["value"] <= own["high"] and own["change_low"] <= own["change"] <= own["change_high"]
        assert own["p"] == pytest.approx(sign_flip_p(difference))
        assert own["estimator"] == "judge 3, macro" and own["wrong"] == 0
    motion = cell(found, "Wan2.1", "Dynamic Degree")
    assert (
        motion["n"] == 12 and "in place of VBench dynamic_degree" in motion["estimator"] and np.isnan(motion["change"])
    )
    tested = found["p"].dropna()
    assert len(tested) == 4 and np.allclose(found["p (Holm)"].dropna(), holm(tested))
    assert cell(found, "Wan2.1", "Modification")["published"] == "72.35"
    assert cell(found, "Wan2.1", "Aesthetic Quality")["reason"] == "no scorer of this column was run"
    assert cell(found, "FramePack", "Addition")["reason"] == "its backbone was left out of this study"


def test_a_video_that_is_missing_or_corrupt_has_no_answer_right(study):
    videos = manifest(samples=3, seeds=1)
    scores = dict.fromkeys(videos, ("1.0", "ok"))
    lost = next(v for v, k in videos.items() if k[2] == "none" and k[3] == "addition")
    write(scores | {lost: ("", "missing")}, JUDGE, "judge")
    own = cell(table_of_study(study), "Wan2.1", "Addition")
    assert (own["value"], own["wrong"]) == (0.0, 1)
    assert cell(table_of_study(study), "Wan2.1 + AlignVid", "Addition")["change"] == 100.0


def test_a_judge_that_failed_makes_no_number(study):
    videos = manifest(samples=3, seeds=1)
    lost = next(v for v, k in videos.items() if k[2] == "none" and k[3] == "addition")
    write(dict.fromkeys(videos, ("1.0", "ok")) | {lost: ("", "failed")}, JUDGE, "judge")
    found = table_of_study(study)
    assert "1 videos are not scored" in cell(found, "Wan2.1", "Addition")["reason"]
    steered = cell(found, "Wan2.1 + AlignVid", "Addition")
    assert steered["value"] == 100.0 and np.isnan(steered["change"]) and "of Wan2.1 are not scored" in steered["reason"]


def test_other_metrics_are_of_the_videos_that_have_them_in_pairs(study):
    videos = manifest(samples=6, seeds=1)
    lost = next(v for v, k in videos.items() if k[2] == "none" and k[0] == "s2")
    write(
        {v: ("1.0" if k[2] == "alignvid-wan" else "0.0", "ok") for v, k in videos.items()} | {lost: ("", "corrupt")},
        FLOW,
        "flow",
    )
    base, own = (cell(table_of_study(study), row, "Dynamic Degree") for row in ("Wan2.1", "Wan2.1 + AlignVid"))
    assert (base["n"], base["not_scored"], own["n"], own["change"], own["changed"]) == (5, 1, 6, 100.0, 5)


def test_two_scorers_of_a_column_are_two_cells(study):
    videos = manifest(samples=3, seeds=1)
    write(dict.fromkeys(videos, ("1.0", "ok")), JUDGE, "judge")
    write(dict.fromkeys(videos, ("0.0", "ok")), JUDGE | {"scorer": "other"}, "other")
    found = table_of_study(study)
    own = found[(found["row"] == "Wan2.1") & (found["column"] == "Deletion")]
    assert list(own["value"]) == [100.0, 0.0] and list(own["estimator"]) == ["judge 3, macro", "other 3, macro"]


def test_the_table_is_written_with_what_is_missing(study):
    write(dict.fromkeys(manifest(samples=3, seeds=1), ("1.0", "ok")), JUDGE, "judge")
    found = table_of_study(study)
    write_study_table(found)
    text = (study.folder / "results/table.md").read_text()
    assert "| Wan2.1 + AlignVid | Deletion | 69.47 | 100 (" in text and "*no scorer of this column was run*" in text
    assert text == as_markdown(found) and (study.folder / "results/table.csv").is_file()


def test_what_was_not_evaluated_is_said(study):
    with pytest.raises(ValueError, match="nothing is scored: `python -m analysis study evaluate"):
        table_of_study(study)
    with pytest.raises(ValueError, match="study of no table"):
        table_of_study(Study(study.folder, None))
