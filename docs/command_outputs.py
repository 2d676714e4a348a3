"""Runs the commands of docs/command-line.md and writes their outputs under them: python docs/command_outputs.py"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/command-line.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.S)
VIDEOS = "videos/"  # where the commands of the page write, replaced by a folder that is thrown away


def output(command: str, folder: str) -> str:
    """What `$ python -m methods ...` prints, errors included, with lines of at most 120 characters."""
    from methods.__main__ import main

    words = [w.replace(VIDEOS, f"{folder}/") for w in shlex.split(command)][3:]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code)
    lines = out.getvalue().replace(f"{folder}/", VIDEOS).splitlines()
    wrapped = [textwrap.wrap(line, 118, subsequent_indent="      ", break_on_hyphens=False) or [""] for line in lines]
    return "".join(f"{part}\n" for parts in wrapped for part in parts)


def page(text: str) -> str:
    """The page with the outputs of its commands."""
    with tempfile.TemporaryDirectory() as folder:

        def run(block: re.Match) -> str:
            commands = [line for line in block[1].splitlines() if line.startswith("$ ")]
            return "```console\n" + "".join(f"{c}\n{output(c[2:], folder)}" for c in commands) + "```"

        return BLOCK.sub(run, text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    os.environ.pop("DIFFUSERS_ATTN_BACKEND", None)
    PAGE.write_text(page(PAGE.read_text()))
