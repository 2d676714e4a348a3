"""What is known of every video beside its pixels, and from it whether a sweep is whole: without a model, torch or pandas.

A worker writes `KEY.json` beside each `KEY.mkv`, and for a cell that failed in its place: a `Record`. It travels with the
video, from shard to shard and from machine to machine. Two tables of a sweep are made of them:

    manifest.csv   a row per cell, in the order of the grid; the same bytes on every machine, an output of the pipeline
    videos.csv     the same rows with RECORDED beside them: time, memory, versions, machine, checksum

DVC looks at neither `KEY.json` nor videos.csv (.dvcignore): they differ from machine to machine, and no result may.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..study.cells import Cell, expand
from ..study.files import write_atomically
from ..study.parameters import Parameters
from ..study.results_layout import runs_folder

STATES = ("ok", "failed", "corrupt", "missing")
MANIFEST = ("key", "status", "reason", "backbone", "method", "guidance_scale", "blur", "prompts", "seed", "sample",
            "prompt", "reference")  # fmt: skip
# What of a record videos.csv has beside the manifest.
RECORDED = ("file", "frames", "height", "width", "fit", "bytes", "sha256", "attempt", "seconds", "peak_gib", "device", "host",
            "torch", "diffusers")  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One attempt at a video, the last one.

    status: ok or failed; reason: of the failure, in one line. attempt: how often it was tried, from 1. seconds: of the
    pipeline's call with encoding and decoding, without loading the model. peak_gib: most memory that was allocated on
    the GPU meanwhile, or without one the most that the process ever held. frames, height, width: of the video. fit: what
    was done to the reference image; reference: the fitted image in the sweep's folder, "" if nothing was done. bytes,
    sha256: of the file. device: kind of GPU or processor. None or "" is not known, as of a video that an older version
    made.
    """

    status: str
    reason: str = ""
    attempt: int = 1
    seconds: float | None = None
    peak_gib: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fit: str = ""
    reference: str = ""
    bytes: int | None = None
    sha256: str = ""
    device: str = ""
    host: str = ""
    torch: str = ""
    diffusers: str = ""


@dataclass(frozen=True)
class VideoState:
    """Where a cell stands: `state` is one of STATES, `reason` says why it is not ok, `record` what is known, if anything."""

    cell: Cell
    path: Path
    state: str
    reason: str
    record: Record | None


def record_file(video: Path) -> Path:
    """Where the record of a video lies."""
    return video.with_suffix(".json")


def write_record(video: Path, record: Record) -> None:
    """Write the record of a video beside it."""
    text = json.dumps(asdict(record), indent=1) + "\n"
    write_atomically(record_file(video), lambda path: path.write_text(text))


def read_record(video: Path) -> Record | None:
    """The record of a video, or None where there is none that can be read."""
    try:
        found = json.loads(record_file(video).read_text())
        return Record(**{f.name: found[f.name] for f in fields(Record) if f.name in found})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def sha256_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(cell: Cell, folder: Path, *, deep: bool = False) -> VideoState:
    """Where a cell stands in a folder of videos. deep: compare the file's checksum too, not only its size.

    A video without a record, from an older version, is taken for ok if it is not empty; `generate` reads it once.
    """
    path = folder / f"{cell.key}.mkv"
    record = read_record(path)
    if not path.is_file():
        if record is not None and record.status == "failed":
            return VideoState(cell, path, "failed", record.reason, record)
        return VideoState(cell, path, "missing", f"no file {path.name}", record)
    size = path.stat().st_size
    if size == 0:
        return VideoState(cell, path, "corrupt", f"{path.name} is empty", record)
    if record is None or not record.sha256:
        return VideoState(cell, path, "ok", "", record)
    if size != record.bytes:
        return VideoState(cell, path, "corrupt", f"{path.name} has {size} bytes, {record.bytes} were written", record)
    if deep and sha256_of(path) != record.sha256:
        return VideoState(cell, path, "corrupt", f"{path.name} is not what was written: its sha256 differs", record)
    return VideoState(cell, path, "ok", "", record)


def sweep_states(
    parameters: Parameters, sweep: str, *, deep: bool = False, part: str | None = None
) -> list[VideoState]:
    """Where every cell of a sweep stands, in the order of the grid, or those of the shard `part` ("i/n"). Raises ValueError
    for a sweep that `expand` refuses."""
    folder = runs_folder(parameters, sweep)
    cells = shard(expand(parameters, sweep, checked=False), part)
    return [state_of(cell, folder, deep=deep) for cell in cells]


def count_states(states: Iterable[VideoState]) -> dict[str, int]:
    """{state: how many}, all of STATES."""
    counts = Counter(s.state for s in states)
    return {name: counts[name] for name in STATES}


def kind_of(reason: str) -> str:
    """A reason without the paths and numbers in which cells differ where the cause is one."""
    return re.sub(r"\S*/\S*|\S+\.mkv|\d+", "#", reason)


def reasons(states: Iterable[VideoState]) -> list[tuple[str, str, int]]:
    """(state, reason, how many) of what is failed or corrupt, most frequent first; reasons of one kind are counted together,
    under the first of them."""
    bad = [s for s in states if s.state in ("failed", "corrupt")]
    counts, first = Counter((s.state, kind_of(s.reason)) for s in bad), {}
    for s in bad:
        first.setdefault((s.state, kind_of(s.reason)), s.reason)
    return [(kind[0], first[kind], count) for kind, count in counts.most_common()]


def mixed_machines(states: Iterable[VideoState]) -> list[str]:
    """What a sweep's videos were made with where it is not the same for all: "torch 2.13.0: 20 videos, 2.14.0: 4 videos" and
    so on, for torch, diffusers and device."""
    made = [s.record for s in states if s.state == "ok" and s.record is not None and s.record.torch]
    found = []
    for name in ("torch", "diffusers", "device"):
        counts = Counter(getattr(record, name) for record in made)
        if len(counts) > 1:
            found.append(f"{name} " + ", ".join(f"{value}: {count} videos" for value, count in sorted(counts.items())))
    return found


def shard(cells: list[Cell], part: str | None) -> list[Cell]:
    """Every n-th cell for "i/n" (0 <= i < n), all of them for None. Raises ValueError for anything else."""
    if part is None:
        return cells
    try:
        i, n = map(int, part.split("/"))
    except ValueError:
        i, n = -1, 0
    if not 0 <= i < n:
        raise ValueError(f"--shard is {part!r}; it must be i/n with 0 <= i < n, such as 0/4")
    return cells[i::n]


# Tables --------------------------------------------------------------------------------------------------------------
def write_tables(folder: Path, states: Iterable[VideoState], images: dict[str, Path]) -> None:
    """Write manifest.csv and videos.csv of a sweep. images: the reference image of each cell, by its key."""
    rows = [_row(state, folder, images) for state in states]
    _write_csv(folder / "videos.csv", (*MANIFEST, *RECORDED), rows)
    _write_csv(folder / "manifest.csv", MANIFEST, rows)  # last: it says that the sweep is whole


def _row(state: VideoState, folder: Path, images: dict[str, Path]) -> dict:
    cell, record, note = state.cell, state.record or Record(state.state), state.path.with_suffix(".txt")
    reason = state.reason
    if state.state == "ok" and note.is_file():  # what a method said about this video
        reason = note.read_text()
    reference = folder / record.reference if record.reference else images[cell.key]
    own = {"key": cell.key, "status": state.state, "reason": reason, "reference": reference.as_posix()}
    return asdict(record) | asdict(cell) | own | {"file": state.path.name if state.path.is_file() else ""}


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in columns} for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue()))


def read_videos(parameters: Parameters, sweep: str) -> list[dict[str, str]]:
    """The rows of a sweep's videos.csv as text, "" where something is not known. Raises ValueError where there is none."""
    file = runs_folder(parameters, sweep) / "videos.csv"
    if not file.is_file():
        raise ValueError(f"no {file}: run `python -m analysis generate {sweep}`, or `merge` if all of it is there")
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
