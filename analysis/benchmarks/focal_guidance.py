"""Focal Guidance's three dimensions: pairs with a subject's box, of which two crops are made, in either of two orders."""

from __future__ import annotations

from pathlib import Path

from .canonical_crops import ORDERS, RATIOS, crop_file
from .listed_samples import read_list
from .sample import Problem

FILE = "focal_guidance.json"
DIMENSIONS = ("Dynamic Attributes", "Human Motion", "Human Interaction")
ORIGIN = "origin"


def recognised(folder: Path) -> bool:
    """Whether a folder holds Focal Guidance's list of samples."""
    return (folder / FILE).is_file()


def read(folder: Path, crop: str | None = None, order: str = "paper") -> tuple[list, str, list[Problem]]:
    """(records, the file that lists them, problems). crop: "origin", the default, or one of RATIOS, cut in `order`."""
    crop = crop or ORIGIN
    if crop not in (ORIGIN, *RATIOS) or order not in ORDERS:
        raise ValueError(
            f"crop is {crop!r} and order {order!r}; Focal Guidance's has crops {ORIGIN}, {', '.join(RATIOS)} "
            f"and orders {', '.join(ORDERS)}"
        )
    rows, problems = read_list(folder / FILE)
    if crop != ORIGIN and not (folder / "crops" / order / crop).is_dir():
        run = f"python -m analysis benchmark-crop {folder} --ratio {crop} --order {order}"
        problems.append(Problem("missing file", f"crops/{order}/{crop}", f"no crops were made; run `{run}`"))
    records = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            records.append(row)
            continue
        name, dimension = row.get("id"), row.get("dimension")
        if dimension not in DIMENSIONS:
            where = name if isinstance(name, str) else f"{FILE}[{i}]"
            problems.append(
                Problem("wrong field", where, f"dimension is {dimension!r}; it is one of {', '.join(DIMENSIONS)}")
            )
        box = row.get("subject_box")
        if crop != ORIGIN and not box:
            problems.append(Problem("wrong field", str(name), "subject_box is missing, and crops follow it"))
        image = row.get("image") if crop == ORIGIN else crop_file(str(name), crop, order)
        record = {"id": name, "prompt": row.get("prompt"), "image-path": image, "main-category": dimension or ""}
        record |= {"domain": "origin" if crop == ORIGIN else f"crop {crop}, {order}"}
        record |= {"questions": [_question(q) for q in row.get("questions") or []]}
        records.append(record | ({"subject-box": box} if box and crop == ORIGIN else {}))
    return records, FILE, problems


def _question(given: object) -> object:
    if not isinstance(given, dict):
        return given
    renamed = {"expected_answer": given["answer"]} if "answer" in given else {}
    return {k: v for k, v in given.items() if k != "answer"} | renamed
