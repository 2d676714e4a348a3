"""OmitI2V and the testbed: `meta.json`, a list of samples in the schema itself."""

from __future__ import annotations

import json
from pathlib import Path

from .sample import Problem

FILE = "meta.json"


def read_list(path: Path) -> tuple[list, list[Problem]]:
    """The list in a JSON file, or [] and what is wrong with the file."""
    if not path.is_file():
        return [], [Problem("missing file", path.name, f"there is no {path}")]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        return [], [Problem("unreadable file", path.name, f"is not JSON: {error}")]
    if not isinstance(found, list):
        return [], [Problem("wrong field", path.name, f"holds {type(found).__name__}, not a list of samples")]
    if not found:
        return [], [Problem("missing file", path.name, "holds an empty list")]
    return found, []


def is_omiti2v(folder: Path) -> bool:
    """Whether a folder holds OmitI2V's list of samples; the testbed's has the same name, and a manifest beside it."""
    return (folder / FILE).is_file() and not (folder / "manifest.csv").is_file()


def is_testbed(folder: Path) -> bool:
    """Whether a folder holds a benchmark of this repository's testbed."""
    return (folder / FILE).is_file() and (folder / "manifest.csv").is_file()


def read(folder: Path) -> tuple[list, str, list[Problem]]:
    """(records, the file that lists them, problems)."""
    records, problems = read_list(folder / FILE)
    return records, FILE, problems
