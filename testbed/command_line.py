"""Run a command line so that what a user can mend ends in one line, without a traceback."""

from __future__ import annotations

import sys
from concurrent.futures import BrokenExecutor

import typer


def run(app: typer.Typer) -> None:
    """Run `app` with this process's arguments; end the process with its exit status if it fails."""
    try:
        app(standalone_mode=False)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except BrokenExecutor:
        sys.exit(
            "error: a worker process died, perhaps of too little memory; what is finished is kept, so run it again"
        )
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit("stopped; what is finished is kept, and the next run goes on from there")
    except Exception as error:
        # An unknown option or command; where its class is defined differs between versions of typer.
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            sys.exit(f"error: {error.format_message()}")
        raise
