"""`python -m analysis evaluate`: files of every kind, broken ones, the cache, dying workers, and the table that comes out."""

import csv
import json
import os
import shutil
import signal
import time
import types
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest
from commands import finish, start
from videos_of_others import CODECS, damaged, panned, texture, write

from analysis.scorers import evaluate as module
from analysis.scorers import registry
from analysis.scorers.evaluate import FIELDS, Settings, evaluate, write_scores
from analysis.scorers.manifest import read_manifest
from analysis.scorers.scorer import Metric, Sample, Scorer
from analysis.scorers.video import STATUSES, NotScored, Video


def manifest(folder, rows, name="manifest.csv"):
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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


# Files


@pytest.mark.parametrize("suffix", CODECS)
def test_files_of_every_kind_are_read(tmp_path, suffix):
    made = panned(17, 64, 96)
    video = Video(write(tmp_path / f"a{suffix}", made, fps=16))
    assert video.frames.shape == made.shape and video.fps == 16
    assert np.abs(video.frames.astype(int) - made).mean() < (1e-9 if suffix == ".mkv" else 20)
    assert video.times == pytest.approx(np.arange(17) / 16, abs=0.011)
    assert video.every(8).tolist() == list(range(0, 17, 2))
    if suffix in (".mp4", ".webm", ".mkv"):  # as OpenCV and so VBench reads it
        capture = cv2.VideoCapture(str(video.path))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(16)
        assert np.array_equal(video.frames[0], capture.read()[1][..., ::-1])


def test_a_folder_of_images_is_a_video_without_a_time(tmp_path):
    made = panned(11, 24, 32)
    for t, frame in enumerate(made):
        cv2.imwrite(str(tmp_path / f"frame{t}.png"), frame[..., ::-1])  # 10 comes after 9
    (tmp_path / "notes.txt").write_text("no image")
    video = Video(tmp_path)
    assert np.array_equal(video.frames, made) and video.fps is None
    with pytest.raises(NotScored, match="state them in the manifest or with --fps"):
        video.every(8)
    assert Video(tmp_path, stated=24).every(8).tolist() == [0, 3, 6, 9]
    before = video.sha256
    (tmp_path / "frame3.png").rename(tmp_path / "frame99.png")
    assert Video(tmp_path).sha256 != before


def test_the_stated_rate_counts_and_time_stamps_are_used(tmp_path):
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for stamp in (0, 1, 2, 8, 9):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), stamp, np.uint8), format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = Video(path)
    assert video.times == pytest.approx([0, 0.1, 0.2, 0.8, 0.9])
    assert video.resampled(5).tolist() == [0, 2, 2, 2, 3]  # what is shown at 0, 0.2, 0.4, 0.6, 0.8 s
    assert Video(path, stated=5).times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def changing_size(path):
    """An H.264 stream whose frames become larger midway."""
    with open(path, "wb") as file:
        for size in (32, 64):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width = encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 10)
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(texture(size, size), format="rgb24").reformat(format="yuv420p")
                for packet in encoder.encode(frame):
                    file.write(bytes(packet))
            for packet in encoder.encode():
                file.write(bytes(packet))
    return path.rename(path.with_suffix(".mp4"))  # the container is found by its contents


def broken(folder):
    """name -> (status, part of the reason) of files that cannot be scored."""
    good = write(folder / "good.mkv", panned(9, 48, 64))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "nothing").mkdir()
    (folder / "sizes").mkdir()
    for t, size in enumerate((20, 20, 24)):
        cv2.imwrite(str(folder / f"sizes/{t}.png"), texture(size, size))
    (folder / "image").mkdir()
    (folder / "image/0.png").write_bytes(b"\x89PNG no more")
    write(folder / "one.mp4", panned(1, 48, 64))
    damaged(folder / "bits.mkv", good)
    damaged(folder / "bits2.mkv", good)  # the same message of the decoder a second time
    (folder / "cut.mkv").write_bytes(good.read_bytes()[:-2000])
    whole = write(folder / "whole.mp4", panned(9, 48, 64)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    gif = write(folder / "whole.gif", panned(9, 48, 64)).read_bytes()
    (folder / "cut.gif").write_bytes(gif[: len(gif) // 2])
    changing_size(folder / "stream.h264")
    return {
        "empty.mp4": ("corrupt", "the file is empty"), "text.mp4": ("corrupt", "not a readable video"),
        "nothing": ("corrupt", "no image"), "sizes": ("varying_size", "frame 2 is 24x24, the first is 20x20"),
        "image": ("corrupt", "0.png is not a readable image"), "one.mp4": ("too_short", "1 frames, 2 are needed"),
        "bits.mkv": ("corrupt", "damaged: slice CRC mismatch"), "bits2.mkv": ("corrupt", "damaged: slice CRC mismatch"),
        "cut.mkv": ("corrupt", "ended prematurely"), "cut.mp4": ("corrupt", "not a readable video"),
        "cut.gif": ("corrupt", "before its trailer"), "stream.mp4": ("varying_size", "frame 3 is 64x64"),
        "gone.mp4": ("missing", "no file gone.mp4"),
    }  # fmt: skip


def test_broken_files_are_rows_with_a_reason(tmp_path):
    """Through the command: the run goes on, its status is 1, and the second run says the same."""
    expected = broken(tmp_path)
    path = manifest(tmp_path, [{"video": name} for name in ["good.mkv", *expected]])
    arguments = ["-m", "analysis", "evaluate", str(path), "--scorers", "temporal_flickering", "sharpness", "-o",
                 "scores.csv", "--workers", "1"]  # fmt: skip
    for _ in range(2):
        status, out, err = finish(start(tmp_path, *arguments))
        assert status == 1 and "Traceback" not in err, err
        rows = table(tmp_path / "scores.csv")
        assert list(rows[0]) == list(FIELDS)
        assert [r["video"] for r in rows] == [name for name in ["good.mkv", *expected] for _ in range(3)]
        assert {r["status"] for r in rows[:3]} == {"ok"} and all(float(r["value"]) >= 0 for r in rows[:3])
        for row in rows[3:]:
            status, reason = expected[row["video"]]
            if (row["video"], row["scorer"]) == ("one.mp4", "sharpness"):  # a frame is enough for it
                assert row["status"] == "ok"
                continue
            assert row["status"] == status and reason in row["reason"] and row["value"] == "", row
        assert f"{len(expected) + 1} videos" in out and "rows corrupt" in err


def test_a_video_that_is_too_large_is_said_to_be(tmp_path):
    path = write(tmp_path / "a.mkv", panned(9, 48, 64))
    with pytest.raises(NotScored, match=r"its first \d frames take more than 5e-05 GiB"):
        _ = Video(path, limit=5e-5).frames


# The manifest


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,prompt\na.mp4,x\n", "no column 'video'; it has path, prompt"),
        ("video\n", "has no rows"),
        ("video,fps\na.mp4,fast\n", "line 2: fps is fast; a positive number"),
        ("video,fps\na.mp4,0\n", "fps is 0; a positive number"),
        ("video,questions\na.mp4,[1]\n", "a JSON list of objects"),
        ("video,questions\na.mp4,yes\n", "questions are no JSON"),
        ("video,prompt\na.mp4,x\na.mp4,y\n", "a.mp4 is in line 2 already"),
        ("video,prompt\na.mp4\n", "not as many fields"),
        ("video,prompt\n,x\n", "no video is named"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_line(tmp_path, text, what):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=what):
        read_manifest(tmp_path / "m.csv")


def test_a_manifest_is_read(tmp_path):
    (tmp_path / "m.csv").write_text(
        '\ufeffvideo,method,prompt,fps,questions,image\na.mp4,x,"A cat, running",24,"[{""question"": ""q""}]",r.png\n'
        "sub/b.mp4,y,,,,\n", encoding="utf-8",
    )  # fmt: skip
    rows, unread = read_manifest(tmp_path / "m.csv", fps=16)
    assert unread == ["method"] and [r.fps for r in rows] == [24, 16]
    assert rows[0].sample == Sample(tmp_path / "r.png", "A cat, running", None, [{"question": "q"}])
    assert rows[1].path == tmp_path / "sub/b.mp4" and rows[1].sample == Sample()


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
from analysis.scorers.scorer import Metric, Scorer

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
    ]:
        status, _, err = finish(start(tmp_path, "-m", "analysis", "evaluate", str(path), *arguments))
        assert status == 1 and "error: " in err and "Traceback" not in err and what in err, err
    status, out, err = finish(start(tmp_path, "-m", "analysis", "scorers"))
    assert status == 0 and "temporal_flickering (version 1): can run" in out, err
