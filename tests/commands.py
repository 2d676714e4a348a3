"""Commands that tests start, interrupt and kill; and those that they call in their own process."""

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from small_study import Here

ROOT = Path(__file__).parent.parent


def start(folder, *arguments):
    """`python <arguments>` in `folder`, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored where tests run in the background
    )  # fmt: skip


def finish(process, timeout=60):
    """(status, stdout, stderr) of a command; one that does not end in time is killed, with its group."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def call(folder, *arguments):
    """(status, stdout, stderr) of `python -m analysis <arguments>` in `folder`, in this process, also what its workers do.

    A process of its own imports torch and diffusers for seconds; it is for what only a process can show, such as Ctrl-C.
    """
    from analysis.__main__ import app
    from analysis.videos.load_backbone import drop_pipeline
    from testbed.command_line import run

    out, err, status = io.StringIO(), io.StringIO(), 0
    drop_pipeline()  # checkpoints of other folders have the same relative path
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["analysis", *arguments])
        for module in ("study.workers", "videos.generate"):
            patch.setattr(f"analysis.{module}.worker_pool", lambda *_: Here())
        try:
            run(app)
        except SystemExit as stop:
            status = stop.code
    drop_pipeline()
    if isinstance(status, str):  # as Python ends a process
        status = print(status, file=err) or 1
    return status, out.getvalue(), err.getvalue()
