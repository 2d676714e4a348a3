"""The columns of a score table: what each measures, in which unit, and whether it is a proportion.

This decides how a column's interval is made (Wilson's only for proportions), never the values that happen to be in it.
"""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """label: what it is called; unit: it is told in, and factor: from the table's values to it; digits: in the table;
    proportion: every video has 0 or 1; blind: what it cannot see."""

    label: str
    unit: str
    factor: float = 1.0
    digits: int | None = None
    proportion: bool = False
    blind: str = ""


COLUMNS = {
    "adherence": Column(
        "adherence", "points", 100, proportion=True,
        blind="How anything looks that no question is about; a change that is half there counts as none.",
    ),
    "still_copy": Column(
        "still copies", "points", 100, proportion=True,
        blind="A video that moves and yet answers every question as a copy of its reference would counts as one.",
    ),
    "returned": Column(
        "returns to the first frame", "points", 100, proportion=True,
        blind="A return in the last quarter's second half; a change that was never shown cannot return.",
    ),
    "macro": Column(
        "share of right answers", "points", 100, 4, blind="Half of the questions are answered right by a copy of the reference."
    ),
    "asked_px": Column(
        "displacement of the named object", "px", 1, 2,
        blind="Defined where a move is asked for only. The direction; the path; an object that is lost stays where it was seen.",
    ),
    "displacement_px": Column(
        "displacement of all objects", "px", 1, 2,
        blind="Objects that are lost or change colour; one that moves is averaged with those that stand.",
    ),
    "onset": Column(
        "onset of the change", "frames", 1, 0,
        blind="Changes other than the asked one. It lies late by about a frame, as half of the change has to be seen.",
    ),
    "flow_px": Column(
        "motion (flow)", "px / frame", 1, 2,
        blind="What moves: a shape that fades in, or breaks up, counts as motion, and a slow one may count as none.",
    ),
    "flow_q1": Column("flow, first quarter", "px / frame", 1, 2, blind="As flow."),
    "flow_q2": Column("flow, second quarter", "px / frame", 1, 2, blind="As flow."),
    "flow_q3": Column("flow, third quarter", "px / frame", 1, 2, blind="As flow."),
    "flow_q4": Column("flow, last quarter", "px / frame", 1, 2, blind="As flow."),
    "temporal_flickering": Column(
        "temporal flickering (VBench)", "points", 100, 5, blind="It penalises any change: a frozen video has the highest value."
    ),
    "object_integrity": Column(
        "objects that keep form, area and colour", "points", 100, 3,
        blind="Texture, and where an object is; undefined where the only object is to disappear.",
    ),
    "subject_psnr": Column(
        "fidelity inside objects", "dB", 1, 1, blind="Outlines that grow; objects that are to disappear or to turn are left out."
    ),
    "first_psnr": Column("first-frame fidelity", "dB", 1, 1, blind="Everything after the first frame."),
    "background_psnr": Column(
        "background fidelity", "dB", 1, 1, blind="Objects: only pixels that are grey in the video and in the reference count."
    ),
    "sharpness_retention": Column(
        "sharpness", "", 1, 3, blind="What is sharp: an object that is lost lowers it, one that appears raises it."
    ),
}  # fmt: skip
# Columns that are defined for some samples only, by what is asked of them.
PARTIAL = ("asked_px", "object_integrity", "subject_psnr")
MOTION = ("asked_px",)  # for those that ask for motion alone


def is_proportion(column: str) -> bool:
    """Whether a column holds 0 or 1 for every video; what is not a score column (a share of attention, a rank
    correlation) is not one."""
    return column in COLUMNS and COLUMNS[column].proportion
