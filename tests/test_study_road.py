"""The whole road of docs/gpu-users.md with stand-ins: tiny random Wan, FramePack and HunyuanVideo in hub layout, photographs of
five sizes, two methods, a simulated judge, and the row of AlignVid's table 2 with intervals. The commands are the page's own."""

import os
import re
import shlex
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from commands import call, finish, start
from photographs import make_judge, make_omiti2v
from test_dask import Client, dask  # noqa: F401
from tiny_pipelines import LLAMA_TEMPLATE, LLAVA_TEMPLATE, build
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.studies.study import find_study
from analysis.studies.table_costs import cost_page, costs_of_table
from analysis.study.presets import load_presets
from analysis.videos.records import sweep_states

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/gpu-users.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line.strip()
]
# The page's checkpoints and folders -> what stands in for them, inside the test's folder.
STAND_INS = {
    "/data/OmitI2V": "bench",
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers@REVISION": "hub/wan2.1-i2v",
    "/models/FramePackI2V_HY": "hub/framepack",
    "/models/HunyuanVideo-I2V": "hub/hunyuan-token-replace",
    "/judges/judge.yaml": "judge/judge.yaml",
    "bfloat16": "float32",
    "model": "none",  # what --offload has
    "8": "2",
}
SMALL = "--width 48 --height 32 --steps 4 --fps 8"
# What the stand-ins need beside the page's commands: sizes, and what the tiny text encoders have.
FRAMEPACK = ["--frames", "25", "--num-frames", "17", "--call.latent_window_size", "3", "--call.max_sequence_length", "40",
             "--call.prompt_template", f'{{"template": "{LLAMA_TEMPLATE}", "crop_start": 10}}', "--vae-dtype", "own"]  # fmt: skip
HUNYUAN = ["--frames", "9", "--call.max_sequence_length", "40", "--vae-dtype", "own", "--call.prompt_template",
           f'{{"template": "{LLAVA_TEMPLATE}", "crop_start": 28, "image_emb_start": 8, "image_emb_end": 44, "image_emb_len": 36}}']  # fmt: skip


def words_of(line):
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "analysis"], line
    return [STAND_INS.get(w, w) for w in words[3:]]


def run(words, expected=0):
    """A command in this process; its output."""
    done = CliRunner().invoke(app, words, catch_exceptions=True)
    said = f"{words}\n{done.output}\n{done.exception!r}"
    assert (done.exit_code == 0) == (expected == 0), said
    return done.output


def part(first, last):
    """The page's commands from the one that begins with `first` to the one before that which begins with `last`."""
    begins = next(i for i, c in enumerate(COMMANDS) if c.startswith(f"python -m analysis {first}"))
    ends = [i for i, c in enumerate(COMMANDS) if last and c.startswith(f"python -m analysis {last}") and i > begins]
    return COMMANDS[begins : ends[0] if ends else len(COMMANDS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with checkpoints, benchmark and judge, in which everything runs."""
    folder = tmp_path_factory.mktemp("road")
    for name in ("wan2.1-i2v", "framepack", "hunyuan-token-replace"):
        build(name)[0].save_pretrained(folder / "hub" / name)
    make_omiti2v(folder / "bench")
    make_judge(folder / "judge")
    before = os.getcwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_PYTHON", sys.executable)
        yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def stated(place):
    """The page's study with every setting stated, and no video."""
    run(words_of(part("study cost", "study new")[0]))
    new, check, *settings, again = part("study new", "study plan")
    run(words_of(new))
    assert "has to be stated" in run(words_of(check), expected=1)
    for line in settings:
        run(words_of(line))
    run(["study", "set", "omit", "all", *SMALL.split(), "--vae-dtype", "own"])
    run(["study", "set", "omit", "wan2.1", "--frames", "9"])
    run(["study", "set", "omit", "framepack", *FRAMEPACK])
    run(["study", "set", "omit", "hunyuanvideo", *HUNYUAN])
    for method in ("alignvid-wan", "alignvid-framepack"):  # the published lists are of larger models
        run(["study", "set", "omit", method, "--blocks", "all"])
    assert "blocks " not in run(words_of(again))
    return find_study("omit")


def files_of(study):
    """{key: bytes} of the study's videos."""
    return {p.stem: p.read_bytes() for p in (study.folder / "runs").rglob("[!.]*.mkv") if "references" not in p.parts}


def children_of(pid):
    """Process ids of the workers of a command."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def made(place, stated):
    """The study made by two processes of which one is killed midway, and again by the same command until all is there."""
    plan, measure, generate, *_ = part("study plan", "study status")
    assert "12 videos, 12 to make, 8 steps each, 1 s a step (stated)" in run(words_of(plan))
    assert "--measure" in measure and "--workers" in generate  # measured in test_the_plan_is_measured
    process = start(place, "-m", "analysis", *words_of(generate))
    end = time.monotonic() + 120
    while len(files_of(stated)) < 15 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    workers = children_of(process.pid)
    assert len(workers) >= 2, process.communicate()
    os.kill(workers[0], signal.SIGKILL)
    status, _, error = finish(process, timeout=120)
    assert status == 1 and "a worker process died" in error, error
    before = files_of(stated)
    assert 15 <= len(before) < 36
    assert "missing" in run(["study", "status", "omit", "--deep"], expected=1)
    status, _, error = call(place, *words_of(generate))
    assert status == 0, error
    after = files_of(stated)
    assert len(after) == 36 and all(after[k] == v for k, v in before.items())
    return after


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the worker to kill is found in /proc")
def test_two_processes_of_which_one_is_killed_make_the_same_bytes_as_one_alone(place, stated, made):
    from analysis.study.cells import expand
    from analysis.study.results_layout import runs_folder
    from analysis.videos.generate import reference_files, run_cell

    with stated.inside():
        parameters, alone = stated.parameters(), place / "alone"
        for sweep, grid in parameters.sweeps.items():
            cells = expand(parameters, sweep)
            images = reference_files(parameters, sweep, cells)
            for cell in cells:
                assert run_cell(cell, parameters.backbones[grid.backbone], images[cell.key], alone / sweep)[0] == "ok"
                assert (alone / sweep / f"{cell.key}.mkv").read_bytes() == made[cell.key], (
                    sweep,
                    cell.sample,
                    cell.method,
                )
            assert len({c.image for c in cells}) == 6 and (runs_folder(parameters, sweep) / "manifest.csv").is_file()


def test_steering_changes_every_video_and_photographs_keep_their_shape(stated, made):
    with stated.inside():
        for sweep in stated.parameters().sweeps:
            states = sweep_states(stated.parameters(), sweep)
            by_sample = pd.DataFrame([(s.cell.sample, s.cell.method, made[s.cell.key]) for s in states])
            assert by_sample.groupby(0)[2].nunique().eq(2).all()
            assert len({(s.record.width, s.record.height) for s in states}) == 4  # 5 sizes, two of one shape
            assert all("bucket" in s.record.fit for s in states)


def test_the_page_leads_to_the_row_of_the_table(place, stated, made):
    shard, merge, status, only, deep = part("study generate omit --shard", "scorers")
    for line in (shard, merge, status, only, deep):
        said = run(words_of(line))
    assert said.count("12 made") == 3 and "s a video" in said
    _, check, evaluate, table, rows = part("scorers", "study export")
    run(["scorers"])
    assert "the scorer can run" in run(words_of(check))
    assert "simulated_judge_of_photographs: 72 ok" in run(words_of(evaluate))
    said = run(words_of(table))
    run(words_of(rows))
    imported = pd.read_csv("results/real/omit.csv")
    assert set(imported["backbone"]) == {"Wan2.1", "FramePack", "HunyuanVideo"} and len(imported) == 36
    assert set(imported["main_category"]) == {"modification", "addition", "deletion"}
    found = pd.read_csv(stated.folder / "results/table.csv").set_index(["row", "column"])
    for row in ("Wan2.1", "FramePack", "HunyuanVideo"):
        steered = {"HunyuanVideo": "HunyuanVideo + alignvid-hunyuan"}.get(row, f"{row} + AlignVid")
        for column in ("Modification", "Addition", "Deletion"):
            own, base = found.loc[(steered, column)], found.loc[(row, column)]
            assert own["n"] == base["n"] == 2 and 0 <= own["low"] <= own["value"] <= own["high"] <= 100
            assert own["change"] == pytest.approx(own["value"] - base["value"], abs=1e-3)
            assert own["change_low"] <= own["change"] <= own["change_high"] and 0 < own["p"] <= own["p (Holm)"] <= 1
            assert own["estimator"] == "simulated_judge_of_photographs 1, macro"
    assert found.loc[("Wan2.1 + AlignVid", "Modification"), "published"] == "77.20"
    assert "| Wan2.1 + AlignVid | Modification | 77.20 |" in said
    assert found.loc[("FramePack-F1", "Addition"), "reason"] == "its backbone was left out of this study"


def test_exports_have_the_names_of_official_scripts(place, stated, made):
    omit, vbench, *root = part("study export", None)
    run(words_of(omit))
    run(words_of(vbench))
    assert sorted(p.name for p in (place / "mp4/wan2.1/alignvid-wan").iterdir()) == [
        f"sample_{i}.mp4" for i in range(6)
    ]
    assert (place / "vbench/framepack/none/a cat dances-0.mp4").stat().st_size > 0
    assert root == []


def test_the_plan_is_measured_on_the_studys_own_videos(place, stated, made):
    (line,) = [c for c in COMMANDS if "--measure" in c]
    said = run(words_of(line))  # all is made: nothing is left to do
    assert said.count("0 to make") == 3 and said.count("measured on 12 videos") == 3


def copy_of(study, folder):
    """The study without what was made in it."""
    shutil.copytree(study.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("runs", "build", "results"))
    return find_study(str(folder))


def test_the_studys_scheduler_is_dasks_executor(place, stated, made, dask):  # noqa: F811
    """A client with threads in the place of Dask's: the same bytes from the study's own folder, one video at a time."""
    dask(Client(1, 1))
    copy = copy_of(stated, place / "by_client")
    run(["study", "generate", str(copy.folder), "wan2.1", "--scheduler", "tcp://somewhere:8786"])
    found = files_of(copy)
    assert len(found) == 12 and all(made[key] == video for key, video in found.items())


def test_a_dask_scheduler_with_two_workers_makes_the_same_bytes(place, stated, made):
    pytest.importorskip("distributed")
    copy = copy_of(stated, place / "by_dask")
    scheduler = start(place, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                      "--scheduler-file", str(place / "scheduler.json"))  # fmt: skip
    processes = [scheduler]
    try:
        for _ in range(2):
            processes.append(start(place, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(place / "scheduler.json"),
                                   "--nthreads", "1", "--no-dashboard"))  # fmt: skip
        end = time.monotonic() + 60
        while not (place / "scheduler.json").is_file() and time.monotonic() < end:
            time.sleep(0.1)
        address = pd.read_json(place / "scheduler.json", typ="series")["address"]
        run(["study", "generate", str(copy.folder), "--scheduler", address])
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert files_of(copy) == made


def test_measuring_makes_videos_of_the_study_and_no_more_than_asked(place, stated, made, monkeypatch):
    from analysis.studies.measure_steps import make_some

    monkeypatch.setattr("analysis.studies.measure_steps.default_executor", ThreadPoolExecutor)
    copy = copy_of(stated, place / "measured")
    with copy.inside():
        for _ in range(2):  # the second time all is there
            make_some(copy.parameters(), 1)
            found = files_of(copy)
            assert len(found) == 3 and all(made[key] == video for key, video in found.items())
        assert run(["study", "plan", "."]).count("11 to make") == 3
        assert "11 missing" in run(["study", "merge", "."], expected=1)
        with pytest.raises(ValueError, match="--measure is 0"):
            make_some(copy.parameters(), 0)
        run(["study", "set", ".", "wan2.1", "--steps", "1"])  # in no step of which AlignVid's early window is
        with pytest.raises(
            ValueError, match=r"wan2.1: sample_0, alignvid-wan could not be made: .*has none of the 1 steps"
        ):
            make_some(copy.parameters(), 12)


# The page's numbers ---------------------------------------------------------------------------------------------------
def test_the_costs_of_the_page_are_computed_from_the_seconds_that_it_states():
    alignvid = {"framepack": 1.0, "framepack-f1": 1.0, "wan2.1": 9.19}
    dymos = {"wan2.2-14b": 20.8, "wan2.1-14b": 18.4, "hunyuanvideo-1.5": 9.72, "cogvideox-5b": 4.64}
    assert cost_page(costs_of_table("alignvid/2", alignvid)) in PAGE
    assert cost_page(costs_of_table("dymos/1", dymos)) in PAGE
    published = pd.read_csv(ROOT / "papers/published.csv", dtype=str)
    rows = published[
        (published["paper"] == "dymos") & (published["table"] == "table5") & (published["row"] == "Baseline")
    ]
    for seconds, backbone in zip(dymos.values(), load_presets()["dymos"].backbones.values(), strict=True):
        videos = float(rows["value"].iloc[list(dymos.values()).index(seconds)])
        assert seconds == float(f"{videos / backbone.settings['steps'].value:.3g}")
    assert alignvid["wan2.1"] == pytest.approx(735 / 40 / 2, abs=0.005)


def test_the_costs_are_rows_times_samples_times_steps():
    wan = costs_of_table("alignvid/2", {"wan2.1": 9.0})[-1]
    assert (wan.videos, wan.steps, wan.settings) == (2 * 367, 40, ("none", "alignvid-wan"))
    assert wan.hours == pytest.approx(734 * 40 * 9 / 3600)
    framepack = costs_of_table("alignvid/2")[0]
    assert framepack.steps == 125 and framepack.hours is None  # 25 steps in each of five sections
    assert all(c.unknown and c.gigabytes is None for c in costs_of_table("focal_guidance/1"))
    with pytest.raises(ValueError, match="has no backbone 'wan'"):
        costs_of_table("alignvid/2", {"wan": 1.0})
