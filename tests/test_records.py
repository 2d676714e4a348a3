"""Videos and what is known of them: nothing that is finished is lost, nothing that is damaged is taken for sound."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_study import Here, parameters, without_a_model

from analysis.study.cells import expand
from analysis.study.files import host_name, write_atomically
from analysis.study.video_files import read_video, write_video
from analysis.videos.generate import generate, merge
from analysis.videos.records import (
    Record,
    count_states,
    mixed_machines,
    read_record,
    read_videos,
    reasons,
    sweep_states,
    write_record,
)
from analysis.videos.stored_files import remove_abandoned

RUNS = Path("runs/tiny/real")


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return parameters()


def states(found):
    return [s.state for s in sweep_states(found, "real", deep=True)]


def test_a_record_says_how_a_video_was_made(study, monkeypatch):
    without_a_model(monkeypatch)
    assert generate(study, "real", Here()) == 0
    rows = read_videos(study, "real")
    assert [row["sample"] for row in rows] == [f"sample_{i}" for i in range(6)]
    for row in rows:
        file = RUNS / row["file"]
        assert file.name == f"{row['key']}.mkv" and int(row["bytes"]) == file.stat().st_size
        assert row["sha256"] == subprocess.check_output(["sha256sum", file], text=True).split()[0]
        assert (row["frames"], row["height"], row["width"], row["attempt"]) == ("5", "32", "48", "1")
        assert float(row["seconds"]) >= 0 and float(row["peak_gib"]) > 0
        assert row["torch"] and row["diffusers"] and row["device"] and row["host"] == host_name()
    manifest = (RUNS / "manifest.csv").read_text()
    assert manifest.splitlines()[0] == (
        "key,status,reason,backbone,method,guidance_scale,blur,prompts,seed,sample,prompt,reference"
    ), "a column of the machine would make results differ from run to run"
    time.sleep(0.01)
    for file in RUNS.glob("*.mkv"):
        file.unlink()
    assert generate(study, "real", Here()) == 0 and (RUNS / "manifest.csv").read_text() == manifest


@pytest.mark.parametrize("damage", ["zeroed bytes", "cut", "empty", "of another time"])
def test_a_damaged_video_is_noticed_and_made_again(study, monkeypatch, damage):
    made = without_a_model(monkeypatch)
    generate(study, "real", Here())
    file, before = RUNS / f"{expand(study, 'real')[2].key}.mkv", None
    before = file.read_bytes()
    half = len(before) // 2
    file.write_bytes({"zeroed bytes": before[:half] + bytes(400) + before[half + 400 :], "cut": before[:half], "empty": b"",
                      "of another time": before}[damage])  # fmt: skip
    expected = "ok" if damage == "of another time" else "corrupt"
    assert states(study) == ["ok", "ok", expected, "ok", "ok", "ok"]
    del made[:]
    assert generate(study, "real", Here()) == 0
    assert made == ([] if expected == "ok" else ["sample_2"]) and file.read_bytes() == before
    assert read_record(file).attempt == (1 if expected == "ok" else 2)


def test_bit_damage_of_the_same_size_needs_the_deep_look(study, monkeypatch):
    without_a_model(monkeypatch)
    generate(study, "real", Here())
    file = RUNS / f"{expand(study, 'real')[0].key}.mkv"
    whole, when = bytearray(file.read_bytes()), file.stat()
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert count_states(sweep_states(study, "real"))["corrupt"] == 0
    found = sweep_states(study, "real", deep=True)[0]
    assert found.state == "corrupt" and "sha256 differs" in found.reason
    assert generate(study, "real", Here(), only=["corrupt"]) == 0 and states(study) == ["ok"] * 6


def test_videos_of_older_versions_are_read_once(study, monkeypatch):
    made = without_a_model(monkeypatch)
    generate(study, "real", Here())
    files = [RUNS / f"{cell.key}.mkv" for cell in expand(study, "real")]
    for file in files:
        file.with_suffix(".json").unlink()
    write_video(files[0], read_video(files[0])[:4], 8)  # of another length
    files[1].write_bytes(files[1].read_bytes()[:300])
    files[2].write_bytes(b"")
    del made[:]
    assert generate(study, "real", Here()) == 0
    assert made == ["sample_0", "sample_1", "sample_2"]
    kept = read_record(files[3])
    assert kept.sha256 and kept.frames == 5 and kept.seconds is None and kept.torch == "", "who made it is not known"


def test_failures_are_recorded_where_the_video_would_be(study, monkeypatch, capsys):
    def failing(cell):
        if cell.sample in ("sample_1", "sample_4"):
            raise KeyError(f"no such thing {cell.sample}")

    without_a_model(monkeypatch, failing)
    assert generate(study, "real", Here()) == 2
    assert "real: 2 failed, the first: KeyError: 'no such thing sample_1'" in capsys.readouterr().err
    found = sweep_states(study, "real")
    assert [s.state for s in found] == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert reasons(found) == [("failed", "KeyError: 'no such thing sample_1'", 2)], "numbers make no other kind"
    manifest = pd.read_csv(RUNS / "manifest.csv", keep_default_na=False)
    assert list(manifest["status"]) == [s.state for s in found] and "no such thing" in manifest["reason"][1]

    made = without_a_model(monkeypatch)
    (RUNS / f"{found[0].cell.key}.mkv").unlink()
    assert generate(study, "real", Here(), only=["failed"]) == 1, "one is missing still"
    assert made == ["sample_1", "sample_4"] and not (RUNS / "manifest.csv").exists()
    assert read_record(found[1].path).attempt == 2
    assert generate(study, "real", Here(), only=["missing", "corrupt"]) == 0 and (RUNS / "manifest.csv").exists()
    with pytest.raises(ValueError, match="--only has 'broken'; allowed are failed, corrupt, missing"):
        generate(study, "real", Here(), only=["broken"])


def test_no_model_is_needed_to_know_where_a_sweep_stands(study, monkeypatch):
    without_a_model(monkeypatch)
    generate(study, "real", Here())
    code = (
        "import sys\n"
        "from analysis.study.parameters import Parameters\n"
        "from analysis.videos.records import count_states, sweep_states\n"
        "found = Parameters.model_validate_json(sys.stdin.read())\n"
        "print(count_states(sweep_states(found, 'real', deep=True)), sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=study.model_dump_json(exclude={"full_size"}), capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert done.stdout.strip() == "{'ok': 6, 'failed': 0, 'corrupt': 0, 'missing': 0} []", done.stderr


def test_different_versions_and_devices_are_said(study, monkeypatch, capsys):
    without_a_model(monkeypatch)
    generate(study, "real", Here())
    assert mixed_machines(sweep_states(study, "real")) == []
    file = RUNS / f"{expand(study, 'real')[0].key}.mkv"
    write_record(file, replace(read_record(file), torch="2.0.0", device="NVIDIA H100"))
    (found, other) = mixed_machines(sweep_states(study, "real"))
    assert found.startswith("torch 2.0.0: 1 videos, ") and "NVIDIA H100: 1 videos" in other
    capsys.readouterr()
    merge(study, "real")
    assert "made with different versions or devices" in capsys.readouterr().err


# Temporary files -----------------------------------------------------------------------------------------------------
def test_only_abandoned_temporary_files_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here, old = host_name(), time.time() - 3 * 24 * 3600
    kept = [f".{here}.{os.getpid()}.a.mkv.tmp.mkv", ".elsewhere.1.a.mkv.tmp.mkv", ".123.half.mkv.tmp.mkv"]
    gone = [f".{here}.{ended.pid}.a.mkv.tmp.mkv", ".elsewhere.1.old.mkv.tmp.mkv", ".123.old.mkv.tmp.mkv"]
    for name in kept + gone:
        (tmp_path / name).write_bytes(b"x")
        if "old" in name:
            os.utime(tmp_path / name, (old, old))
    assert remove_abandoned(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_a_shard_that_starts_leaves_running_writers_alone(study, monkeypatch):
    without_a_model(monkeypatch)
    cells, writing, go_on = expand(study, "real"), threading.Event(), threading.Event()

    def slowly(path):
        path.write_bytes(b"half")
        writing.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(1) as other:
        job = other.submit(write_atomically, RUNS / f"{cells[5].key}.mkv", slowly)
        assert writing.wait(30)
        assert generate(study, "real", Here(), part="0/2") == 0
        assert generate(study, "real", Here(), part="0/2") == 0
        go_on.set()
        job.result()
    assert (RUNS / f"{cells[5].key}.mkv").read_bytes() == b"half"


# Nothing is lost -----------------------------------------------------------------------------------------------------
def test_a_narrower_grid_moves_videos_aside_and_a_wider_one_brings_them_back(study, monkeypatch, capsys):
    made = without_a_model(monkeypatch)
    generate(study, "real", Here())
    narrow = study.sweeps["real"].model_copy(update={"samples": 2})
    smaller = study.model_copy(update={"sweeps": {"real": narrow}})
    assert generate(smaller, "real", Here()) == 0
    assert "4 videos that are not in the grid any more are in runs/trash/tiny/real" in capsys.readouterr().err
    assert len(list(RUNS.glob("*.mkv"))) == 2 and len(list(Path("runs/trash/tiny/real").glob("*.json"))) == 4
    del made[:]
    assert generate(study, "real", Here()) == 0 and made == [] and states(study) == ["ok"] * 6
    assert not list(Path("runs/trash").rglob("*.mkv"))


# Shards --------------------------------------------------------------------------------------------------------------
def test_shards_of_two_machines_are_merged_without_making_anything(tmp_path, monkeypatch):
    wholes = []
    for name, part in (("one", "0/2"), ("two", "1/2"), ("alone", None)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        study = parameters(((48, 32), (65, 63), (30, 90)), fit="crop")
        without_a_model(monkeypatch)
        assert generate(study, "real", Here(), part=part) == 0
        assert (RUNS / "manifest.csv").exists() == (part is None)
        wholes.append(tmp_path / name / RUNS / "manifest.csv")
    monkeypatch.chdir(tmp_path / "one")
    made = without_a_model(monkeypatch)
    assert count_states(merge(study, "real")) == {"ok": 2, "failed": 0, "corrupt": 0, "missing": 1}
    assert list(pd.read_csv(RUNS / "manifest.csv")["status"]) == ["ok", "missing", "ok"]
    assert [s.state for s in merge(study, "real", [tmp_path / "two/runs"])] == ["ok"] * 3 and made == []
    assert (RUNS / "manifest.csv").read_bytes() == wholes[2].read_bytes()
    for row in read_videos(study, "real"):
        assert Image.open(row["reference"]).size == (48, 32), "fitted references travel along"
    with pytest.raises(ValueError, match="no folder nowhere to merge from"):
        merge(study, "real", [Path("nowhere")])


def test_failures_of_another_machine_are_merged_with_their_reasons(tmp_path, monkeypatch):
    def failing(cell):
        raise ValueError("no")

    for name, part in (("one", "0/2"), ("two", "1/2")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        study = parameters(((48, 32),) * 3)
        without_a_model(monkeypatch, failing if name == "two" else lambda cell: None)
        generate(study, "real", Here(), part=part)
    monkeypatch.chdir(tmp_path / "one")
    found = merge(study, "real", [tmp_path / "two/runs"])
    assert [(s.state, s.reason) for s in found][1] == ("failed", "ValueError: no")


@pytest.mark.parametrize("part", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_a_wrong_shard_is_refused(study, part):
    with pytest.raises(ValueError, match=r"must be i/n with 0 <= i < n"):
        generate(study, "real", Here(), part=part)


def test_shards_cover_every_cell_once(study):
    parts = [[s.cell.key for s in sweep_states(study, "real", part=f"{i}/4")] for i in range(4)]
    assert sorted(k for p in parts for k in p) == sorted(c.key for c in expand(study, "real"))


# Images and benchmarks -----------------------------------------------------------------------------------------------
def test_fitted_references_are_kept_and_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = parameters(((48, 32), (65, 63), (30, 90)), fit="pad")
    without_a_model(monkeypatch)
    assert generate(study, "real", Here()) == 0
    first, second, third = read_videos(study, "real")
    assert first["reference"] == "photos/images/0.png" and first["fit"] == ""
    assert second["fit"].startswith("pad 65x63 to 48x32: 33x32 in the middle")
    for row in (second, third):
        assert row["reference"].startswith("runs/tiny/real/references/") and Image.open(row["reference"]).size == (
            48,
            32,
        )
    manifest = pd.read_csv(RUNS / "manifest.csv")
    assert list(manifest["reference"]) == [row["reference"] for row in (first, second, third)]


def test_a_worker_that_was_killed_before_it_wrote_the_record_loses_no_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = parameters(((65, 63),), fit="crop")
    made = without_a_model(monkeypatch)
    generate(study, "real", Here())
    before = (RUNS / "manifest.csv").read_text()
    for file in [*RUNS.glob("*.json"), *RUNS.glob("references/*")]:
        file.unlink()
    assert generate(study, "real", Here()) == 0 and len(made) == 1
    assert (RUNS / "manifest.csv").read_text() == before and Path(read_videos(study, "real")[0]["reference"]).is_file()


def test_images_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = parameters(((1024, 1024), (65, 63)))
    without_a_model(monkeypatch)
    monkeypatch.setattr("analysis.videos.run_cell.load_pipeline", lambda backbone: pytest.fail("it was loaded"))
    assert generate(study, "real", Here()) == 2
    assert "photos/images/0.png is 1024x1024; the backbone wants 48x32" in sweep_states(study, "real")[0].reason


def test_sweeps_have_benchmarks_of_their_own(tmp_path, monkeypatch):
    from small_study import write_benchmark

    monkeypatch.chdir(tmp_path)
    study = parameters()
    write_benchmark(Path("others"), [(48, 32), (48, 32)])
    meta = Path("others/meta.json")
    meta.write_text(meta.read_text().replace("sample_", "other_"))
    raw = json.loads(study.model_dump_json())
    raw["benchmarks"] = {"others": {"folder": "others"}}
    raw["sweeps"]["tiny-other"] = raw["sweeps"]["real"] | {"benchmark": "others", "samples": 2}
    both = type(study).model_validate(raw)
    without_a_model(monkeypatch)
    assert generate(both, "real", Here()) == generate(both, "tiny-other", Here()) == 0
    assert {row["sample"] for row in read_videos(both, "tiny-other")} == {"other_0", "other_1"}
    assert read_videos(both, "tiny-other")[0]["reference"] == "others/images/0.png"
    raw["sweeps"]["tiny-other"]["benchmark"] = "none"
    with pytest.raises(ValueError, match="benchmark is 'none', not one of"):
        type(study).model_validate(raw)


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    for text in ("", "{", "[]", "3", '{"no": 1}'):
        (tmp_path / "a.json").write_text(text)
        assert read_record(tmp_path / "a.mkv") is None
    write_record(tmp_path / "a.mkv", Record("ok", frames=3))
    assert read_record(tmp_path / "a.mkv") == Record("ok", frames=3)


def test_videos_of_noise_are_what_was_made(study, monkeypatch):
    without_a_model(monkeypatch)
    generate(study, "real", Here())
    for cell in expand(study, "real"):
        expected = np.random.default_rng(cell.noise).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
        assert np.array_equal(read_video(RUNS / f"{cell.key}.mkv"), expected)
