"""Run a command line so that a user's error ends in one line, without a traceback."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import BrokenExecutor

import typer

INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def run(app: typer.Typer) -> None:
    """Run `app` with this process's arguments; end the process with its exit status if it fails.

    Ctrl-C ends it with status 130, so `dvc repro` and `make` stop too instead of recording an unfinished stage.
    """
    try:
        status = app(standalone_mode=False)  # Typer returns the status of an Exit, and from 0.29 on 130 for Ctrl-C
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except typer.Exit as stop:
        status = stop.exit_code
    except (ValueError, OSError) as error:
        sys.exit(f"error: {_in_one_line(error)}")
    except BrokenExecutor:
        sys.exit(
            "error: a worker process died, perhaps of too little memory; what is finished is kept, so run it again"
        )
    except Exception as error:
        # An unknown option or command; where its class is defined differs between versions of typer.
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            sys.exit(f"error: {error.format_message()}")
        raise
    if status == INTERRUPTED:
        print("stopped; what is finished is kept, and the next run goes on from there", file=sys.stderr)
    if status:
        sys.exit(status)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    if offline.upper() in {"1", "ON", "YES", "TRUE"} and re.search(r"hugging\s?face|\bHub\b|cached", text):
        return (
            f"a model is not on this machine, and HF_HUB_OFFLINE={offline} forbids downloading it: "
            f"run it again with HF_HUB_OFFLINE=0 ({text})"
        )
    return text
