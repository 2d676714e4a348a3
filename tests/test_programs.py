"""Programs in environments of their own as scorers: their command lines, what they return, and how they fail."""

import json
import os
import stat
import sys
import time

import pytest
from videos_of_others import manifest, panned, write

from analysis.scorers import evaluate as module
from analysis.scorers.evaluate import Settings, evaluate
from analysis.scorers.manifest import read_manifest
from analysis.scorers.program import load_program
from analysis.scorers.registry import make_scorer

PROGRAM = """
import csv, json, sys, time, subprocess
from pathlib import Path
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(arguments["--log"], "a") as log:
    log.write(json.dumps(arguments) + "\\n")
def size(video):
    return Path(video).stat().st_size
if "--manifest" in arguments:
    rows = list(csv.DictReader(open(arguments["--manifest"])))
    out = Path(arguments["--out"])
    if out.suffix == ".none":
        sys.exit()
    found = {r["video"]: {"bytes": size(r["video"]), "words": len(r["prompt"].split())} for r in rows}
    found.pop(next((v for v in found if v.endswith("lost.mkv")), None), None)
    if arguments["--as"] == "csv":
        writer = csv.writer(open(out, "w"))
        writer.writerow(["video", "metric", "value", "status", "reason"])
        for video, values in found.items():
            writer.writerow([video, "bytes", values["bytes"], "ok", ""])
            writer.writerow([video, "words", "", "undefined", "a csv has no words"])
    else:
        out.write_text(json.dumps(found))
    sys.exit()
name = Path(arguments["--video"]).stem
if name == "slow":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
if name == "dies":
    sys.exit("no memory\\nRuntimeError: out of memory")
if name == "talks":
    print("loading the model ...")
print(json.dumps({"bytes": size(arguments["--video"]), "words": None if name == "mute" else len(arguments["--prompt"].split()),
                  "more": 1} if name != "wrong" else {"bytes": "many", "words": 1}))
"""


def program(folder, **changes):
    """A YAML file, and the program beside it."""
    (folder / "count.py").write_text(PROGRAM)
    given = {
        "name": "count", "version": "1", "inputs": ["prompt"], "timeout": 20, "files": ["count.py"],
        "command": ["{env:COUNT_PYTHON}", "{folder}/count.py", "--log", str(folder / "log"), "--video", "{video}", "--prompt", "{prompt}"],
        "requires": {"install": "python -m venv count", "licence": "none"},
        "metrics": {"bytes": {"unit": "bytes", "low": 0, "high": None, "what": "The size of the file."},
                    "words": {"unit": "", "low": 0, "high": None, "what": "Words of the prompt."}},
    } | changes  # fmt: skip
    (folder / "count.yaml").write_text(json.dumps({k: v for k, v in given.items() if v is not None}))
    return folder / "count.yaml"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(names, **changes of the YAML file) -> (video, metric) -> (value, status, reason)."""
    monkeypatch.setenv("COUNT_PYTHON", sys.executable)

    def in_process(rows, names, settings, workers):
        for index, row in enumerate(rows):
            yield index, module.score_row(row, names, settings)

    monkeypatch.setattr(module, "_in_workers", in_process)

    def run(names, prompt="a cat; rm -rf $HOME 'quoted'", **changes):
        for seed, name in enumerate(names):
            if not (tmp_path / f"{name}.mkv").exists():
                write(tmp_path / f"{name}.mkv", panned(3, 32, 32, seed=seed))
        module.make.cache_clear()
        rows, _ = read_manifest(manifest(tmp_path, [{"video": f"{n}.mkv", "prompt": prompt} for n in names]))
        lines = evaluate(rows, [str(program(tmp_path, **changes))], Settings(tmp_path / "cache"))
        assert {line[1] for line in lines} == {"count"}
        return {(line[0].removesuffix(".mkv"), line[3]): line[4:] for line in lines}

    yield run
    module.make.cache_clear()


def calls(folder):
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()] if (folder / "log").exists() else []


def test_a_program_is_asked_of_each_video_and_its_answers_are_kept(run, tmp_path):
    found = run(["a", "mute"])
    size = (tmp_path / "a.mkv").stat().st_size
    assert found["a", "bytes"] == (f"{size}.0", "ok", "") and found["a", "words"] == (
        "6.0",
        "ok",
        "",
    )  # no shell saw it
    assert found["mute", "words"] == ("", "undefined", "count gives no value")
    first = calls(tmp_path)[0]
    assert first["--video"] == str(tmp_path / "a.mkv") and first["--prompt"].endswith("rm -rf $HOME 'quoted'")
    assert run(["a", "mute"]) == found and len(calls(tmp_path)) == 2
    run(["a"], version="2")
    run(["a"], version="2", prompt="a dog")
    assert len(calls(tmp_path)) == 4


def test_a_changed_program_is_another(run, tmp_path, monkeypatch):
    run(["a"])
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", PROGRAM + "\n# another\n")
    run(["a"])
    assert len(calls(tmp_path)) == 2


def test_a_program_that_fails_is_a_row(run, tmp_path):
    found = run(["dies", "talks", "wrong", "a"])
    assert found["dies", "bytes"] == ("", "failed", "count ended with status 1: RuntimeError: out of memory")
    assert found["talks", "bytes"][1] == "failed" and "returned no json" in found["talks", "bytes"][2]
    assert found["wrong", "words"] == ("", "failed", "count returned bytes = 'many', which is no number")
    assert found["a", "bytes"][1] == "ok"
    (tmp_path / "cut.mkv").write_bytes((tmp_path / "a.mkv").read_bytes()[:-900])
    before = len(calls(tmp_path))
    assert run(["cut"])["cut", "bytes"][1] == "corrupt" and len(calls(tmp_path)) == before  # it never saw the file


def test_a_program_that_hangs_is_ended_with_what_it_started(run, tmp_path):
    began = time.monotonic()
    found = run(["slow"], timeout=2)
    assert found["slow", "bytes"] == ("", "failed", "count did not end within 2 s") and time.monotonic() - began < 20
    assert not [p for p in os.listdir("/proc") if p.isdigit() and str(tmp_path) in _command(p)]


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


@pytest.mark.parametrize("output", ["json", "csv"])
def test_one_call_for_many_videos(run, tmp_path, output):
    command = ["{env:COUNT_PYTHON}", "{folder}/count.py", "--log", str(tmp_path / "log"), "--manifest", "{manifest}", "--out", "{out}", "--as", output]  # fmt: skip
    (tmp_path / "cut.mkv").write_bytes(b"")
    found = run(["a", "cut", "lost", "b"], per="manifest", output=output, command=command)
    assert len(calls(tmp_path)) == 1
    assert found["b", "bytes"] == (f"{(tmp_path / 'b.mkv').stat().st_size}.0", "ok", "")
    assert found["b", "words"] == (("6.0", "ok", "") if output == "json" else ("", "undefined", "a csv has no words"))
    assert found["cut", "bytes"][1] == "corrupt"
    assert found["lost", "words"] == ("", "failed", "count returned nothing for this video")
    found = run(["a", "cut", "lost", "b"], per="manifest", output=output, command=command)
    assert len(calls(tmp_path)) == 2  # for the lost one alone
    assert found["a", "bytes"][1] == "ok"


def test_a_program_says_why_it_cannot_run(tmp_path, monkeypatch):
    monkeypatch.delenv("COUNT_PYTHON", raising=False)
    why = make_scorer(str(program(tmp_path))).available()
    assert why == "the environment variable COUNT_PYTHON is not set: python -m venv count"
    monkeypatch.setenv("COUNT_PYTHON", "/nowhere/python")
    assert make_scorer(str(program(tmp_path))).available().startswith("there is no program '/nowhere/python'")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert make_scorer(str(program(tmp_path, command=["{folder}/script"]))).available() is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"command": None}, "'command' is missing"),
        ({"metrics": {"a": {"unit": ""}}}, "missing 3 required positional arguments"),
        ({"comand": []}, "unknown key comand; allowed are"),
        ({"per": "batch"}, "per is video or manifest"),
        ({"command": "count.py {video}"}, "command is a list of words"),
        ({"command": ["count", "{image}"]}, r"the command has {image}; there are .*among `inputs`"),
        ({"command": ["count", "{manifest}"]}, "the command has {manifest}"),
        ({"files": ["weights.bin"]}, "there is no file weights.bin beside it"),
        ({"timeout": 0}, "timeout is 0.0"),
        (
            {"inputs": ["depth"], "command": ["count", "{video}"]},
            "inputs are of image, prompt, id, questions, not depth",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name(tmp_path, changes, what):
    with pytest.raises(ValueError, match=what):
        make_scorer(str(program(tmp_path, **changes)))


def test_a_file_that_is_not_there_or_no_yaml(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        make_scorer(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_program(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match="takes its settings from the file"):
        make_scorer(f"{program(tmp_path)}:timeout=3")
