"""Studies: a folder from a paper's table, its settings stated, checked, planned and exported; no model runs here."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import call
from PIL import Image

from analysis.studies.check_study import check_study, provisional
from analysis.studies.export_videos import export, planned
from analysis.studies.new_study import new_study
from analysis.studies.plan_study import LOSSLESS, plan_lines, plan_study, read_seconds, sections_of
from analysis.studies.set_values import read_methods, read_settings, set_values
from analysis.studies.settings import get, put, setting_of
from analysis.studies.status_study import study_status
from analysis.studies.study import find_study, unstated
from analysis.study.parameters import load_parameters
from analysis.study.video_files import read_video, write_video
from analysis.videos.records import Record, sha256_of, sweep_states, write_record

ROOT = Path(__file__).parent.parent
OWN = "--scheduler own --flow-shift own --vae-dtype own --fit own --dtype float32 --width 64 --height 64 --frames 17 --fps 8"
SMALL = f"--checkpoint {ROOT}/testbed/checkpoints/wan-i2v {OWN} --steps 10".split()


def small(folder, samples=3):
    """A study of AlignVid's Wan2.1 rows on the testbed's model and benchmark, with every setting stated."""
    study = new_study(folder, "alignvid/2", ROOT / "testbed/benchmark", backbones=["Wan2.1"], samples=samples)
    assert set_values(study, "wan2.1", read_settings(SMALL)) == []
    set_values(study, "alignvid-wan", read_settings(["--blocks", "all"]))
    return study


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    return small(tmp_path_factory.mktemp("s") / "omit")


@pytest.fixture
def study(stated, tmp_path):
    shutil.copytree(stated.folder, tmp_path / "omit", symlinks=True)
    return find_study(str(tmp_path / "omit"))


def pretend(study, chosen=lambda i: True, seconds=5.0):
    """Videos of noise in the place of those that a study would make; the states of its cells."""
    rng = np.random.default_rng(0)
    with study.inside():
        for i, state in enumerate(sweep_states(study.parameters(), "wan2.1")):
            if chosen(i):
                write_video(state.path, rng.integers(0, 255, (17, 64, 64, 1), dtype=np.uint8).repeat(3, -1), 8)
                write_record(state.path, Record("ok", seconds=seconds, frames=17, height=64, width=64, device="H100",
                             bytes=state.path.stat().st_size, sha256=sha256_of(state.path)))  # fmt: skip
        return sweep_states(study.parameters(), "wan2.1")


# new and set ----------------------------------------------------------------------------------------------------------
def test_a_new_study_has_the_papers_settings_and_says_what_is_not_known(tmp_path):
    study = new_study(tmp_path / "omit", "alignvid/2", ROOT / "testbed/benchmark")
    assert sorted(os.listdir(study.folder)) == ["benchmark", "params.yaml", "results", "runs", "study.yaml"]
    found = study.raw()
    assert list(found["backbones"]) == ["framepack", "framepack-f1", "wan2.1"]
    assert found["backbones"]["framepack-f1"]["call"]["sampling_type"] == "vanilla"
    assert found["sweeps"]["wan2.1"]["guidance_scale"] == [1.0] and found["sweeps"]["wan2.1"]["seeds"] == [0]
    asked = {setting_of(path) for path in unstated(found)}
    wan = {("wan2.1", key) for key in ("scheduler", "dtype", "vae_dtype")}
    assert {a for a in asked if a[0] == "wan2.1"} == wan
    assert ("framepack", "checkpoint") in asked
    assert "25 # released_settings, FramePack, steps" in study.parameters_file.read_text()
    with (
        study.inside(),
        pytest.raises(ValueError, match=r"11 settings .* have to be stated: backbones.framepack.checkpoint"),
    ):
        study.parameters()
    assert study.of_table.rows["Wan2.1 + AlignVid"].against == "Wan2.1"


def test_rows_that_nobody_can_run_say_why(tmp_path):
    dymos = new_study(tmp_path / "d", "dymos/1", ROOT / "testbed/benchmark", backbones=["Wan 2.2-14B"])
    assert "nothing its filter" in dymos.of_table.rows["Wan 2.2-14B | ALG"].missing
    assert "left out" in dymos.of_table.rows["CogVideoX-5B | Ours"].missing
    focal = new_study(tmp_path / "f", "focal_guidance/1", ROOT / "testbed/benchmark")
    assert "no pipeline of it" in focal.of_table.rows["Open-Sora Plan v1.3"].missing
    assert focal.of_table.rows["LTX-Video"].sweep == "ltx-video"
    assert "not released" in focal.of_table.rows["FG+Wan2.1-I2V"].missing
    assert focal.raw()["sweeps"]["wan2.1-i2v"]["seeds"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"table": "alignvid/9"}, "no table 'alignvid/9' with presets"),
        ({"backbones": ["Wan"]}, "has no backbone 'Wan'"),
        ({"benchmark": ROOT / "analysis"}, "holds no benchmark that is known|no prompts.csv"),
        ({"samples": 1000}, "1000 samples"),
    ],
)
def test_a_study_that_cannot_be_made_leaves_nothing_behind(tmp_path, given, said):
    wanted = {"table": "alignvid/2", "benchmark": ROOT / "testbed/benchmark"} | given
    with pytest.raises(ValueError, match=said):
        new_study(tmp_path / "x", wanted.pop("table"), wanted.pop("benchmark"), **wanted)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("table", "fixture"),
    [
        ("alignvid/2", "omiti2v"),
        ("dymos/1", "vbench_i2v"),
        ("dymos/1", "pe_video"),
        ("focal_guidance/1", "focal_guidance"),
    ],
)
def test_every_benchmark_can_be_a_studys(tmp_path, table, fixture):
    study = new_study(tmp_path / "s", table, ROOT / "benchmarks/fixtures" / fixture)
    count = 3 if fixture == "pe_video" else 5
    assert all(s["samples"] == count for s in study.raw()["sweeps"].values())
    found = [str(f) for f in check_study(study)]
    assert not any(f.startswith("blocks benchmark") for f in found), found
    assert sum("has to be stated" in f for f in found) == len(unstated(study.raw()))


def test_an_existing_folder_is_not_touched(study):
    with pytest.raises(ValueError, match="is there already"):
        new_study(study.folder, "alignvid/2", ROOT / "testbed/benchmark")


def test_settings_are_written_where_the_schema_has_them(study):
    set_values(study, "wan2.1", read_settings(
        ["--checkpoint", "Wan-AI/x@abc", "--vae-dtype=float32", "--flow-shift", "4", "--scheduler", "UniPCMultistepScheduler", "--fit", "bucket", "--offload", "model", "--guidance-scale", "5", "--seeds", "2", "--call.max_sequence_length", "24"]))  # fmt: skip
    found = study.raw()
    own = found["backbones"]["wan2.1"]
    assert (own["checkpoint"], own["revision"]) == ("Wan-AI/x", "abc")
    assert own["load"] == {"dtype": {"vae": "float32"}, "offload": "model",
                           "scheduler": {"name": "UniPCMultistepScheduler", "arguments": {"flow_shift": 4}}}  # fmt: skip
    assert own["fit"] == {"policy": "bucket"} and own["call"] == {"max_sequence_length": 24}
    assert found["sweeps"]["wan2.1"]["guidance_scale"] == [5] and found["sweeps"]["wan2.1"]["seeds"] == [0, 1]
    set_values(study, "wan2.1", read_settings(["--scheduler", "FlowMatchEulerDiscreteScheduler"]))
    assert study.raw()["backbones"]["wan2.1"]["load"]["scheduler"]["arguments"] == {"shift": 4}
    assert "stated with `study set`" in study.parameters_file.read_text()
    assert get(study.raw(), "wan2.1", "flow_shift") == 4


def test_the_shift_is_called_as_in_the_checkpoints_scheduler(tmp_path):
    for kind, name in (("FlowMatchEulerDiscreteScheduler", "shift"), ("UniPCMultistepScheduler", "flow_shift")):
        folder = tmp_path / kind / "scheduler"
        folder.mkdir(parents=True)
        (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": kind, name: 1.0}))
        document = {"backbones": {"a": {}}, "sweeps": {}}
        put(document, "a", "flow_shift", 3.0, tmp_path)
        put(document, "a", "checkpoint", kind, tmp_path)
        assert document["backbones"]["a"]["load"] == {"scheduler": {"arguments": {name: 3.0}}}


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("wan", ["--steps", "4"], "no backbone or method 'wan'"),
        ("wan2.1", ["--step", "4"], "unknown setting 'step'"),
        ("wan2.1", ["--steps", "0"], "greater than or equal to 1"),
        ("wan2.1", ["--steps", "own"], "cannot be left to the pipeline"),
        ("wan2.1", ["--fit", "stretch"], "fit"),
        ("wan2.1", ["--steps"], "needs a value"),
        ("wan2.1", ["steps"], "given as --KEY VALUE"),
        ("wan2.1", [], "nothing to set"),
        ("alignvid-wan", ["--gamma", "-1"], "gamma"),
        ("none", ["--gamma", "1"], "has 0 methods"),
    ],
)
def test_what_cannot_be_set_is_refused_and_the_file_stays(study, name, words, said):
    before = study.parameters_file.read_text()
    with pytest.raises(ValueError, match=said):
        set_values(study, name, read_settings(words))
    assert study.parameters_file.read_text() == before


def test_methods_are_read_from_the_command_line():
    assert read_methods(['a={"method": "dymos", "gamma": 1.0}']) == {"a": [{"method": "dymos", "gamma": 1.0}]}
    for bad in ("a", 'none={"method": "dymos", "gamma": 1.0}', "a=3", "a={", 'a={"method": "dymos"}'):
        with pytest.raises((ValueError, TypeError)):
            read_methods([bad])


def test_a_backbone_of_ones_own_stands_beside_the_papers(study):
    from analysis.studies.add_backbone import add_backbone

    method = {"mine": [{"method": "alignvid", "gamma": 1.2, "blocks": "all"}]}
    settings = read_settings(SMALL) | {"guidance_scale": 1.0, "seeds": 1}
    before = study.parameters_file.read_text()
    with pytest.raises(ValueError, match="unknown setting"):
        add_backbone(study, "Mine", "WanImageToVideoPipeline", method, {"colour": 1})
    with pytest.raises(ValueError, match="is no name for another backbone"):
        add_backbone(study, "Wan2.1", "WanImageToVideoPipeline", method, settings)
    assert study.parameters_file.read_text() == before
    assert add_backbone(study, "Mine", "WanImageToVideoPipeline", method, settings) == [
        "backbones.mine.negative_prompt"
    ]
    set_values(study, "mine", {"negative_prompt": ""})
    with find_study(str(study.folder)).inside():
        assert list(study.parameters().sweeps) == ["wan2.1", "mine"]
    assert find_study(str(study.folder)).of_table.rows["Mine + mine"].against == "Mine"


def test_the_root_is_a_study():
    root = find_study(str(ROOT))
    assert root.of_table is None and unstated(root.raw()) == []
    assert provisional(root.raw(), []) == load_parameters(ROOT / "params.yaml")
    with root.inside():
        costs = plan_study(root.parameters(), {"wan-i2v": 0.03})
        assert {c.sweep for c in costs} == set(root.parameters().sweeps)
        assert all(c.steps == 10 for c in costs)
        assert len(study_status(root.parameters())) == len(costs)


def test_what_may_be_null_by_the_schema_need_not_be_stated():
    found = {
        "backbones": {"a": {"revision": None, "fit": None, "load": {"dtype": {"vae": None}}}},
        "sweeps": {"a": {"record": None}},
    }
    assert unstated(found) == ["backbones.a.fit", "backbones.a.load.dtype.vae"]
    assert [setting_of(path) for path in unstated(found)] == [("a", "fit"), ("a", "vae_dtype")]


def test_unknown_studies_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no study 'x': there are none in studies/"):
        find_study("x")


# check ----------------------------------------------------------------------------------------------------------------
def said_of(study, **more):
    return [str(f) for f in check_study(study, **more)]


def test_a_sound_study_is_not_blocked(study):
    found = said_of(study, scorers=["temporal_flickering"])
    assert not [f for f in found if f.startswith("blocks")], found
    assert any("467 samples with 1868 questions" in f for f in found)
    assert any("the scorer can run" in f for f in found) and any("GB are free" in f for f in found)


def test_everything_that_is_wrong_is_found_at_once(tmp_path):
    benchmark = tmp_path / "bench"
    (benchmark / "addition").mkdir(parents=True)
    samples = []
    for i, size in enumerate([(64, 64), (90, 50), (50, 90)]):
        samples.append({"id": f"sample_{i}", "prompt": "a cat", "image-path": f"addition/{i}.png", "main-category": "addition",
                        "sub-category": "object", "domain": "x", "resolution": size,
                        "questions": [{"id": "q", "question": "Is it?", "expected_answer": "yes", "category": "c"}]})  # fmt: skip
        Image.new("RGB", size).save(benchmark / f"addition/{i}.png")
    (benchmark / "meta.json").write_text(json.dumps(samples))
    study = new_study(tmp_path / "s", "alignvid/2", benchmark, backbones=["Wan2.1", "FramePack"])
    (benchmark / "addition/0.png").write_bytes(b"broken")
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "testbed/checkpoints/wan-i2v", checkpoint)
    next((checkpoint / "transformer").glob("*.safetensors")).rename(checkpoint / "transformer/weights.bin")
    shutil.rmtree(checkpoint / "vae")
    set_values(study, "framepack", read_settings([*SMALL[2:], "--checkpoint", str(checkpoint)]))
    set_values(
        study, "wan2.1", read_settings([*SMALL, "--dtype", "float32", "--fit", "exact", "--steps", "3", "--seeds", "1"])
    )
    found = said_of(study, scorers=["nobody"])
    for words in (
        "0.png", "images do not fit: sample_1 is 90x50", "is a WanImageToVideoPipeline, the study says HunyuanVideoFramepack",
        "its part vae (AutoencoderKLWan) is missing", "transformer has no .safetensors file; weights.bin is pickled",
        "alignvid-wan: ", "unknown scorer 'nobody'", "3 samples; the benchmark has 367",
    ):  # fmt: skip
        assert any(words in f for f in found), (words, found)
    assert not any("wan-i2v is there, 0.00" in f for f in found)


def test_windows_without_a_step_and_blocks_that_are_not_there_are_found_before_loading(study):
    set_values(study, "wan2.1", read_settings(["--steps", "2"]))
    assert any("window 'early' has none of the 2 steps" in f for f in said_of(study))
    set_values(study, "wan2.1", read_settings(["--steps", "10"]))
    set_values(study, "alignvid-wan", read_settings(["--blocks", "wan2.1-i2v-14b"]))
    assert any("no block" in f for f in said_of(study))


@pytest.mark.parametrize("frames", [16, 18])
def test_lengths_that_the_model_does_not_make_are_found_before_loading(study, frames):
    set_values(study, "wan2.1", {"frames": frames})
    assert any(
        f"frames is {frames}; {frames} asked for come out as {(frames - 1) // 4 * 4 + 1}" in f for f in said_of(study)
    )


def test_checkpoints_that_are_not_here_are_named_with_the_way_to_get_them(study):
    set_values(study, "wan2.1", read_settings(["--checkpoint", "Wan-AI/nothing-of-the-kind@abc"]))
    assert any("hf download Wan-AI/nothing-of-the-kind --revision abc" in f for f in said_of(study))
    set_values(study, "wan2.1", read_settings(["--checkpoint", "/nowhere/at/all", "--revision", "own"]))
    assert any("/nowhere/at/all is not on this machine" in f for f in said_of(study))


# plan and status ------------------------------------------------------------------------------------------------------
def test_the_plan_is_cells_times_steps_times_seconds(study):
    with study.inside():
        (cost,) = plan_study(study.parameters(), {"wan2.1": 2.0})
        assert (cost.videos, cost.missing, cost.steps, cost.seconds) == (6, 6, 10, 2.0)
        assert cost.hours == pytest.approx(6 * 10 * 2 / 3600)
        assert cost.gigabytes == pytest.approx(6 * 17 * 64 * 64 * 3 * LOSSLESS / 1e9)
        assert "2 GPUs" in plan_lines([cost], 2)[-1] and f"{cost.hours / 2:.4g} hours on" in plan_lines([cost], 2)[-1]
        (unknown,) = plan_study(study.parameters())
        assert unknown.hours is None and "state --seconds-per-step" in plan_lines([unknown], 1)[-1]
        for bad in ({"wan": 1.0}, {"wan2.1": 0.0}, {"wan2.1": float("nan")}):
            with pytest.raises(ValueError):
                plan_study(study.parameters(), bad)
    pretend(study, lambda i: i < 2, seconds=30.0)
    with study.inside():
        (measured,) = plan_study(study.parameters())
        assert measured.missing == 4 and measured.seconds == pytest.approx(3.0) and "measured on 2" in measured.source
        made = [s for s in sweep_states(study.parameters(), "wan2.1") if s.state == "ok"]
        assert measured.gigabytes == pytest.approx(2 * sum(s.record.bytes for s in made) / 1e9)


def test_framepack_goes_through_its_steps_once_a_section(tmp_path):
    study = new_study(tmp_path / "f", "alignvid/2", ROOT / "testbed/benchmark", backbones=["FramePack"])
    backbone = provisional(study.raw(), unstated(study.raw())).backbones["framepack"]
    assert sections_of(backbone) == 5  # 165 frames are asked for, 33 at once; 5 x 36 + 1 = 181 come out
    assert sections_of(backbone.model_copy(update={"call": {}, "frames": 177})) == 6


def test_seconds_are_stated_for_all_or_for_one():
    assert read_seconds(["b=2", "1"], ["a", "b"]) == {"a": 1.0, "b": 2.0}
    with pytest.raises(ValueError, match="a number, or BACKBONE=number"):
        read_seconds(["fast"], ["a"])


def test_status_says_what_is_made_failed_missing_and_corrupt(study):
    states = pretend(study, lambda i: i < 4)
    with study.inside():
        states[0].path.write_bytes(b"")
        damaged = bytearray(states[1].path.read_bytes())
        damaged[len(damaged) // 2] ^= 255
        states[1].path.write_bytes(damaged)
        write_record(states[4].path, Record("failed", "OutOfMemoryError: no memory"))
        (quick,), (deep,) = study_status(study.parameters()), study_status(study.parameters(), deep=True)
    assert quick.counts == {"ok": 3, "failed": 1, "corrupt": 1, "missing": 1}
    assert deep.counts == {"ok": 2, "failed": 1, "corrupt": 2, "missing": 1} and not deep.whole
    assert any("1 failed: OutOfMemoryError: no memory" in line for line in deep.lines())
    assert "5 s a video" in deep.lines()[0]


def test_videos_are_exported_under_the_names_of_other_programs(study, tmp_path):
    states = pretend(study, lambda i: i < 5)
    to = tmp_path / "mp4"
    with study.inside():
        written, kept, missing = export(study.parameters(), to, "{method}/{id}.mp4", crf=0)
    assert (written, kept, len(missing)) == (5, 0, 1) and "missing" in missing[0]
    first = states[0]
    file = to / "none" / f"{first.cell.sample}.mp4"
    with study.inside():
        original = read_video(first.path).astype(int)
        found = read_video(file).astype(int)
        assert found.shape == original.shape  # grey, as 4:2:0 halves the resolution of colours
        assert np.abs(found.mean(-1) - original.mean(-1)).mean() < 2
        before = file.read_bytes()
        assert export(study.parameters(), to, "{method}/{id}.mp4", crf=0)[:2] == (0, 5)
        assert export(study.parameters(), to, "{method}/{id}.mp4", crf=30)[:2] == (5, 0)  # another quality is made anew
        assert len(file.read_bytes()) < len(before)
        assert export(study.parameters(), to, "{method}/{id}.mp4", crf=0)[0] == 5
        assert file.read_bytes() == before
        names = {e.name for e in planned(study.parameters(), "{method}/{prompt}-{index}.mp4")}
    assert f"none/{first.cell.prompt}-0.mp4" in names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("{method}/{name}.mp4", "has {name}; there are {backbone}"),
        ("{method}/{id}.webm", "has to end in .mp4"),
        ("{id}.mp4", "two videos would be called"),
        ("/{method}/{id}.mp4", "outside the folder"),
        ("{method}{id}" + "x" * 250 + ".mp4", "bytes; 255 are allowed"),
    ],
)
def test_names_that_no_file_can_have_are_refused_before_anything_is_written(study, tmp_path, names, said):
    with study.inside(), pytest.raises(ValueError, match=said.replace("{", r"\{")):
        export(study.parameters(), tmp_path / "mp4", names)
    assert not (tmp_path / "mp4").exists()


def test_the_commands_say_the_same_and_end_with_a_status(study):
    def run(*words):
        return call(study.folder, "study", *words)

    status, out, _ = run("status", ".")
    assert status == 1 and "wan2.1: 0 made, 6 missing" in out
    pretend(study)
    status, out, _ = run("status", ".", "--deep")
    assert status == 0 and "6 made" in out
    status, _, error = run("export", ".", "--to", "mp4", "--names", "{id}.mp4")
    assert status == 1 and error.startswith("error: two videos would be called")
    status, _, error = run("plan", ".", "--gpus", "0")
    assert status == 1 and "--gpus is 0" in error
