"""Files that are whole or not there: written to a temporary name and moved into place; and keys of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def content_key(settings: dict) -> str:
    """A short hash of everything that determines a video; equal settings give equal keys on every machine."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary)` and move the file into place; two writers of one path cannot mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Write a table as CSV without its index; the same table gives the same bytes on every system."""
    write_atomically(path, lambda p: table.to_csv(p, index=False, float_format=float_format, lineterminator="\n"))
