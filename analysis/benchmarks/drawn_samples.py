"""Draws from data sets that are too large to use whole: which ids, by a rule that anyone can repeat, and what was drawn.

The rule: ids are ordered by the SHA-256 of "SEED/ID", and the first n are drawn. It depends on no library's random numbers and
not on the order of the data; a larger draw of the same seed begins with the smaller one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from .reference_images import sha256
from .sample import Problem

FILE = "draw.json"
RULE = 'the first by SHA-256 of "SEED/ID"'
DRAWN_FROM = ("pe_video", "vidprom")


def draw(ids: Iterable[str], n: int, seed: int) -> list[str]:
    """n of `ids`, in the order of the rule. Raises ValueError when there are fewer, or one is there twice."""
    ids = list(ids)
    if len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} of {len(ids)} ids are there twice; nothing can be drawn by id")
    if not 1 <= n <= len(ids):
        raise ValueError(f"{n} samples are asked for; there are {len(ids)}")
    return sorted(ids, key=lambda i: place(i, seed))[:n]


def place(sample_id: str, seed: int) -> str:
    """Where a sample stands in the order of a draw: hexadecimal text, the smallest are drawn."""
    return hashlib.sha256(f"{seed}/{sample_id}".encode()).hexdigest()


def population_hash(ids: Iterable[str]) -> str:
    """A hash of all ids that could be drawn, whatever their order: equal draws are of equal populations."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def write_draw(folder: Path, name: str, seed: int, population: list[str], samples: list[dict]) -> None:
    """Write draw.json: what was drawn from what. Each sample has id, prompt, image (relative) and, if the image is there, its
    sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"benchmark": name, "rule": RULE, "seed": seed, "drawn": len(samples), "of": len(population)}
    found |= {"population_sha256": population_hash(population), "samples": samples}
    (folder / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def seal(folder: Path) -> int:
    """Write the hashes of the images that are there into draw.json, so that others can tell whether theirs are the same; their
    number."""
    found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    there = [s for s in found["samples"] if (folder / s["image"]).is_file()]
    for sample in there:
        sample["sha256"] = sha256(folder / sample["image"])
    (folder / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(there)


def name_of(folder: Path) -> str | None:
    """What a folder's draw is from, None if it is no draw of a known data set."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = found.get("benchmark") if isinstance(found, dict) else None
    return name if name in DRAWN_FROM else None


def read(folder: Path) -> tuple[list, str, list[Problem]]:
    """(records, the file that lists them, problems): also ids that are not in the rule's order."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        seed, rows = int(found["seed"]), list(found["samples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], FILE, [Problem("unreadable file", FILE, f"is no draw: {type(error).__name__}: {error}")]
    problems, records = [], []
    ids = [str(r.get("id")) for r in rows if isinstance(r, dict)]
    if ids != sorted(ids, key=lambda i: place(i, seed)):
        problems.append(
            Problem("wrong field", FILE, f"the ids are not those that seed {seed} draws, in the rule's order")
        )
    for row in rows:
        if not isinstance(row, dict):
            records.append(row)
            continue
        record = {"id": row.get("id"), "prompt": row.get("prompt"), "image-path": row.get("image")}
        records.append(record | {"domain": f"seed {seed}", "sha256": row.get("sha256") or ""})
    return records, FILE, problems
