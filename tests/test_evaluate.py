"""`python -m analysis evaluate`: files of every kind, broken ones, the cache, dying workers, and the table that comes out."""

import csv
import json
import os
import shutil
import signal
import time
import types
from dataclasses import dataclass
from typing import ClassVar

import cv2
import pytest
from commands import ROOT, call, finish, start
from videos_of_others import manifest, panned, table, texture, write

from analysis.scorers import evaluate as module
from analysis.scorers import registry
from analysis.scorers.command import _all_that_run
from analysis.scorers.describe import markdown
from analysis.scorers.evaluate import Settings, evaluate, write_scores
from analysis.scorers.manifest import read_manifest
from analysis.scorers.scorer import Metric, Requires, Scorer
from analysis.scorers.video import STATUSES, NotScored


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Everything in this process, with scorers of the test's own."""

    def in_process(rows, names, settings, workers):
        for index, row in enumerate(rows):
            yield index, module.score_row(row, names, settings)

    own = {}
    monkeypatch.setattr(module, "_in_workers", in_process)
    monkeypatch.setattr(module, "make", lambda name: own.get(name) or registry.make_scorer(name))
    return types.SimpleNamespace(own=own, settings=Settings(tmp_path / "cache"))


@dataclass(frozen=True)
class Counting(Scorer):
    """Counts its calls."""

    offset: float = 0.0
    name: ClassVar[str] = "counting"
    version: ClassVar[str] = "1"
    metrics: ClassVar[dict] = {"level": Metric("", 0, None, "The mean grey level.", digits=2)}
    calls: ClassVar[list] = []

    def score(self, video, sample):
        self.calls.append(video.path.name)
        return {"level": float(video.frames.mean()) + self.offset}


def test_a_run_that_cannot_work_ends_before_it_begins(tmp_path, here):
    write(tmp_path / "a.mkv", panned(5, 48, 64))
    rows, _ = read_manifest(manifest(tmp_path, [{"video": "a.mkv"}]))
    here.own["counting"] = Counting()
    Counting.calls.clear()
    with pytest.raises(ValueError, match="unknown scorer 'sharp'"):
        evaluate(rows, ["counting", "sharp"], here.settings)
    with pytest.raises(ValueError, match="counting is asked for twice"):
        evaluate(rows, ["counting", "counting"], here.settings)
    here.own["lacking"] = Lacking()
    with pytest.raises(ValueError, match="lacking cannot run here: the weights are not there"):
        evaluate(rows, ["counting", "lacking"], here.settings)
    assert not Counting.calls


class Lacking(Counting):
    """Cannot run."""

    name = "lacking"

    def available(self):
        return "the weights are not there"


# The cache


def test_what_is_scored_is_kept_until_something_that_decides_it_changes(tmp_path, here, monkeypatch):
    for name, seed in (("a.mkv", 0), ("b.mkv", 1)):
        write(tmp_path / name, panned(5, 48, 64, seed=seed))
    shutil.copy(tmp_path / "a.mkv", tmp_path / "copy of a.mkv")
    rows, _ = read_manifest(manifest(tmp_path, [{"video": n} for n in ("a.mkv", "b.mkv", "copy of a.mkv")]))
    here.own["counting"] = Counting()

    def calls(stated=None):
        Counting.calls.clear()
        again = [module.Row(r.video, r.path, r.sample, stated) for r in rows]
        lines = evaluate(again, ["counting"], here.settings)
        assert all(line[5] == "ok" for line in lines)
        return list(Counting.calls), lines

    made, lines = calls()
    assert made == ["a.mkv", "b.mkv"]  # the copy is the same file
    assert calls() == ([], lines)
    assert len(calls(stated=8.0)[0]) == 2
    here.own["counting"] = Counting(offset=1.0)
    assert len(calls()[0]) == 2
    assert {line[1] for line in calls()[1]} == {"counting:offset=1.0"}
    here.own["counting"] = Counting()
    monkeypatch.setattr(Counting, "version", "2")
    assert len(calls()[0]) == 2
    write(tmp_path / "b.mkv", panned(5, 48, 64, seed=2))
    assert calls()[0] == ["b.mkv"]
    file = next(iter((here.settings.cache).rglob("*.json")))
    file.write_text("{")  # damaged: it is no score, and is made again
    for other in here.settings.cache.rglob("*.json"):
        assert other == file or "values" in json.loads(other.read_text())
    lines = calls()[1]
    assert calls() == ([], lines)


class Reading(Counting):
    """Reads the image and the prompt."""

    name = "reading"
    inputs = ("image", "prompt")

    def score(self, video, sample):
        assert sample.id is None and sample.questions is None  # it declares neither
        self.calls.append(sample.prompt)
        return {"level": float(sample.image.stat().st_size)}


def test_inputs_enter_the_key_and_what_is_lacking_is_said(tmp_path, here):
    write(tmp_path / "a.mkv", panned(5, 48, 64))
    cv2.imwrite(str(tmp_path / "r.png"), texture(20, 20))
    here.own["reading"] = Reading()

    def run(**row):
        Counting.calls.clear()
        rows, _ = read_manifest(manifest(tmp_path, [{"video": "a.mkv", "id": "7"} | row]))
        return evaluate(rows, ["reading"], here.settings)[0][4:], list(Counting.calls)

    assert run(image="r.png", prompt="a")[1] == ["a"] and run(image="r.png", prompt="a")[1] == []
    assert run(image="r.png", prompt="b")[1] == ["b"]
    cv2.imwrite(str(tmp_path / "r.png"), texture(24, 24))
    assert run(image="r.png", prompt="b")[1] == ["b"]
    assert run(prompt="a") == (("", "no_input", "the manifest states no image, which reading needs"), [])
    assert run(image="no.png", prompt="a") == (("", "no_input", "there is no image no.png"), [])


class Odd(Counting):
    """Fails in the ways that scorers fail."""

    name = "odd"
    metrics: ClassVar[dict] = {"first": Metric("", 0, 1, "First."), "second": Metric("", 0, 1, "Second.")}

    def score(self, video, sample):
        self.calls.append(video.path.stem)
        return {
            "nan": lambda: {"second": 1.0, "first": float("nan")},
            "part": lambda: {"first": 0.5, "second": NotScored("undefined", "why")},
            "range": lambda: {"first": 0.5, "second": 7.0},
            "lacks": lambda: {"first": 0.5},
            "dies": lambda: 1 / 0,
        }[video.path.stem]()


def test_a_scorer_that_fails_is_a_row_and_is_tried_again(tmp_path, here):
    names = ("nan", "part", "range", "lacks", "dies")
    for seed, name in enumerate(names):
        write(tmp_path / f"{name}.mkv", panned(5, 48, 64, seed=seed))
    rows, _ = read_manifest(manifest(tmp_path, [{"video": f"{n}.mkv"} for n in names]))
    here.own["odd"] = Odd()
    Odd.calls.clear()
    found = {(line[0].removesuffix(".mkv"), line[3]): line[4:] for line in evaluate(rows, ["odd"], here.settings)}
    assert found["nan", "first"] == ("", "undefined", "it is not defined for this video")
    assert found["nan", "second"] == ("1.0", "ok", "") and found["part", "second"] == ("", "undefined", "why")
    assert found["range", "first"][1:] == ("failed", "odd returned second = 7.0, outside [0, 1]")
    assert found["lacks", "second"][1:] == ("failed", "odd returned no second")
    assert found["dies", "first"][1:] == ("failed", "ZeroDivisionError: division by zero")
    Odd.calls.clear()
    again = {(line[0].removesuffix(".mkv"), line[3]): line[4:] for line in evaluate(rows, ["odd"], here.settings)}
    assert again == found and Odd.calls == ["range", "lacks", "dies"]
    assert {line[1] for line in found.values()} <= STATUSES.keys()


class Batched(Counting):
    """Takes three at once, here."""

    name, runs, batch = "batched", "here", 3

    def score_many(self, videos):
        self.calls.append([v.path.stem for v, _ in videos])
        if any(v.path.stem == "b" for v, _ in videos):
            raise RuntimeError("out of memory")
        return super(Counting, self).score_many(videos)

    def score(self, video, sample):
        return {"level": float(video.frames.mean())}


def test_batches_are_made_here_and_a_bad_video_fails_alone(tmp_path, here):
    for seed, name in enumerate("abcde"):
        write(tmp_path / f"{name}.mkv", panned(5, 48, 64, seed=seed))
    (tmp_path / "c.mkv").write_bytes(b"")
    rows, _ = read_manifest(manifest(tmp_path, [{"video": f"{n}.mkv"} for n in "abcde"]))
    here.own["batched"] = Batched()
    Batched.calls.clear()
    lines = evaluate(rows, ["batched", "sharpness"], here.settings)
    assert [line[0][0] for line in lines] == [n for n in "abcde" for _ in range(3)]  # in the manifest's order
    status = {line[0][0]: line[5:] for line in lines if line[1] == "batched"}
    assert {n for n, s in status.items() if s[0] == "ok"} == {"a", "d", "e"}
    assert status["b"] == ("failed", "RuntimeError: out of memory") and status["c"][0] == "corrupt"
    assert Batched.calls == [["a", "b", "c"], ["a"], ["b"], ["c"], ["d", "e"]]


# Worker processes

DEADLY = """
import os
from dataclasses import dataclass
from typing import ClassVar
from analysis.scorers.scorer import Metric, Requires, Scorer

@dataclass(frozen=True)
class Deadly(Scorer):
    name: ClassVar[str] = "deadly"
    version: ClassVar[str] = "1"
    metrics: ClassVar[dict] = {"deadly": Metric("", 0, 1, "Ends the process at one video.")}

    def score(self, video, sample):
        if video.path.stem == "b":
            os._exit(9)
        return {"deadly": 1.0}
"""


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_row_and_workers_do_not_change_the_table(tmp_path):
    """With a scorer behind an entry point of another distribution, as a user would add one."""
    info = tmp_path / "site/deadly-1.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site/deadly.py").write_text(DEADLY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[i2v_steering.scorers]\ndeadly = deadly:Deadly\n")
    for seed, name in enumerate("abc"):
        write(tmp_path / f"{name}.mkv", panned(3, 32, 32, seed=seed))
    path = manifest(tmp_path, [{"video": f"{n}.mkv"} for n in "abc"])
    code = (
        "import sys; sys.path.insert(0, 'site'); sys.argv[0] = 'analysis'\n"
        "from analysis.__main__ import app\nfrom testbed.command_line import run\n"
        "if __name__ == '__main__': run(app)\n"
    )
    (tmp_path / "with_site.py").write_text(code)
    tables = []
    for workers in ("2", "1"):  # the second finds what the first kept, and tries the bad one again
        status, _, err = finish(start(
            tmp_path, "with_site.py", "evaluate", str(path), "--scorers", "deadly", "sharpness", "-o", "s.csv", "--workers", workers
        ))  # fmt: skip
        assert status == 1 and "Traceback" not in err, err
        rows = table(tmp_path / "s.csv")
        assert {r["video"][0] for r in rows if r["status"] == "ok" and r["scorer"] == "deadly"} == {"a", "c"}
        assert {r["video"][0] for r in rows if r["status"] == "ok" and r["scorer"] == "sharpness"} == set("abc")
        (bad,) = (r for r in rows if r["status"] != "ok")
        assert bad["status"] == "failed" and "the process that scored it died" in bad["reason"]
        tables.append((tmp_path / "s.csv").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    videos = [write(tmp_path / f"{i}.mkv", panned(9, 96, 128, seed=i)).name for i in range(24)]
    path = manifest(tmp_path, [{"video": name} for name in videos])
    arguments = ["-m", "analysis", "evaluate", str(path), "--scorers", "optical_flow", "-o", "s.csv", "--workers", "1"]
    process, kept = start(tmp_path, *arguments), tmp_path / "build/evaluated"
    deadline = time.monotonic() + 60
    while len(list(kept.rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = {f: f.stat().st_mtime_ns for f in kept.rglob("*.json")}
    assert 2 <= len(made) < 24 and not (tmp_path / "s.csv").exists()
    status, out, err = finish(start(tmp_path, *arguments))
    assert status == 0 and "24 videos, 144 rows, 144 ok" in out, err
    assert all(f.stat().st_mtime_ns == at for f, at in made.items())


def test_the_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep/scores.csv"
    write_scores([("a, b.mp4", "s", "1", "m", "0.1", "ok", "")], path)
    assert path.read_text() == 'video,scorer,version,metric,value,status,reason\n"a, b.mp4",s,1,m,0.1,ok,\n'
    with pytest.raises(csv.Error):
        write_scores([None], path)
    assert path.read_text().count("\n") == 2 and len(list(path.parent.iterdir())) == 1


def test_the_command_says_what_is_wrong(tmp_path):
    write(tmp_path / "a.mkv", panned(3, 32, 32))
    path = manifest(tmp_path, [{"video": "a.mkv", "seed": "3"}])
    for arguments, what in [
        ([], "no scorer is named"),
        (["--scorers", "sharpnes"], "unknown scorer 'sharpnes'; known are"),
        (["--scorers", "sharpness", "--fps", "-3"], "--fps is -3.0; a positive number"),
        (["--scorers", "sharpness", "--workers", "0"], "--workers is 0"),
        (["--scorers", "sharpness", "-o", "."], ". is a folder"),
        (["--scorers", "sharpness", "-o", "a.mkv/scores.csv"], "a.mkv"),
    ]:
        status, _, err = call(tmp_path, "evaluate", str(path), *arguments)
        assert status == 1 and "error: " in err and "Traceback" not in err and what in err, err
    status, out, err = call(tmp_path, "scorers")
    assert status == 0 and "temporal_flickering (version 1): can run" in out, err


def test_all_are_those_that_can_run(capsys, monkeypatch):
    monkeypatch.setattr(
        Requires, "missing", lambda self: "brisque is not there" if "brisque" in self.packages else None
    )
    found = _all_that_run(["sharpness:", "optical_flow"])
    assert "temporal_flickering" in found and not {"sharpness", "optical_flow", "brisque_pypi"} & set(found)
    assert "left out: brisque_pypi: brisque is not there" in capsys.readouterr().err


def test_the_page_has_what_the_scorers_say_of_themselves():
    page = (ROOT / "docs/evaluating.md").read_text()
    assert markdown() in page, "write it again: python -m analysis scorers --page docs/evaluating.md"
    for status, what in STATUSES.items():
        kept = "yes" if status in module.KEPT else "no"
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{status}` |"))
        assert row.endswith(f"| {kept} |") and what.split(":")[0].split(",")[0] in row
