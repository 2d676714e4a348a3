"""The table that says which videos are scored: a CSV with `video`, and `image`, `prompt`, `id`, `questions`, `fps` as needed."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from .scorer import Sample

COLUMNS = ("video", "image", "prompt", "id", "questions", "fps")


@dataclass(frozen=True)
class Row:
    """A video of a manifest. video: as the manifest writes it; path: the file; fps: stated frames per second, or None."""

    video: str
    path: Path
    sample: Sample
    fps: float | None = None


def read_manifest(path: Path, fps: float | None = None) -> tuple[list[Row], list[str]]:
    """(the rows, the names of columns that no scorer reads). Paths are relative to the manifest's folder.

    fps: stated for all videos whose row states none. Raises ValueError, naming the line, for anything that cannot be read,
    before a video is opened.
    """
    if not path.is_file():
        raise ValueError(f"there is no manifest {path}")
    if fps is not None:
        _positive(str(fps), "--fps")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if "video" not in columns:
            raise ValueError(f"{path} has no column 'video'; it has {', '.join(columns) or 'none'}")
        lines = [(reader.line_num, line) for line in reader]
    if not lines:
        raise ValueError(f"{path} has no rows")
    rows, seen = [], {}
    for number, line in lines:
        where = f"{path}, line {number}"
        if None in line or None in line.values():
            raise ValueError(f"{where}: it has not as many fields as the header, {len(columns)}")
        if not line["video"]:
            raise ValueError(f"{where}: no video is named")
        if line["video"] in seen:
            raise ValueError(f"{where}: {line['video']} is in line {seen[line['video']]} already; rows of the scores could "
                             "not be told apart (a link under another name may be scored, too)")  # fmt: skip
        seen[line["video"]] = number
        given = {k: line[k] for k in COLUMNS if line.get(k)}
        sample = Sample(
            image=path.parent / given["image"] if "image" in given else None,
            prompt=given.get("prompt"),
            id=given.get("id"),
            questions=_questions(given["questions"], where) if "questions" in given else None,
        )
        stated = _positive(given["fps"], f"{where}: fps") if "fps" in given else fps
        rows.append(Row(line["video"], path.parent / line["video"], sample, stated))
    return rows, [c for c in columns if c not in COLUMNS]


def only(sample: Sample, inputs: tuple[str, ...]) -> Sample:
    """The sample with those inputs alone that a scorer declares."""
    return replace(Sample(), **{name: getattr(sample, name) for name in inputs})


def _questions(text: str, where: str) -> list[dict]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: questions are no JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(q, dict) for q in found):
        raise ValueError(f"{where}: questions are a JSON list of objects, not {text[:60]}")
    return found


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise ValueError(f"{what} is {text}; a positive number is wanted")
    return value
