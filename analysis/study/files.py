"""Files that are whole or not there: written to a temporary name and moved into place; and keys of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def content_key(settings: dict) -> str:
    """A short hash of everything that determines a video; equal settings give equal keys on every machine."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@cache
def host_name() -> str:
    """The name of this machine, of letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", platform.node()).strip("-") or "host"


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary)` and move the file into place; two writers of one path cannot mix. The temporary file's name
    says whose it is, `.HOST.PROCESS.NAME`, so that what a killed writer leaves can be told from what is being written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{host_name()}.{os.getpid()}.{path.name}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raise ValueError if nothing can be written into a folder, before hours are spent on what would go there."""
    try:
        write_atomically(folder / ".writable", lambda path: path.touch())
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error.strerror or error}") from None


def write_table(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Write a table as CSV without its index; the same table gives the same bytes on every system."""
    write_atomically(path, lambda p: table.to_csv(p, index=False, float_format=float_format, lineterminator="\n"))
