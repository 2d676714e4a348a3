"""Programs of other environments, run with stand-ins for their packages, and the files that they write elsewhere."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from commands import finish, start
from PIL import Image
from tiny_scorers import moving, video_of

from analysis.scorers.evaluate import Settings, evaluate
from analysis.scorers.manifest import read_manifest
from analysis.scorers.official_results import import_results
from analysis.scorers.program import FOLDER, load_program, shipped
from analysis.scorers.registry import check, make_scorer

PROGRAMS = ("musiq", "vbench", "vbench_i2v", "videoscore", "videoscore2", "viclip", "visionreward")


def mp4(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def manifest(tmp_path):
    """Two mp4s, one with a prompt that has quotes, and an mkv that VBench cannot read."""
    for i in range(2):
        mp4(tmp_path / f"v{i}.mp4", moving(seed=i))
        Image.fromarray(moving(seed=i)[0]).save(tmp_path / f"r{i}.png")
    video_of(tmp_path, moving(seed=2), name="v2.mkv")
    Image.fromarray(moving(seed=2)[0]).save(tmp_path / "r2.png")
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "image", "prompt", "id"))
        for i, suffix in enumerate(("mp4", "mp4", "mkv")):
            writer.writerow((f"v{i}.{suffix}", f"r{i}.png", f'a "cat", {i}', f"sample_{i}"))
    return tmp_path / "manifest.csv"


def standin(tmp_path, monkeypatch, variable, **modules):
    """A Python that finds modules with these sources, named by an environment variable."""
    folder = tmp_path / "packages"
    for name, source in modules.items():
        package = folder / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(source)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv(variable, str(script))


def table(manifest, name, tmp_path):
    lines = evaluate(read_manifest(manifest)[0], [name], Settings(tmp_path / "cache"), workers=1)
    return {(line[0], line[3]): line[4] if line[5] == "ok" else (line[5], line[6]) for line in lines}


TORCH = "class no_grad:\n  __enter__ = __exit__ = lambda self, *a: None\nclass cuda:\n  is_available = staticmethod(lambda: False)\ndevice = str\nmanual_seed = print\n"
VBENCH = """
import json, os
class VBench:
    def __init__(self, device, info, out):
        self.out = out
        assert os.path.dirname(info) == os.path.dirname(__file__)
    def evaluate(self, videos_path, name, dimension_list, mode, prompt_list=(), custom_image_folder=None):
        assert mode == "custom_input"
        print("VBench says much")
        found = {}
        for dimension in dimension_list:
            rows = []
            for file in sorted(os.listdir(videos_path)):
                size = os.path.getsize(os.path.join(videos_path, file))
                value = size % 97 if dimension == "imaging_quality" else size % 2 == 0 if dimension == "dynamic_degree" else 0.5
                if dimension == "overall_consistency":
                    value = len(prompt_list[file]) / 100
                if dimension.startswith("i2v"):
                    value = os.path.exists(os.path.join(custom_image_folder, file[:-4] + ".png")) * 0.9
                rows.append({"video_path": os.path.join(videos_path, file), "video_results": value})
            found[dimension] = [0.0, rows]
        json.dump(found, open(os.path.join(self.out, name + "_eval_results.json"), "w"))
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_says_what_it_needs_and_ships_its_environment(name, monkeypatch):
    program = make_scorer(name)
    check(program)
    variables = set(re.findall(r"env:(\w+)", " ".join(program.command)))
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    why = program.available()
    assert why and any(v in why for v in variables) and ".txt" in why
    assert program.requires.licence and program.requires.weights
    environment = next(FOLDER / f for f in program.files if f.endswith(".txt"))
    assert [line for line in environment.read_text().splitlines() if line and not line.startswith("#")]
    assert all(m.published or m.imitates or name == "videoscore2" for m in program.metrics.values())


def test_every_program_of_the_folder_is_tested_here():
    assert set(PROGRAMS) == set(shipped())
    named = {f for name in PROGRAMS for f in load_program(shipped()[name]).files}
    assert {p.name for p in FOLDER.iterdir() if p.suffix in (".py", ".txt")} == named


def test_noncommercial_weights_are_said_to_be_and_are_no_dependency():
    for name, word in {"vbench": "BY-NC", "viclip": "BY-NC-SA", "musiq": "Noncommercial"}.items():
        assert word in make_scorer(name).requires.licence
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert not re.search(r"pyiqa|vbench|dreamsim|viclip|cotracker", project.replace("programs/", ""))


def test_vbench_scores_what_it_can_read_and_says_what_it_cannot(manifest, tmp_path, monkeypatch):
    standin(tmp_path, monkeypatch, "VBENCH_PYTHON", torch=TORCH, vbench=VBENCH)
    found = table(manifest, "vbench", tmp_path)
    size = (tmp_path / "v1.mp4").stat().st_size
    assert found["v1.mp4", "vbench_imaging_quality"] == repr(round(size % 97 / 100, 6))
    assert found["v1.mp4", "vbench_dynamic_degree"] == ("1.0" if size % 2 == 0 else "0.0")
    assert found["v2.mkv", "vbench_dynamic_degree"] == ("failed", "VBench reads mp4 and gif, not .mkv")
    assert len(found) == 3 * 7


def test_viclip_gets_the_prompts_and_vbench_i2v_the_references(manifest, tmp_path, monkeypatch):
    i2v = "from vbench import VBench as VBenchI2V"
    standin(tmp_path, monkeypatch, "VBENCH_PYTHON", torch=TORCH, vbench=VBENCH, vbench2_beta_i2v=i2v)
    assert table(manifest, "viclip", tmp_path)["v0.mp4", "vbench_overall_consistency"] == "0.1"  # a "cat", 0
    found = table(manifest, "vbench_i2v", tmp_path)
    assert found["v0.mp4", "vbench_i2v_subject"] == found["v1.mp4", "vbench_i2v_background"] == "0.9"


VS2 = '''
class AutoModelForVision2Seq:
    loads = 0
    @classmethod
    def from_pretrained(cls, name, **more):
        cls.loads += 1
        return cls
class AutoProcessor(AutoModelForVision2Seq):
    loads = 0
counted = AutoModelForVision2Seq
def main(MODEL_NAME, video_path, t2v_prompt):
    AutoModelForVision2Seq.from_pretrained(MODEL_NAME, trust_remote_code=True)
    AutoProcessor.from_pretrained(MODEL_NAME, trust_remote_code=True)
    print("[Raw Model Output]\\n Visual Quality: 1")
    if video_path.endswith("v1.mp4"):
        raise RuntimeError("out of memory")
    print(f"""
====== Inference Result ======
Video Path: {video_path}
Visual Quality: {3.25 if "cat" in t2v_prompt else 0}
Text-to-Video Alignment: None
Physical Consistency: {counted.loads}
==============================
""")
'''


def test_videoscore2_runs_the_released_script_with_one_model(manifest, tmp_path, monkeypatch):
    standin(tmp_path, monkeypatch, "VIDEOSCORE2_PYTHON", torch=TORCH)
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/vs2_inference.py").write_text(VS2)
    monkeypatch.setenv("VIDEOSCORE2_REPO", str(tmp_path / "repository"))
    found = table(manifest, "videoscore2", tmp_path)
    assert found["v0.mp4", "videoscore2_visual_quality"] == "3.25"
    assert found["v0.mp4", "videoscore2_text_alignment"][0] == "undefined"
    assert found["v2.mkv", "videoscore2_physical_consistency"] == "1.0"  # loaded once for all
    assert found["v1.mp4", "videoscore2_visual_quality"] == ("failed", "RuntimeError: out of memory")


def test_visionreward_runs_the_released_script_in_its_folder(manifest, tmp_path, monkeypatch):
    standin(tmp_path, monkeypatch, "VISIONREWARD_PYTHON")
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/weight.json").write_text("0.25")
    (tmp_path / "repository/inference-video.py").write_text(
        "weight = float(open('weight.json').read())\ndef score(path, prompt):\n    return weight * len(prompt) / len(open(path, 'rb').read(1))\n"
    )
    monkeypatch.setenv("VISIONREWARD_REPO", str(tmp_path / "repository"))
    assert table(manifest, "visionreward", tmp_path)["v1.mp4", "visionreward"] == "2.5"


PYIQA = """
class Metric:
    def __call__(self, frame):
        assert 0 <= float(frame.min()) and float(frame.max()) <= 1 and frame.shape[0] == 1
        return float(max(frame.shape[-2:]))
create_metric = lambda name, device: Metric() if name == "musiq-spaq" else None
"""


def test_musiq_averages_frames_of_at_most_512_pixels(tmp_path, monkeypatch):
    standin(tmp_path, monkeypatch, "MUSIQ_PYTHON", pyiqa=PYIQA)
    mp4(tmp_path / "small.mp4", moving(frames=3))
    mp4(tmp_path / "large.mp4", moving(frames=2, height=96, width=640))
    (tmp_path / "manifest.csv").write_text("video\nsmall.mp4\nlarge.mp4\n")
    found = table(tmp_path / "manifest.csv", "musiq", tmp_path)
    assert found["small.mp4", "imaging_quality_musiq_pyiqa"] == "0.64"
    assert found["large.mp4", "imaging_quality_musiq_pyiqa"] == "5.12"


# Result files --------------------------------------------------------------------------------------------------------------


def written(path, data):
    path.write_text(json.dumps(data))
    return path


def vbench_file(path, **change):
    rows = [{"video_path": f"/elsewhere/v{i}.mp4", "video_results": v} for i, v in enumerate((62.5, 40.0))]
    moves = [{"video_path": f"/elsewhere/v{i}.mp4", "video_results": v} for i, v in enumerate((True, False))]
    return written(path, {"imaging_quality": [0.5125, rows], "dynamic_degree": [0.5, moves]} | change)


def test_vbenchs_file_becomes_rows_of_the_manifest(manifest, tmp_path):
    rows = read_manifest(manifest)[0]
    lines = import_results([vbench_file(tmp_path / "r.json")], "vbench", "0.1.5", rows)
    assert ("v0.mp4", "vbench_import", "0.1.5", "vbench_imaging_quality", "0.625", "ok", "") in lines
    assert ("v1.mp4", "vbench_import", "0.1.5", "vbench_dynamic_degree", "0.0", "ok", "") in lines
    assert [line[5] for line in lines if line[0] == "v2.mkv"] == ["missing", "missing"]
    assert import_results([tmp_path / "r.json"], "vbench", "0.1.5")[0][0] == "/elsewhere/v0.mp4"


def test_vbenchs_file_that_is_not_whole_is_refused(manifest, tmp_path):
    rows = read_manifest(manifest)[0]
    changed = vbench_file(tmp_path / "r.json", dynamic_degree=[0.9, [{"video_path": "v0.mp4", "video_results": True}]])
    with pytest.raises(ValueError, match=r"dynamic_degree states a mean of 0\.9"):
        import_results([changed], "vbench", "0.1.5", rows)
    other = vbench_file(tmp_path / "r.json", dynamic_degree=[1.0, [{"video_path": "v9.mp4", "video_results": True}]])
    with pytest.raises(ValueError, match="no video 'v9'"):
        import_results([other], "vbench", "0.1.5", rows)
    whole = vbench_file(tmp_path / "r.json")
    with pytest.raises(ValueError, match="twice"):
        import_results([whole, whole], "vbench", "0.1.5", rows)
    for kind in ("videoscore2", "omiti2v"):
        with pytest.raises(ValueError, match=f"no result of {kind}"):
            import_results([whole], kind, "1", rows)
    with pytest.raises(ValueError, match="unknown kind 'hps'"):
        import_results([whole], "hps", "1")
    with pytest.raises(ValueError, match="there is no file"):
        import_results([tmp_path / "gone.json"], "vbench", "1")


def test_videoscore2s_file(manifest, tmp_path):
    data = [
        {"video_name": f"v{i}", "v_score_model": 4, "t_score_model": None, "p_score_model": 2, "output": ""}
        for i in (0, 1)
    ]
    lines = import_results([written(tmp_path / "r.json", data)], "videoscore2", "e6abe26", read_manifest(manifest)[0])
    found = {(line[0], line[3]): (line[4], line[5]) for line in lines}
    assert found["v0.mp4", "videoscore2_visual_quality"] == ("4.0", "ok")
    assert found["v1.mp4", "videoscore2_text_alignment"] == ("", "undefined")


def test_videoscores_file(manifest, tmp_path):
    """As benchmark/eval_videoscore.py writes it, with two of the lines that its repository once had."""
    data = [
        {"id": "v0", "text": "crowd surfing", "ref": "[2, 2, 3, 3, 3]", "ans": "[1.898, 1.5, 2.953, 2.438, 1.648]"},
        {"id": "sample_1", "text": "a rabbit hole", "ref": "[1, 1, 3, 1, 1]", "ans": "[0.977, 1.289, 2.969, 2.031, 0.922]"},
    ]  # fmt: skip
    lines = import_results([written(tmp_path / "r.json", data)], "videoscore", "8e44973", read_manifest(manifest)[0])
    found = {(line[0], line[3]): (line[4], line[5]) for line in lines}
    assert found["v0.mp4", "videoscore_dynamic_degree"] == ("2.953", "ok")
    assert found["v1.mp4", "videoscore_factual_consistency"] == ("0.922", "ok")  # below the scale's 1
    assert found["v2.mkv", "videoscore_visual_quality"] == ("", "missing")
    assert {m for _, m in found} == set(make_scorer("videoscore").metrics)
    for wrong in ("[1.0, 2.0]", "nothing", None):
        with pytest.raises(ValueError, match=r"videoscore|VideoScore gives 5"):
            import_results([written(tmp_path / "r.json", [data[0] | {"ans": wrong}])], "videoscore", "8e44973")


def test_the_released_judges_file_keeps_the_answers(manifest, tmp_path):
    questions = {
        "q1": {
            "question": "?",
            "expected_answer": "Yes",
            "model_answer": "yes",
            "correct": False,
            "response": "Yes.",
            "category": "a",
        },
        "q2": {
            "question": "?",
            "expected_answer": "no",
            "model_answer": "unknown",
            "correct": False,
            "response": "Hm.",
            "category": "a",
        },
    }
    data = {"detailed_results": [
        {"id": "sample_0", "video_path": "/x/sample_0.mp4", "questions": questions, "accuracy": 0.0},
        {"id": "sample_1", "video_path": "/x/sample_1.mp4", "error": "Video file not found", "questions": {}, "accuracy": 0},
    ]}  # fmt: skip
    lines = import_results([written(tmp_path / "r.json", data)], "omiti2v", "9f3e48d", read_manifest(manifest)[0])
    found = {(line[0], line[3]): (line[4], line[5]) for line in lines}
    assert found["v0.mp4", "answer/q1"] == ("1.0", "ok") and found["v0.mp4", "answer/q2"] == ("", "undefined")
    assert found["v0.mp4", "macro"] == ("0.5", "ok") and found["v0.mp4", "adherence"] == ("0.0", "ok")
    assert found["v1.mp4", "macro"] == ("", "missing")  # the released script leaves it out of its mean
    assert found["v2.mkv", "macro"] == ("", "missing")


def test_tables_of_programs_that_only_print(manifest, tmp_path):
    (tmp_path / "visionreward.csv").write_text("video,value\nv0.mp4,0.5\nv1.mp4,\n")
    lines = import_results([tmp_path / "visionreward.csv"], "csv", "2db9d4f", read_manifest(manifest)[0])
    assert (
        lines[0] == ("v0.mp4", "csv_import", "2db9d4f", "visionreward", "0.5", "ok", "") and lines[1][5] == "undefined"
    )
    (tmp_path / "v0.txt").write_text("0001.png\t40.0\n0002.png\t60.0\n")
    assert import_results([tmp_path / "v0.txt"], "pyiqa", "0.1.16")[0][:5] == (
        "v0", "pyiqa_import", "0.1.16", "imaging_quality_musiq_pyiqa", "0.5",
    )  # fmt: skip


def test_names_that_cannot_be_told_apart_are_refused(manifest, tmp_path):
    shutil.copy(tmp_path / "v0.mp4", tmp_path / "v0.webm")
    (tmp_path / "two.csv").write_text("video\nv0.mp4\nv0.webm\n")
    with pytest.raises(ValueError, match="told apart"):
        import_results([vbench_file(tmp_path / "r.json")], "vbench", "0.1.5", read_manifest(tmp_path / "two.csv")[0])


def test_the_command(manifest, tmp_path):
    vbench_file(tmp_path / "r.json")
    command = ["-m", "analysis", "import-scores", str(tmp_path / "r.json"), "--kind", "vbench", "--version", "0.1.5"]
    status, out, error = finish(start(".", *command, "--manifest", str(manifest), "-o", str(tmp_path / "scores.csv")))
    assert status == 0 and "3 videos, 6 rows" in out, error
    assert (tmp_path / "scores.csv").read_text().splitlines()[0] == "video,scorer,version,metric,value,status,reason"
