"""How commands end: Ctrl-C, errors of users, workers whose parent is gone."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import typer
from commands import finish, start

from analysis.study.workers import stopping, worker_pool
from testbed import command_line, cores, processes

ROOT = Path(__file__).parent.parent
POOL = """
import time
from pathlib import Path
from analysis.study.workers import stopping, worker_pool

def task(i):
    Path("started", str(i)).touch()
    time.sleep(0.5 if i else 60)
    Path("done", str(i)).touch()

def main():
    with stopping(worker_pool(2)) as pool:
        list(pool.map(task, range(40)))
"""
TRAINING = """
import time
from pathlib import Path
from testbed import processes

def task():
    Path("started", "0").touch()
    time.sleep(60)

def main():
    processes.run(task, 2)
"""
COMMAND = """
import typer
from testbed.command_line import run

app = typer.Typer()
app.command()(main)
if __name__ == "__main__":
    run(app)
"""


def begin(folder, code):
    """A command in its own process group, once its first task has begun."""
    for name in ("started", "done"):
        (folder / name).mkdir()
    (folder / "command.py").write_text(code + COMMAND)
    process = start(folder, "command.py")
    while process.poll() is None and not (folder / "started/0").exists():
        time.sleep(0.02)
    assert process.poll() is None, finish(process)
    return process


def group_is_gone(group, within=20):
    """Whether every process of a group has ended; what is left of it is killed."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.parametrize("code", [POOL, TRAINING], ids=["pool", "training"])
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["terminal", "process alone"])
@pytest.mark.slow
def test_ctrl_c_ends_a_command_and_its_workers(tmp_path, code, send):
    process = begin(tmp_path, code)
    send(process.pid, signal.SIGINT)
    status, _, err = finish(process, 50)  # the first task takes 60 seconds, the queue more
    assert status == 130 and err.startswith("stopped; what is finished is kept") and err.count("\n") == 1
    assert group_is_gone(process.pid) and len(list((tmp_path / "done").iterdir())) < 39


@pytest.mark.parametrize("code", [POOL, TRAINING], ids=["pool", "training"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_command(tmp_path, code, how):
    process = begin(tmp_path, code)
    os.kill(process.pid, how)
    assert finish(process)[0] == -how and group_is_gone(process.pid)


def test_an_error_drops_what_is_queued():
    began = time.monotonic()
    with pytest.raises(ValueError, match="one failed"), stopping(worker_pool(1)) as pool:
        jobs = [pool.submit(time.sleep, 0.2) for _ in range(100)]
        jobs[0].result()
        raise ValueError("one failed")
    assert all(job.done() for job in jobs) and jobs[-1].cancelled() and time.monotonic() - began < 15


def ends(monkeypatch, function):
    """How a command line whose one command is `function` ends."""
    app = typer.Typer()
    app.command()(function)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        command_line.run(app)
    return stop.value.code


def raising(error):
    def command():
        raise error

    return command


def test_a_command_ends_with_the_status_of_what_ended_it(monkeypatch, capsys):
    assert ends(monkeypatch, raising(typer.Exit(3))) == 3
    for error in (KeyboardInterrupt(), typer.Abort()):
        assert ends(monkeypatch, raising(error)) == 130
        assert capsys.readouterr().err.startswith("stopped; ")
    with pytest.raises(ZeroDivisionError):
        ends(monkeypatch, raising(ZeroDivisionError()))


def test_users_errors_are_one_line(monkeypatch):
    assert ends(monkeypatch, raising(ValueError("two\nlines"))) == "error: two lines"
    assert ends(monkeypatch, raising(PermissionError(13, "Permission denied", "runs"))) == (
        "error: [Errno 13] Permission denied: 'runs'"
    )


def loading(model):
    def command():
        model.from_pretrained("some/model-that-is-nowhere")

    return command


def test_a_model_that_is_not_there_says_how_to_download_it(monkeypatch):
    from diffusers import WanPipeline
    from transformers import AutoConfig, Sam2Model

    for model in (WanPipeline, AutoConfig, Sam2Model):
        said = ends(monkeypatch, loading(model))
        assert said.startswith("error: a model is not on this machine") and "HF_HUB_OFFLINE=0" in said, said
        assert "\n" not in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "HF_HUB_OFFLINE" not in ends(monkeypatch, raising(OSError("We couldn't connect to the Hub")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" not in ends(monkeypatch, raising(OSError("no space")))


def test_cores_are_counted_on_every_system(monkeypatch):
    assert 1 <= cores.usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    assert cores.usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == processes.default_processes() == 1


def test_only_one_place_counts_cores():
    counting = ("sched_getaffinity", "cpu_count", "process_cpu_count")
    files = [p for folder in ("analysis", "methods", "testbed") for p in (ROOT / folder).rglob("*.py")]
    assert [p.name for p in files if any(name in p.read_text() for name in counting)] == ["cores.py"]
