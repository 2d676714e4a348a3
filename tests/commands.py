"""Commands that tests start, interrupt and kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

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
