"""The road from a folder of photographs to a whole sweep on two machines, of which one is killed midway: the same bytes."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from commands import finish, start
from PIL import Image
from small_study import Here, parameters
from tiny_pipelines import build

from analysis.study.cells import expand
from analysis.study.parameters import Parameters
from analysis.study.video_files import read_video
from analysis.videos.generate import generate, merge
from analysis.videos.load_backbone import drop_pipeline
from analysis.videos.records import read_videos, sha256_of

RUNS = Path("runs/tiny/real")
SIZES = ((48, 32), (65, 63), (30, 90), (120, 40), (33, 51))


@pytest.mark.slow
def test_two_shards_one_killed_and_merged_are_the_bytes_of_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("wan2.2-a14b")[0].save_pretrained("tiny")
    raw = json.loads(
        parameters(SIZES, checkpoint="tiny", frames=9, fit={"policy": "bucket", "sizes": [[48, 32], [32, 48], [32, 32]]},
                   call={"guidance_scale_2": 2.0}, load={"dtype": {"vae": "float32"}}).model_dump_json(exclude={"full_size"})
    )  # fmt: skip
    raw["methods"]["dymos"] = [{"method": "dymos", "gamma": 1.0, "window": [0, 0.5]}]
    raw["sweeps"]["real"] |= {"methods": ["none", "dymos"], "guidance_scale": [3.0]}
    Path("params.yaml").write_text(json.dumps(raw))
    study = Parameters.model_validate(raw)
    cells = expand(study, "real")

    second = start(tmp_path, "-m", "analysis", "generate", "real", "--workers", "1", "--shard", "1/2")
    while second.poll() is None and not any((RUNS / f"{c.key}.mkv").exists() for c in cells[1::2]):
        time.sleep(0.02)
    assert second.poll() is None, finish(second)

    class Killing(Here):
        """The first machine, which makes its videos while the second makes its own, until that is killed."""

        def submit(self, function, /, *args, **kwargs):
            done = super().submit(function, *args, **kwargs)
            os.killpg(second.pid, signal.SIGKILL)
            return done

    assert generate(study, "real", Killing(), part="0/2") == 0
    finish(second)
    missing = [c.key for c in cells if not (RUNS / f"{c.key}.mkv").exists()]
    assert [s.cell.key for s in merge(study, "real") if s.state == "missing"] == missing

    assert generate(study, "real", Here(), only=["missing", "failed", "corrupt"]) == 0
    both = {file.name: sha256_of(file) for file in RUNS.glob("*.mkv")}
    manifest = (RUNS / "manifest.csv").read_bytes()
    assert len(both) == len(cells) == 10 and set(pd.read_csv(RUNS / "manifest.csv")["status"]) == {"ok"}
    rows = read_videos(study, "real")
    assert {(int(r["width"]), int(r["height"])) for r in rows} == {(48, 32), (32, 32), (32, 48)}
    for row in rows:  # each is scored against what its model has seen
        assert read_video(RUNS / row["file"], 9).shape[1:3] == Image.open(row["reference"]).size[::-1]

    Path("runs").rename("runs-of-two")
    assert generate(study, "real", Here()) == 0
    drop_pipeline()
    assert {file.name: sha256_of(file) for file in RUNS.glob("*.mkv")} == both
    assert (RUNS / "manifest.csv").read_bytes() == manifest
