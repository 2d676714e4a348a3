"""The whole way from params.yaml to scores, with the real pipeline class and random weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from commands import call, finish, start
from diffusers import AutoencoderKLWan
from PIL import Image
from ruamel.yaml import YAML
from transformers import CLIPVisionModel

from analysis.__main__ import app
from analysis.study.files import host_name
from analysis.videos.records import read_record
from testbed.benchmark import write_benchmark
from testbed.command_line import run
from testbed.models import build_clip
from testbed.wan import (
    build_text_encoder,
    build_transformer,
    build_vae,
    image_to_video_from,
    image_to_video_pipeline,
)  # fmt: skip

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a benchmark, random weights and parameters: six samples, one denoising step."""
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    vae: AutoencoderKLWan = build_vae()
    vision = CLIPVisionModel(build_clip().config.vision_config)
    transformer = image_to_video_from(build_transformer(image_to_video=False))
    image_to_video_pipeline(vae, build_text_encoder(), transformer, vision).save_pretrained(folder / "model")
    write_benchmark(folder / "benchmark", 3)
    parameters = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    parameters["benchmark"] = {"folder": "benchmark", "seed": 3}
    backbone = parameters["backbones"]["wan-i2v"] | {"checkpoint": "model", "steps": 1}
    parameters["backbones"] = {"wan-i2v": backbone}
    sweep = {"backbone": "wan-i2v", "samples": 6, "seeds": [0], "guidance_scale": [1.0]}
    parameters["sweeps"], parameters["methods"] = {"small": sweep}, {"none": []}
    write_parameters(folder, parameters)
    return folder


def write_parameters(folder, parameters):
    (folder / "params.yaml").write_text(json.dumps(parameters))  # which is YAML too


def read_parameters(folder):
    return json.loads((folder / "params.yaml").read_text())


@pytest.mark.slow
def test_a_killed_run_completes_and_scores_count_what_is_broken(world):
    process = start(world, "-m", "analysis", "generate", "small", "--workers", "1")
    runs = world / "runs/wan/small"
    while process.poll() is None and len(list(runs.glob("[!.]*.mkv"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (runs / f".{host_name()}.{ended.pid}.half.mkv.tmp.mkv").write_bytes(b"half")
    kept = {p.name: p.stat().st_mtime_ns for p in runs.glob("[!.]*.mkv")}
    assert 2 <= len(kept) < 6 and not (runs / "manifest.csv").exists()

    code, _, err = call(world, "generate", "small", "--workers", "1")
    assert code == 0, err
    assert all((runs / name).stat().st_mtime_ns == when for name, when in kept.items())
    manifest = pd.read_csv(runs / "manifest.csv")
    assert sorted(p.stem for p in runs.glob("*.mkv")) == sorted(manifest["key"]) and len(manifest) == 6
    assert not list(runs.glob(".*"))

    (runs / f"{manifest['key'][1]}.mkv").write_bytes(b"broken")
    (runs / f"{manifest['key'][2]}.mkv").unlink()
    code, _, err = finish(start(world, "-m", "analysis", "score", "small"), 300)
    assert code == 0, err
    scores = pd.read_csv(world / "results/sweeps/wan/small/scores.csv")
    assert list(scores["status"]) == ["ok", "corrupt", "missing", "ok", "ok", "ok"]
    assert list(scores["adherence"][1:3]) == [0, 0] and list(scores["macro"][1:3]) == [0, 0]
    assert scores["reason"][1].startswith(manifest["key"][1])
    assert (world / "results/sweeps/wan/small/strips.webp").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_a_status_and_the_next_one_goes_on(world):
    parameters = read_parameters(world)
    parameters["sweeps"]["long"] = parameters["sweeps"]["small"] | {"samples": 60}
    write_parameters(world, parameters)
    runs = world / "runs/wan/long"
    runs.mkdir(parents=True)
    (runs / "manifest.csv").write_text("key,status\nof-an-older-grid,ok\n")
    process = start(world, "-m", "analysis", "generate", "long", "--workers", "1")
    while process.poll() is None and len(list(runs.glob("[!.]*.mkv"))) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the worker too
    status, _, err = finish(process)
    assert status == 130 and "stopped; what is finished is kept" in err and "Traceback" not in err
    made = len(list(runs.glob("[!.]*.mkv")))
    assert made < 60, "queued videos are dropped"
    assert not (runs / "manifest.csv").exists(), "the older grid's would say that the sweep is whole"

    parameters["sweeps"]["long"]["samples"] = 3
    write_parameters(world, parameters)
    code, _, err = call(world, "generate", "long", "--workers", "1")
    assert code == 0 and len(pd.read_csv(runs / "manifest.csv")) == 3, err


def test_a_changed_grid_costs_its_new_cells_only(world):
    parameters = read_parameters(world)
    parameters["sweeps"]["grid"] = parameters["sweeps"]["small"] | {"samples": 2, "blur": [0.0, 1.0]}
    write_parameters(world, parameters)
    assert call(world, "generate", "grid")[0] == 0
    runs = world / "runs/wan/grid"
    before = {p.name: p.stat().st_mtime_ns for p in runs.glob("*.mkv")}
    parameters["sweeps"]["grid"]["blur"] = [0.0, 2.0]
    write_parameters(world, parameters)
    assert call(world, "generate", "grid")[0] == 0
    after = {p.name: p.stat().st_mtime_ns for p in runs.glob("*.mkv")}
    assert len(before) == len(after) == 4
    assert len(before.items() & after.items()) == 2, "the cells of blur 0 are kept"
    aside = world / "runs/trash/wan/grid"
    assert {p.name for p in aside.glob("*.mkv")} == before.keys() - after.keys(), "those of blur 1 are not lost"

    parameters["sweeps"]["grid"]["blur"] = [0.0, 1.0]
    write_parameters(world, parameters)
    code, out, err = call(world, "generate", "grid", "--prune")
    assert code == 0 and {p.name: p.stat().st_mtime_ns for p in runs.glob("*.mkv")} == before, "they come back"
    assert "2 videos that are not in the grid" in err and "2 videos of older grids were deleted" in out
    assert not aside.exists()


def refuses(folder, expected, *arguments):
    """The command exits with one line that says `expected`; run in this process, which is faster than a new one."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["analysis", *arguments])
        run(app)
    assert isinstance(stop.value.code, str) and expected in stop.value.code, stop.value.code
    assert stop.value.code.startswith("error: ") and "\n" not in stop.value.code


def test_bad_input_gets_one_clear_line(world):
    refuses(world, "unknown sweep 'nope'", "generate", "nope")
    refuses(world, "i/n", "generate", "small", "--shard", "4/4")
    refuses(world, "nope.ipynb", "notebook", "nope")
    refuses(world, "No such option: --nope", "generate", "small", "--nope")
    good = read_parameters(world)

    def changed(path, value, message, *arguments):
        parameters = json.loads(json.dumps(good))
        *keys, last = path
        inner = parameters
        for key in keys:
            inner = inner[key]
        inner[last] = value
        write_parameters(world, parameters)
        try:
            refuses(world, message, *arguments)
        finally:
            write_parameters(world, good)

    run = ("generate", "small")
    changed(["sweeps", "small", "blurr"], [1.0], "sweeps.small.blurr", *run)
    changed(["sweeps", "small", "guidance_scale"], [float("nan")], "sweeps.small.guidance_scale", *run)
    changed(["sweeps", "small", "samples"], 4000, "the benchmark has 467", *run)
    changed(["sweeps", "small", "backbone"], "gone", "'gone'", *run)
    changed(["backbones", "wan-i2v", "checkpoint"], "nowhere/at/all", "nowhere/at/all", *run)
    changed(["backbones", "wan-i2v", "checkpoint"], "some/model", "revision", *run)
    changed(["benchmark", "folder"], "no-benchmark", "no-benchmark", *run)


def test_a_sample_without_questions_or_with_a_wrong_image_is_named(world):
    meta = world / "benchmark/meta.json"
    text = meta.read_text()
    samples = json.loads(text)
    samples[4]["questions"] = []
    meta.write_text(json.dumps(samples))
    refuses(world, samples[4]["id"], "generate", "small")
    meta.write_text(text)

    image = world / "benchmark" / samples[0]["image-path"]
    original = image.read_bytes()
    Image.new("RGB", (32, 32)).save(image)
    parameters = read_parameters(world)
    parameters["sweeps"]["bad"] = parameters["sweeps"]["small"] | {"samples": 2}
    write_parameters(world, parameters)
    code, _, err = call(world, "generate", "bad", "--workers", "1")
    image.write_bytes(original)
    assert code == 1 and "1 videos were not made" in err and "1 failed: ValueError: " in err
    manifest = pd.read_csv(world / "runs/wan/bad/manifest.csv", keep_default_na=False)
    assert list(manifest["status"]) == ["failed", "ok"] and "32x32" in manifest["reason"][0]


def test_shards_cover_everything_once(world):
    parameters = read_parameters(world)
    parameters["sweeps"]["parts"] = parameters["sweeps"]["small"] | {"samples": 3}
    write_parameters(world, parameters)
    for part in ("0/2", "1/2"):
        assert call(world, "generate", "parts", "--shard", part, "--workers", "1")[0] == 0
    assert len(list((world / "runs/wan/parts").glob("*.mkv"))) == 3


def test_the_full_size_run_has_its_own_folders_and_takes_over_equal_videos(world):
    parameters = read_parameters(world)
    sized = parameters["sweeps"]["small"] | {"samples": 1, "full": {"samples": 2, "seeds": [0, 1]}}
    parameters["sweeps"]["sized"] = sized
    write_parameters(world, parameters)
    assert call(world, "generate", "sized", "--workers", "1")[0] == 0
    (small,) = (world / "runs/wan/sized").glob("*.mkv")
    record = small.with_suffix(".json")
    record.write_text(record.read_text().replace('"attempt": 1', '"attempt": 7'))  # tells a copy from a new one
    code, _, err = call(world, "generate", "--full", "--workers", "1")
    assert code == 0, err
    found = {p.name: p for p in (world / "runs/full/wan/sized").glob("*.mkv")}
    assert len(found) == 4 and read_record(found[small.name]).attempt == 7
    assert [p.name for p in (world / "runs/full/wan").iterdir()] == ["sized"], "sweeps without a full size are left out"
    code, _, err = call(world, "score", "--full", "--workers", "1")
    assert code == 0, err
    scores = pd.read_csv(world / "results/full/sweeps/wan/sized/scores.csv")
    assert list(scores["status"]) == ["ok"] * 4 and not (world / "results/sweeps/wan/sized/scores.csv").exists()
    assert not (world / "results/full/sweeps/wan/sized/strips.webp").exists(), "film strips are those of the small run"


def test_the_keys_of_full_size_sweeps_follow_what_determines_their_videos(world):
    parameters = read_parameters(world)
    parameters["sweeps"]["sized"] = parameters["sweeps"]["small"] | {"full": {"samples": 2}}
    write_parameters(world, parameters)
    (world / "build/keys").mkdir(parents=True)
    (world / "build/keys/gone").write_text("of a sweep that is no more")
    assert call(world, "keys")[0] == 0
    written = world / "build/keys/wan/sized"
    assert [p for p in (world / "build/keys").rglob("*") if p.is_file()] == [written]
    before = written.read_text().split()
    assert len(before) == len(set(before))
    parameters["sweeps"]["sized"]["guidance_scale"] = [2.5]
    write_parameters(world, parameters)
    assert call(world, "keys")[0] == 0
    after = written.read_text().split()
    assert len(after) == 2 and not set(before) & set(after)
