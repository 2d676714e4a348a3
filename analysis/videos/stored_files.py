"""What else lies in the folders of videos: temporary files that nobody writes any more, and videos of an older grid."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from ..study.cells import Cell
from ..study.files import host_name, write_atomically
from ..study.parameters import Parameters
from ..study.results_layout import place_of

# Files of a cell, in the order in which they are written but for the record: a video says that it is done.
SUFFIXES = (".txt", ".csv.gz", ".mkv", ".json")
OLD = 24 * 3600  # seconds after which a temporary file is nobody's, whoever wrote it


def remove_abandoned(folder: Path) -> int:
    """Remove the temporary files of writers that are gone: of a process of this host that has ended, and of any other that
    were not written to for a day. Those of running writers, here or on another machine, stay. Their number."""
    removed = 0
    for file in folder.rglob(".*.tmp.*"):
        owner = re.match(r"\.([^.]+)\.(\d+)\.", file.name)
        try:
            age = time.time() - file.stat().st_mtime
        except FileNotFoundError:  # its writer has just finished
            continue
        ended = owner is not None and owner[1] == host_name() and not _runs(int(owner[2]))
        if ended or age > OLD:
            file.unlink(missing_ok=True)
            removed += 1
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def trash_folder(parameters: Parameters, sweep: str) -> Path:
    """Where videos go that are in the grid of a sweep no more."""
    return parameters.runs / "trash" / place_of(parameters, sweep)


def files_of(folder: Path, key: str) -> list[Path]:
    """The files of a cell in a folder that exist."""
    return [file for suffix in SUFFIXES if (file := folder / f"{key}{suffix}").is_file()]


def set_aside(folder: Path, trash: Path, cells: Iterable[Cell]) -> int:
    """Move the files of all cells that are not among `cells` into `trash`; how many videos. What is being written, whose name
    begins with a dot, stays."""
    keep, moved = {c.key for c in cells}, 0
    for suffix in SUFFIXES:
        for file in folder.glob(f"[!.]*{suffix}"):
            if file.name.split(".")[0] not in keep:
                trash.mkdir(parents=True, exist_ok=True)
                os.replace(file, trash / file.name)
                moved += suffix == ".mkv"
    return moved


def empty_trash(trash: Path) -> int:
    """Delete the videos that were set aside; how many."""
    count = len(list(trash.glob("[!.]*.mkv")))
    shutil.rmtree(trash, ignore_errors=True)
    return count


def bring_back(cells: Iterable[Cell], trash: Path, folder: Path) -> int:
    """Move cells' files out of the trash, where the folder has none: a grid that is as it was again costs nothing."""
    back = 0
    for cell in cells:
        if not (folder / f"{cell.key}.mkv").exists() and (trash / f"{cell.key}.mkv").is_file():
            for file in sorted(files_of(trash, cell.key), key=lambda f: f.suffix == ".mkv"):  # the video last
                os.replace(file, folder / file.name)
            back += 1
    return back


def take_over(cells: Iterable[Cell], source: Path, folder: Path) -> int:
    """Copy the videos of cells that another folder has and this one has not: equal keys are equal videos. How many."""
    taken = 0
    for cell in cells:
        if (folder / f"{cell.key}.mkv").exists() or not (source / f"{cell.key}.mkv").is_file():
            continue
        files = sorted(files_of(source, cell.key), key=lambda f: f.suffix == ".mkv")
        for file in files:
            write_atomically(folder / file.name, lambda path, file=file: shutil.copyfile(file, path))
        taken += 1
    for file in (source / "references").glob("*.png") if taken else []:
        if not (folder / "references" / file.name).exists():
            write_atomically(folder / "references" / file.name, lambda path, file=file: shutil.copyfile(file, path))
    return taken
