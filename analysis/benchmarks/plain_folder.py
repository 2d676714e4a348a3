"""Any folder of images or videos, with prompts in a file, or beside each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from .reference_images import IMAGES, VIDEOS
from .sample import Problem

TABLE, MAPPING = "prompts.csv", "prompts.json"


def recognised(folder: Path) -> bool:
    """Whether a folder holds an image or a video, at any depth."""
    return any(p.suffix.lower() in (*IMAGES, *VIDEOS) for p in folder.rglob("*") if p.is_file())


def read(folder: Path) -> tuple[list, str, list[Problem]]:
    """(records, the file that has the prompts, problems): files without a prompt, and prompts without a file."""
    files = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in (*IMAGES, *VIDEOS)
    )
    told, source, problems = _prompts(folder, files)
    records = []
    for file, prompt, name in told:
        if file not in files:
            problems.append(Problem("missing image", file, f"{source} has a prompt for it, and there is no such file"))
        elif not prompt.strip():
            problems.append(Problem("wrong field", file, f"its prompt in {source} is empty"))
        else:
            records.append({"id": name or Path(file).with_suffix("").as_posix().replace("/", "-"), "prompt": prompt,
                            "image-path": file, "main-category": Path(file).parent.as_posix().strip(".")})  # fmt: skip
    if told and (without := sorted(set(files) - {file for file, _, _ in told})):
        problems += [Problem("no prompt", file, f"{source} has no prompt for it") for file in without]
    return records, source, problems


def _prompts(folder: Path, files: list[str]) -> tuple[list[tuple[str, str, str]], str, list[Problem]]:
    """((file, prompt, id or "") of each, where they are from, problems)."""
    if (path := folder / TABLE).is_file():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if lacking := {"file", "prompt"} - set(rows.fieldnames or []):
                return [], TABLE, [Problem("wrong field", TABLE, f"lacks {sorted(lacking)}; it has {rows.fieldnames}")]
            return [(r["file"] or "", r["prompt"] or "", r.get("id") or "") for r in rows], TABLE, []
    if (path := folder / MAPPING).is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return [(k, str(v), "") for k, v in found.items()], MAPPING, []
        except (ValueError, AttributeError) as error:
            return [], MAPPING, [Problem("unreadable file", MAPPING, f"is no JSON of {{file: prompt}}: {error}")]
    beside = [
        (f, t.read_text(encoding="utf-8"), "") for f in files if (t := (folder / f).with_suffix(".txt")).is_file()
    ]
    if beside:
        return beside, "text files", []
    said = f"no {TABLE}, {MAPPING} or text files beside the {len(files)} images and videos say what is asked for"
    return [], TABLE, [Problem("missing file", TABLE, said)]
