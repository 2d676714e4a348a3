"""`python -m methods`: make a steered video, list the families of models, look a set-up over, or say what to try first."""

from __future__ import annotations

import argparse
import sys

from .command_line.advise import add_advise, advise
from .command_line.doctor import add_doctor, doctor
from .command_line.families_table import add_families, families
from .command_line.generate import generate
from .command_line.method_settings import read_methods
from .command_line.options import add_generate, read_arguments

__all__ = ["main", "parser", "read_arguments", "read_methods"]


def parser() -> argparse.ArgumentParser:
    """Options of the commands."""
    top = argparse.ArgumentParser(prog="python -m methods", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    add_generate(commands)
    add_families(commands)
    add_doctor(commands)
    add_advise(commands)
    return top


def main(arguments: list[str] | None = None) -> None:
    """Run a command; user errors end in one line."""
    options = parser().parse_args(arguments)
    try:
        {"generate": generate, "families": families, "doctor": doctor, "advise": advise}[options.command](options)
    except KeyboardInterrupt:
        print("stopped; no video was written", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
