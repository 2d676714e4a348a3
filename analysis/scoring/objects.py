"""What the named object of a video does, and what becomes of the others: displacement, onset, return, integrity.

A frame is read as masks of the world's colours. The object that the prompt names is followed by all pixels of its colour, so
that a shape that breaks up still has one place. How far each measure is from the truth, on true clips that went through an
autoencoder, is in results/instruments/.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.oracle import MIN_AREA, Component, colour_masks, parse_frame, understand

from .fidelity import psnr

LEFT = 4.0  # pixels from its place at the start from which on a moving object has set off
SEEN = 0.25  # of its first area below which an object is lost
AREA = (0.6, 1.6)  # of its first area between which an object keeps its size


@dataclass(frozen=True)
class Asked:
    """What a sample's questions are about: the event, the named object's colour, and the colour it turns to."""

    event: str
    colour: str
    other: str = ""


def asked_of(questions: list[dict]) -> Asked:
    """The change that the questions with the answer "yes" ask for. Raises ValueError if they ask for none."""
    kinds = dict(understand(q["question"]) for q in questions if q["expected_answer"] == "yes")
    if "turned" in kinds:
        return Asked("recolour", kinds["turned"]["colour"], kinds["turned"]["other"])
    for kind, event in (("moved", "move"), ("gone", "disappear")):
        if kind in kinds:
            return Asked(event, kinds[kind]["colour"])
    if "more" in kinds and "present" in kinds:
        return Asked("appear", kinds["present"]["colour"])
    raise ValueError(f"no change is asked for: {[q['question'] for q in questions]}")


def _areas_and_places(video: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Area (T,) in square pixels and centroid (T, 2) in pixels (x, y; nan without area) of a colour in every frame."""
    masks = np.stack([colour_masks(frame)[colour] for frame in video])
    area = masks.sum((1, 2)).astype(float)
    y, x = np.mgrid[0 : video.shape[1], 0 : video.shape[2]] + 0.5
    with np.errstate(invalid="ignore"):
        return area, np.stack([(masks * x).sum((1, 2)) / area, (masks * y).sum((1, 2)) / area], axis=1)


def last_quarter(frames: int) -> slice:
    """The frames that tell how a video ends."""
    return slice(frames - max(1, frames // 4), frames)


def displaced(video: np.ndarray, colour: str) -> np.ndarray:
    """How far the object of a colour is from its place in the first frame, (T,) in pixels; while it is lost, as far as when
    it was last seen; nan if the first frame does not show it."""
    area, place = _areas_and_places(video, colour)
    if area[0] < MIN_AREA:
        return np.full(len(video), np.nan)
    away = np.hypot(*(place - place[0]).T)
    seen = area >= SEEN * area[0]
    return away[np.maximum.accumulate(np.where(seen, np.arange(len(video)), 0))]


def changed(video: np.ndarray, asked: Asked) -> np.ndarray:
    """For every frame, whether it shows what was asked for, (T,) bool: a move by its first pixels, the other events by half
    of the object's area."""
    if asked.event == "move":
        return np.nan_to_num(displaced(video, asked.colour)) >= LEFT
    area, _ = _areas_and_places(video, asked.colour)
    if asked.event == "appear":
        return area - area[0] >= 2 * MIN_AREA
    if asked.event == "disappear":
        return area < 0.5 * max(area[0], 1.0)
    other, _ = _areas_and_places(video, asked.other)
    return other - other[0] >= 0.5 * max(area[0], 2 * MIN_AREA)


def onset_and_return(shown: np.ndarray) -> tuple[int, int]:
    """(the first frame from which on the change is shown twice running, the number of frames if never; 1 if it was shown and
    the last quarter mostly does not show it, else 0)."""
    twice = np.flatnonzero(shown[:-1] & shown[1:])
    if not len(twice):
        return len(shown), 0
    return int(twice[0]), int(shown[last_quarter(len(shown))].mean() < 0.5)


def _same(before: Component, frame: list[Component], colours: tuple[str, ...]) -> bool:
    low, high = (share * before.area for share in AREA)
    return any(c.colour in colours and c.shape == before.shape and low <= c.area <= high for c in frame)


def integrity(video: np.ndarray, reference: np.ndarray, asked: Asked) -> float:
    """Share of the reference's objects that, in most frames of the last quarter, still have their form, area and colour
    (either colour, of one that turns); those that are to disappear are left out. nan if none is left."""
    ends = [parse_frame(frame) for frame in video[last_quarter(len(video))]]
    kept = []
    for before in parse_frame(reference):
        named = before.colour == asked.colour and asked.event != "appear"
        if named and asked.event == "disappear":
            continue
        colours = (asked.colour, asked.other) if named and asked.event == "recolour" else (before.colour,)
        kept.append(np.mean([_same(before, end, colours) for end in ends]) > 0.5)
    return float(np.mean(kept)) if kept else float("nan")


def subject_psnr(video: np.ndarray, reference: np.ndarray, asked: Asked) -> float:
    """PSNR in dB of the last quarter inside the reference's objects, each compared where it is by then; those that are to
    disappear or to turn are left out. Mean over objects; nan if none is left."""
    objects = [c for c in parse_frame(reference) if c.colour != asked.colour or asked.event in ("move", "appear")]
    values = []
    for before in objects:
        mask = colour_masks(reference)[before.colour]
        rows, columns = np.nonzero(mask)
        clip = np.concatenate([reference[None], video[last_quarter(len(video))]])
        _, place = _areas_and_places(clip, before.colour)
        for frame, (x, y) in zip(clip[1:], place[1:], strict=True):
            shift = np.rint([x - place[0, 0], y - place[0, 1]]) if np.isfinite(x) else np.zeros(2)
            there = (
                (rows + int(shift[1])).clip(0, frame.shape[0] - 1),
                (columns + int(shift[0])).clip(0, frame.shape[1] - 1),
            )
            values.append(psnr(frame[there], reference[rows, columns]))
    return float(np.mean(values)) if values else float("nan")


def object_measures(video: np.ndarray, reference: np.ndarray, questions: list[dict]) -> dict[str, float]:
    """The columns asked_px (nan where no move is asked for), onset, returned, object_integrity and subject_psnr of a uint8
    (T, 64, 64, 3) video and its uint8 (64, 64, 3) reference."""
    asked = asked_of(questions)
    away = displaced(video, asked.colour)[last_quarter(len(video))].mean() if asked.event == "move" else float("nan")
    onset, returned = onset_and_return(changed(video, asked))
    return {
        "asked_px": float(np.nan_to_num(away)) if asked.event == "move" else float("nan"),
        "onset": onset,
        "returned": returned,
        "object_integrity": integrity(video, reference, asked),
        "subject_psnr": subject_psnr(video, reference, asked),
    }
