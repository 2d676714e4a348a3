"""What is done to the inputs of a pipeline in the place of steering it: compression of the reference, a negative prompt.

A part of a setting in `methods` of params.yaml has a `method`, which is steered, or an `input`, which is one of EDITS:

    jpeg-25: [{input: jpeg, quality: 25}]
    h264-33: [{input: h264, crf: 33}]
    negative: [{input: negative_prompt, text: "all stays still."}]

Blur is no such edit: sweeps have an axis `blur` for it. The reference is compressed before it is blurred.
"""

from __future__ import annotations

# Name -> (its one value, its type).
EDITS = {"jpeg": ("quality", int), "h264": ("crf", int), "negative_prompt": ("text", str)}
SOURCES = ("reference_compression.py",)  # of methods/: what a video depends on that has such an edit


def split(parts: list[dict]) -> tuple[list[dict], list[dict]]:
    """(edits of inputs, settings of methods) of the parts of a setting."""
    return [p for p in parts if "input" in p], [p for p in parts if "input" not in p]


def check_edit(edit: dict) -> None:
    """Raise ValueError for an edit that does not exist, or whose value is missing or out of range."""
    if edit.get("input") not in EDITS:
        raise ValueError(f"unknown input {edit.get('input')!r}; allowed are {', '.join(EDITS)}")
    name, kind = EDITS[edit["input"]]
    if set(edit) != {"input", name}:
        raise ValueError(f"the input {edit['input']} has one value, {name}, not {sorted(set(edit) - {'input'})}")
    value = edit[name]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{edit['input']} {name} must be of type {kind.__name__}, not {value!r}")
    low, high = {"quality": (1, 100), "crf": (0, 51)}.get(name, (None, None))
    if low is not None and not low <= value <= high:
        raise ValueError(f"{edit['input']} {name} must be a whole number from {low} to {high}, not {value}")


def edit_reference(image, edits: list[dict]):
    """The RGB reference (PIL) with what the edits do to it, in their order."""
    from methods import h264_image, jpeg_image  # loads torch

    for edit in edits:
        if edit["input"] == "jpeg":
            image = jpeg_image(image, edit["quality"])
        elif edit["input"] == "h264":
            image = h264_image(image, edit["crf"])
    return image


def negative_prompt(edits: list[dict], own: str) -> str:
    """The negative prompt that the edits give, or the backbone's own."""
    return next((edit["text"] for edit in reversed(edits) if edit["input"] == "negative_prompt"), own)
