"""Workers: a GPU each, whatever goes wrong is the cell's, and a queue that cannot succeed ends."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import call, finish, start
from small_study import Here, Lazily, parameters, without_a_model
from tiny_pipelines import build

from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from analysis.study.workers import gpu_pool, stopping, visible_gpus
from analysis.videos import generate as command
from analysis.videos.command_line import chosen
from analysis.videos.generate import generate
from analysis.videos.load_backbone import drop_pipeline
from analysis.videos.records import read_record, sha256_of, sweep_states
from analysis.videos.run_cell import run_cell

RUNS = Path("runs/tiny/real")
SEEN = ["sh", "-c", "sleep 0.3; echo $PPID $CUDA_VISIBLE_DEVICES"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return parameters()


# GPUs ----------------------------------------------------------------------------------------------------------------
def seen_by(pool, count):
    """{process: what it has in CUDA_VISIBLE_DEVICES} of the workers of a pool."""
    with stopping(pool) as workers:
        lines = [
            job.result().split()
            for job in [workers.submit(subprocess.check_output, SEEN, text=True) for _ in range(count)]
        ]
    assert all(len({gpu for p, gpu in lines if p == process}) == 1 for process, _ in lines), "a worker keeps its GPU"
    return dict(lines)


@pytest.mark.parametrize("named", [None, "4,6,7", "GPU-8f2a,MIG-1d,GPU-77"])
def test_every_worker_has_a_gpu_of_its_own(monkeypatch, named):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = []
    monkeypatch.setattr(command, "stopping", lambda pool: found.append(pool) or stopping(pool))
    command.default_executor()
    seen = seen_by(found[0], 12)
    assert sorted(seen.values()) == sorted((named or "0,1,2").split(",")) and len(seen) == 3


def test_fewer_workers_than_gpus_have_one_each_and_more_are_refused(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(set(seen_by(gpu_pool(visible_gpus(8), 2), 6).values())) == 2
    with pytest.raises(ValueError, match="--workers is 3; there are 2 GPUs, and each worker needs one"):
        gpu_pool(["0", "1"], 3)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "gpus.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from analysis.study.workers import gpu_pool, stopping\n\n"
        "def task(i):\n    Path(f'started{i}').touch()\n    time.sleep(60)\n\n"
        "if __name__ == '__main__':\n"
        "    with stopping(gpu_pool(['0', '1'])) as pool:\n        list(pool.map(task, range(2)))\n"
    )
    process = start(tmp_path, "gpus.py")
    while process.poll() is None and len(list(tmp_path.glob("started*"))) < 2:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers are left")


# Failures ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyError("k"), ValueError("two\nlines"), NotImplementedError("meta"),
              AssertionError(), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_any_exception_is_the_cells(study, monkeypatch, error):
    def failing(cell):
        if cell.sample == "sample_3":
            raise error

    made = without_a_model(monkeypatch, failing)
    assert generate(study, "real", Here()) == 1 and len(made) == 5
    reason = sweep_states(study, "real")[3].reason
    assert type(error).__name__ in reason and "\n" not in reason


def test_failures_of_one_kind_in_a_row_end_the_queue(study, monkeypatch):
    def failing(cell):  # as a full disk does: the same but for the file's name and a number
        if cell.sample != "sample_0":
            raise OSError(28, f"No space left on device {cell.noise}", f"runs/{cell.key}.mkv")

    made = without_a_model(monkeypatch, failing)
    queue = Lazily()
    with pytest.raises(
        ValueError, match=r"stopped after 3 failures of one kind in a row; the last: OSError: .*No space.* 1 videos"
    ):
        generate(study, "real", queue)
    assert made == ["sample_0"] and queue.done == 4 and not (RUNS / "manifest.csv").exists()
    assert [s.state for s in sweep_states(study, "real")] == ["ok", "failed", "failed", "failed", "missing", "missing"]
    with pytest.raises(ValueError, match="stopped after 5 failures"):
        generate(study, "real", Lazily(), stop_after=5)


def test_failures_of_several_kinds_or_with_videos_between_do_not(study, monkeypatch):
    kinds = iter([ValueError("a"), KeyError("b"), ValueError("a"), KeyError("b"), ValueError("a"), KeyError("b")])
    without_a_model(monkeypatch, lambda cell: (_ for _ in ()).throw(next(kinds)))
    assert generate(study, "real", Here()) == 6
    without_a_model(monkeypatch, lambda cell: int(cell.sample[-1]) % 3 == 2 or (_ for _ in ()).throw(ValueError("a")))
    assert generate(study, "real", Here()) == 4


def test_what_is_queued_behind_a_stop_is_dropped(tmp_path):
    """In real processes: the review counted 24 of 24 cells that were computed and thrown away after a full disk."""
    code = (
        "import sys, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from analysis.study.workers import stopping, worker_pool\n"
        "from pathlib import Path\n\n"
        "def task(i):\n    Path(f'tried{i}').touch()\n    time.sleep(0.05)\n    return 'failed', f'OSError: disk full {i}'\n\n"
        "if __name__ == '__main__':\n"
        "    from analysis.videos.generate import _outcomes\n"  # which workers would import, too
        "    with stopping(worker_pool(2)) as pool:\n"
        "        _outcomes({pool.submit(task, i): str(i) for i in range(200)}, pool, Path('.'), 'test', 3)\n"
    )
    (tmp_path / "queue_of_failures.py").write_text(code)
    status, _, err = finish(start(tmp_path, "queue_of_failures.py"), 120)
    assert status == 1 and "stopped after 3 failures" in err
    assert 3 <= len(list(tmp_path.glob("tried*"))) < 30


def test_out_of_memory_names_what_needs_less(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = parameters(load={"offload": "model"}, dtype="float32")
    without_a_model(
        monkeypatch, lambda cell: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"))
    )
    with pytest.raises(
        ValueError, match=r"out of memory \(OutOfMemoryError: CUDA out of memory.*offload: group.*dtype: bfloat16"
    ):
        generate(study, "real", Lazily())
    assert "tiling: true" in read_record(sweep_states(study, "real")[0].path).reason


def test_a_model_that_cannot_be_loaded_is_a_reason_too(study, monkeypatch):
    made = without_a_model(monkeypatch)
    monkeypatch.setattr(
        "analysis.videos.run_cell.load_pipeline", lambda b: (_ for _ in ()).throw(OSError("hub is offline"))
    )
    with pytest.raises(
        ValueError, match="stopped after 3 failures of one kind in a row; the last: OSError: hub is offline"
    ):
        generate(study, "real", Lazily())
    assert made == []


def test_a_folder_that_cannot_be_written_to_ends_it_before_anything(study, monkeypatch):
    made = without_a_model(monkeypatch)
    RUNS.parent.mkdir(parents=True)
    RUNS.write_text("no folder")
    with pytest.raises(ValueError, match="runs/tiny/real cannot be written to"):
        generate(study, "real", Here())
    assert made == []


# Threads and other folders -------------------------------------------------------------------------------------------
def test_two_threads_of_one_process_make_the_videos_of_one(tmp_path, monkeypatch):
    """A Dask worker has as many threads as cores unless it is told otherwise; a process has one pipeline."""
    monkeypatch.chdir(tmp_path)
    build("wan2.1-i2v")[0].save_pretrained("tiny")
    study = parameters(checkpoint="tiny", frames=9).model_copy(
        update={"methods": {"none": [], "dymos": [{"method": "dymos", "gamma": 1.0, "window": [0, 0.5]}]}}
    )
    sweep = study.sweeps["real"].model_copy(update={"methods": ["none", "dymos"], "samples": 2})
    study = study.model_copy(update={"sweeps": {"real": sweep}})
    hashes = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as executor:
            assert generate(study, "real", executor) == 0
        files = [RUNS / f"{cell.key}.mkv" for cell in expand(study, "real")]
        hashes.append([sha256_of(file) for file in files])
        for file in files:
            file.unlink()
        drop_pipeline()
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 4


def test_a_worker_that_was_started_elsewhere_works_in_the_clients_folder(study, tmp_path, monkeypatch):
    without_a_model(monkeypatch)
    (tmp_path / "elsewhere").mkdir()

    class Elsewhere(Here):
        def submit(self, function, /, *args, **kwargs):
            os.chdir(tmp_path / "elsewhere")
            try:
                return super().submit(function, *args, **kwargs)
            finally:
                os.chdir(tmp_path)

    assert generate(study, "real", Elsewhere()) == 0
    assert len(list(RUNS.glob("*.mkv"))) == 6 and not list((tmp_path / "elsewhere").iterdir())
    cell, backbone = expand(study, "real")[0], study.backbones["tiny-i2v"]
    status, reason = run_cell(cell, backbone, Path("photos/images/0.png"), RUNS, tmp_path / "not-mounted")
    assert status == "failed" and "has no folder" in reason and "not-mounted" in reason


def test_a_worker_that_says_ok_without_a_video_has_failed(study, monkeypatch):
    class Liar(Here):
        def submit(self, function, /, *args, **kwargs):
            return super().submit(lambda: ("ok", ""))

    with pytest.raises(ValueError, match="has made a video that is not in runs/tiny/real"):
        generate(study, "real", Liar())
    assert generate(study, "real", Liar(), stop_after=10) == 6
    assert "it needs this very folder" in (RUNS / "manifest.csv").read_text()


def test_the_command_ends_with_status_1_when_videos_failed(study, tmp_path):
    Path("params.yaml").write_text(study.model_dump_json(exclude={"full_size"}))
    Path("model/model_index.json").unlink()
    Path("model/model_index.json").write_text(
        '{"_class_name": "WanImageToVideoPipeline", "_diffusers_version": "0.42.1"}'
    )
    status, _, err = call(tmp_path, "generate", "real", "--workers", "1")
    assert status == 1 and "error: stopped after 3 failures of one kind in a row" in err and "Traceback" not in err, err
    status, _, err = call(tmp_path, "merge", "real")
    assert status == 1 and "Traceback" not in err and (RUNS / "manifest.csv").exists()


def test_a_sweep_without_a_full_size_says_what_it_lacks(study):
    Path("params.yaml").write_text(study.model_dump_json(exclude={"full_size"}))
    full = load_parameters(full=True)
    with pytest.raises(
        ValueError, match=r"sweep 'real' has no full size: give it `full: \{samples: \.\.\., seeds: \[\.\.\.\]\}`"
    ):
        chosen(full, ["real"], None)
    with pytest.raises(ValueError, match="not both"):
        chosen(full, ["real"], "tiny")
    assert chosen(study, None, None) == ["real"]
