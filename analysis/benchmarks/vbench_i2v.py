"""VBench-I2V: one list of prompts without ids, and the same photographs cropped to four ratios."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from .listed_samples import read_list
from .sample import Problem

FILE = "vbench2_i2v_full_info.json"
CROPS = ("16-9", "7-4", "8-5", "1-1", "origin")  # the first that is there is taken, if none is asked for
ROOTS = ("", "data", "vbench2_beta_i2v", "vbench2_beta_i2v/data")  # where its script and its users unpack it
SUBJECT = "i2v_subject"


def recognised(folder: Path) -> bool:
    """Whether a folder holds VBench-I2V's list of prompts where its script or its users put it."""
    return _list(folder).is_file()


def _list(folder: Path) -> Path:
    return next((p for root in ROOTS if (p := folder / root / FILE).is_file()), folder / FILE)


def crop_folder(folder: Path, crop: str | None) -> tuple[str, str]:
    """(the crop, its folder relative to `folder`) that is asked for, or the first of CROPS that is there. Raises ValueError for
    an unknown crop; one that is not there is returned as where it should be."""
    if crop is not None and crop not in CROPS:
        raise ValueError(f"crop is {crop!r}; VBench-I2V has {', '.join(CROPS)}")
    for name in [crop] if crop else CROPS:
        for root in ROOTS:
            place = Path(root) / name if name == "origin" else Path(root) / "crop" / name
            if (folder / place).is_dir():
                return name, place.as_posix()
    name = crop or CROPS[0]
    return name, f"data/{name}" if name == "origin" else f"data/crop/{name}"


def sample_id(prompt: str) -> str:
    """An id that a file may be called, the same for the same prompt: its words, and a hash, since they may be cut off."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return f"{words[:48].rstrip('-')}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"


def read(folder: Path, crop: str | None = None) -> tuple[list, str, list[Problem]]:
    """(records of the subject rows, the file that lists them, problems)."""
    name, place = crop_folder(folder, crop)
    rows, problems = read_list(_list(folder))
    if not (folder / place).is_dir():
        problems.append(Problem("missing file", place, "there is no such folder of images"))
    records = []
    for i, row in enumerate(rows):
        wrong = [k for k in ("prompt_en", "image_name", "dimension") if not isinstance(row, dict) or not row.get(k)]
        if wrong:
            problems.append(Problem("wrong field", f"{FILE}[{i}]", f"lacks {', '.join(wrong)}"))
        elif SUBJECT in row["dimension"]:
            prompt = str(row["prompt_en"])
            record = {"id": sample_id(prompt), "prompt": prompt, "image-path": f"{place}/{row['image_name']}"}
            kind = str(row.get("image_type", ""))
            records.append(record | {"main-category": kind, "sub-category": kind, "domain": f"crop {name}"})
    if rows and not records:
        problems.append(
            Problem("wrong field", FILE, f"none of its {len(rows)} rows has {SUBJECT} among its dimensions")
        )
    return records, FILE, problems
