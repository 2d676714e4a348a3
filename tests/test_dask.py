"""Dask as the executor: refused settings, workers that are gone; and, where `distributed` is installed, the real thing."""

import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import ROOT, finish, start
from small_study import parameters, without_a_model
from tiny_pipelines import build

from analysis.study.dask_workers import DaskExecutor, dask_executor
from analysis.study.parameters import Parameters
from analysis.videos import generate as command
from analysis.videos.generate import generate
from analysis.videos.records import sha256_of

RUNS = Path("runs/tiny/real")


class Client:
    """What is used of dask.distributed.Client, with threads for workers."""

    def __init__(self, *threads, answers=True):
        self.threads, self.pool, self.cancelled = list(threads), ThreadPoolExecutor(2) if answers else None, False

    def scheduler_info(self, n_workers):
        assert n_workers == -1, "5 workers only otherwise"
        return {"workers": {f"tcp://w{i}": {"nthreads": n} for i, n in enumerate(self.threads)}}

    def get_executor(self, pure):
        assert pure is False
        client = self

        class Inner:
            def submit(self, function, *args, **kwargs):
                return client.pool.submit(function, *args, **kwargs) if client.pool else Future()

            def shutdown(self, wait=True):
                client.cancelled = client.cancelled or not wait

        return Inner()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.pool:
            self.pool.shutdown()


@pytest.fixture
def dask(monkeypatch):
    """Put a client in the place of dask.distributed.Client."""

    def use(client):
        module = types.ModuleType("dask.distributed")
        module.Client = lambda address, timeout: client() if callable(client) else client
        monkeypatch.setitem(sys.modules, "dask", types.ModuleType("dask"))
        monkeypatch.setitem(sys.modules, "dask.distributed", module)
        return client

    return use


def test_a_worker_with_more_than_one_thread_is_refused(dask):
    dask(Client(1, 2))
    with pytest.raises(
        ValueError, match=r"worker tcp://w1 has 2 threads; start workers with `dask worker ADDRESS --nthreads 1`"
    ):
        dask_executor("tcp://here:8786").__enter__()


def test_without_distributed_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ValueError, match=r"--scheduler needs Dask: pip install -e '\.\[cluster\]'"):
        dask_executor("tcp://here:8786").__enter__()


def test_an_address_where_nothing_answers_is_one_line(dask):
    def dead():
        raise OSError("Timed out trying to connect to tcp://here:1 after 20 s\nTraceback ...")

    dask(dead)
    with pytest.raises(ValueError, match=r"no Dask scheduler answers at tcp://here:1 \(Timed out.*; start one with"):
        dask_executor("tcp://here:1").__enter__()


def test_videos_are_made_and_tasks_cancelled_at_an_error(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, client = parameters(), dask(Client(1, 1))
    without_a_model(monkeypatch)
    with dask_executor("tcp://here:8786") as executor:
        assert generate(study, "real", executor) == 0
    assert len(list(RUNS.glob("*.mkv"))) == 6 and not client.cancelled
    client = dask(Client(1))
    with pytest.raises(KeyError), dask_executor("tcp://here:8786"):
        raise KeyError
    assert client.cancelled


def test_no_worker_left_ends_the_run(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "PULSE", 0.05)
    study, client = parameters(), dask(Client(1, answers=False))
    without_a_model(monkeypatch)
    began = time.monotonic()
    with (
        pytest.raises(ValueError, match="has had no worker for 0 s; start one"),
        dask_executor("tcp://x:1", 0.3) as executor,
    ):
        client.threads.clear()
        generate(study, "real", executor)
    assert 0.3 <= time.monotonic() - began < 20
    assert client.cancelled


def test_a_worker_that_comes_back_in_time_is_waited_for():
    client = Client()
    executor = DaskExecutor(client, patience=60)
    executor.check()
    assert executor.alone_since is not None
    client.threads.append(1)
    executor.check()
    assert executor.alone_since is None
    client.threads.append(4)
    with pytest.raises(ValueError, match="tcp://w1 has 4 threads"):
        executor.check()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_real_thing(tmp_path, monkeypatch, threads):
    """A scheduler and two workers that were started in another folder, one of which is killed: the serial run's videos."""
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    monkeypatch.chdir(tmp_path)
    build("wan2.1-i2v")[0].save_pretrained("tiny")
    study: Parameters = parameters(checkpoint="tiny", frames=9)
    with ThreadPoolExecutor(1) as serial:
        assert generate(study, "real", serial) == 0
    expected = {file.name: sha256_of(file) for file in RUNS.glob("*.mkv")}
    for file in RUNS.iterdir():
        file.unlink()
    (tmp_path / "elsewhere").mkdir()
    more = {"cwd": tmp_path / "elsewhere", "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    file = tmp_path / "scheduler.json"
    processes = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
                                   "--scheduler-file", file], **more)]  # fmt: skip
    try:
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", file, "--nthreads", str(threads),
                  "--no-nanny", "--no-dashboard"]  # fmt: skip
        processes += [subprocess.Popen(worker, **more) for _ in range(2)]
        from dask.distributed import Client as RealClient

        with RealClient(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            address = client.scheduler.address
        Path("params.yaml").write_text(study.model_dump_json(exclude={"full_size"}))
        run = start(tmp_path, "-m", "analysis", "generate", "real", "--scheduler", address)
        if threads == 1:
            while run.poll() is None and not list(RUNS.glob("[!.]*.mkv")):
                time.sleep(0.05)
            processes[1].send_signal(signal.SIGKILL)
        status, _, err = finish(run, 300)
        if threads == 2:
            assert status == 1 and "has 2 threads" in err and not list(RUNS.glob("*.mkv"))
        else:
            assert status == 0, err
            assert {f.name: sha256_of(f) for f in RUNS.glob("*.mkv")} == expected
            assert not list((tmp_path / "elsewhere").rglob("*.mkv"))
    finally:
        for process in processes:
            process.kill()
            process.wait()
