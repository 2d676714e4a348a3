"""What is unchanged is not made again, and what has changed is: videos by their keys, tables by what they were made from."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from analysis import __main__ as cli
from analysis.study import made_from
from analysis.study.cells import expand
from analysis.study.files import write_table
from analysis.study.parameters import load_parameters
from analysis.study.results_layout import runs_folder, sweep_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two sweeps of the Wan model and one of the CogVideoX model, with files in the place of videos."""
    monkeypatch.chdir(tmp_path)
    Path("testbed").mkdir()
    for name in ("benchmark", "checkpoints"):
        Path("testbed", name).symlink_to(ROOT / "testbed" / name)
    parameters = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    grid = {"samples": 1, "seeds": [0], "guidance_scale": [1.0]}
    parameters["sweeps"] = {
        "plain": grid | {"backbone": "wan-i2v"},
        "steered": grid | {"backbone": "wan-i2v", "methods": ["dymos-1"]},
        "cogvideox-plain": grid | {"backbone": "cogvideox-i2v"},
    }
    with Path("params.yaml").open("w") as file:
        YAML(pure=True).dump(parameters, file)
    found = load_parameters()
    for sweep in found.sweeps:
        folder = runs_folder(found, sweep)
        folder.mkdir(parents=True)
        (folder / "manifest.csv").write_text("key,status\n")
        (folder / f"{expand(found, sweep)[0].key}.mkv").write_bytes(b"a video")
    return found


@pytest.fixture
def scored(world, monkeypatch):
    """The names of the sweeps that are scored, in order."""
    names = []

    def score(parameters, sweep, executor):
        names.append(sweep)
        table = pd.DataFrame({"adherence": [1.0], "macro": [1.0]})
        write_table(table, sweep_folder(parameters, sweep) / "scores.csv")
        return table

    monkeypatch.setattr("analysis.scoring.score.score", score)
    cli.score(lineage="wan")
    assert names == ["plain", "steered"]
    names.clear()
    return names


def test_tables_of_unchanged_videos_are_kept(world, scored):
    cli.score(lineage="wan")
    assert scored == []
    cli.score()
    assert scored == ["cogvideox-plain"]


@pytest.mark.parametrize(
    "change",
    [
        lambda runs, tables: next(runs.glob("*.mkv")).write_bytes(b"another video"),
        lambda runs, tables: next(runs.glob("*.mkv")).unlink(),
        lambda runs, tables: (runs / "manifest.csv").write_text("key,status\nanother,ok\n"),
        lambda runs, tables: (tables / "scores.csv").write_text("adherence,macro\n0,0\n"),
        lambda runs, tables: (tables / "scores.csv").unlink(),
    ],
    ids=["video changed", "video lost", "manifest changed", "table of another commit", "table lost"],
)
def test_what_has_changed_is_scored_again_and_nothing_else(world, scored, change):
    change(runs_folder(world, "steered"), sweep_folder(world, "steered"))
    cli.score()
    assert scored == ["steered", "cogvideox-plain"]


def test_changed_questions_and_scoring_code_count(world, scored, monkeypatch):
    plain = made_from.of_scores(world, "plain")
    assert made_from.of_scores(world, "plain") == plain
    monkeypatch.setattr(made_from, "scoring_code", lambda **_: {"score_video.py": "changed"})
    assert made_from.of_scores(world, "plain") != plain


def test_scores_hang_on_the_code_that_scores_a_video():
    code = made_from.scoring_code(recorded=True, strips=True)
    assert {"analysis/scoring/score_video.py", "analysis/scoring/optical_flow.py", "analysis/study/video_files.py",
            "analysis/attention/recording_summaries.py", "testbed/oracle.py", "testbed/world.py"} <= set(code)  # fmt: skip
    few = made_from.scoring_code(recorded=False, strips=False)
    assert not {"analysis/scoring/score.py", "analysis/attention/recording_summaries.py"} & set(few)
    assert not [name for name in code if "training_curve" in name or "report" in name or "study/parameters" in name]


def test_videos_follow_their_keys_and_may_not_be_lost(world, monkeypatch):
    before = made_from.of_videos(world, "steered")
    settings = {"dymos-1": [world.methods["dymos-1"][0] | {"gamma": 1.5}]}
    other = world.model_copy(update={"methods": world.methods | settings})
    assert made_from.of_videos(other, "steered") != before
    assert made_from.of_videos(other, "plain") == made_from.of_videos(world, "plain")
    next(runs_folder(world, "steered").glob("*.mkv")).unlink()
    assert made_from.of_videos(world, "steered") != before


def test_what_is_unchanged_needs_neither_torch_nor_pandas(world, scored):
    for sweep in world.sweeps:
        made_from.note(cli.MADE / "videos" / runs_folder(world, sweep), made_from.of_videos(world, sweep))
    code = (
        "import sys, runpy\n"
        "sys.argv = ['analysis', *sys.argv[1:]]\n"
        "try:\n    runpy.run_module('analysis', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'torch', 'pandas', 'cv2', 'diffusers'} & set(sys.modules)))"
    )
    for command in ("generate", "score"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, "--lineage", "wan"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("nothing to") and done.stdout.endswith("[]\n")
