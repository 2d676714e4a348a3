"""Answer yes/no questions about a video from its pixels alone.

A frame is parsed into components of one palette colour (nearest in CIELAB), each fitted with the world's three shapes.
A question about the end of the video is answered by the majority of its last quarter, a question about an event by
comparing that with the first frame. The oracle knows the world's colours and shapes, never the truth of a sample; it
has the interface of a vision-language model: text in, "yes", "no" or "unknown" out. Unknown counts as wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .world import COLOURS, DIRECTIONS, SHAPES, SIZE, Shape, _coverage

MIN_AREA = 0.015 * SIZE * SIZE  # a quarter of the smallest shape that the world draws
MAX_DISTANCE = 32.0  # CIELAB units to a palette colour; a shape at 60 % opacity is still seen
MOVED = 6.0  # pixels; events cover 16 to 24
# Decoding rounds corners, which makes squares and triangles look like circles, never the other way round. So shapes are
# compared with templates that are rounded too, and a circle has to fit better by a little. Set on decoded training clips.
ROUNDING = 1.5  # pixels
CIRCLE_HANDICAP = 0.015  # intersection over union
NEAR = 8.0  # pixels within which a component at the end is the object that was there at the start


@dataclass(frozen=True)
class Component:
    """A coloured region of a frame. `fit` is the intersection over union with the best shape, `margin` how much
    better that is than the second best; x, y in pixels, area in square pixels."""

    colour: str
    shape: str
    x: float
    y: float
    area: float
    fit: float
    margin: float


@dataclass(frozen=True)
class Answer:
    """`value` is "yes", "no" or "unknown"; `margin` in [0, 1] says how clear it was (1: all evidence agrees)."""

    value: str
    margin: float


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(rgb, np.float32) / 255, cv2.COLOR_RGB2LAB)


@lru_cache
def _palette() -> np.ndarray:
    return _lab(np.array([list(COLOURS.values())]))[0]  # (6, 3)


def colour_masks(frame: np.ndarray) -> dict[str, np.ndarray]:
    """For each colour, the pixels of a uint8 (64, 64, 3) frame that have it, (64, 64) bool, specks left out. Raises
    ValueError for another size or type."""
    if frame.shape != (SIZE, SIZE, 3) or frame.dtype != np.uint8:
        raise ValueError(f"the oracle reads uint8 frames of {SIZE} x {SIZE} x 3, not {frame.dtype} {frame.shape}")
    lab = _lab(frame)
    distance = np.linalg.norm(lab[:, :, None] - _palette(), axis=-1)  # (64, 64, 6)
    nearest, close = distance.argmin(-1), distance.min(-1) < MAX_DISTANCE
    masks = [((nearest == i) & close).astype(np.uint8) for i in range(len(COLOURS))]
    opened = [cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) for mask in masks]
    return {colour: mask.astype(bool) for colour, mask in zip(COLOURS, opened, strict=True)}


def parse_frame(frame: np.ndarray) -> list[Component]:
    """All components of a uint8 (64, 64, 3) frame, largest first. Raises ValueError for another size or type."""
    found, lab = [], None
    for colour, mask in colour_masks(frame).items():
        if not mask.any():
            continue
        lab = _lab(frame) if lab is None else lab
        count, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        for k in range(1, count):
            area = float(stats[k, cv2.CC_STAT_AREA])
            if area >= MIN_AREA:
                x, y = centroids[k] + 0.5
                shape, fit, margin = _fit_shape(_half_covered(lab, labels == k))
                found.append(Component(colour, shape, float(x), float(y), area, fit, margin))
    return sorted(found, key=lambda c: -c.area)


@lru_cache
def _unit_area(shape: str) -> tuple[float, float]:
    """(area / radius^2, centroid's offset in y / radius) of a drawn shape."""
    cover = _coverage(Shape("red", shape, SIZE / 2, SIZE / 2, 10.0), SIZE / 2, SIZE / 2, 10.0)
    y = (cover.sum(1) * (np.arange(SIZE) + 0.5)).sum() / cover.sum()
    return float(cover.sum() / 100), float((y - SIZE / 2) / 10)


def _half_covered(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The component with the pixels around it that its colour covers by half or more: corners survive blurring."""
    around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool) & ~around
    if not ring.any():
        return mask
    inside, outside = np.median(lab[mask], axis=0), np.median(lab[ring], axis=0)
    axis = (inside - outside) / max(1e-6, float(np.square(inside - outside).sum()))
    return mask | (around & ((lab - outside) @ axis >= 0.5))


def _fit_shape(mask: np.ndarray) -> tuple[str, float, float]:
    """(best shape, its intersection over union, lead over the second) for shapes of the mask's area and centroid."""
    rows, columns = np.nonzero(mask)
    y, x = rows.mean() + 0.5, columns.mean() + 0.5
    scores = {}
    for shape in SHAPES:
        unit, offset = _unit_area(shape)
        radius = float(np.sqrt(len(rows) / unit))
        drawn = _coverage(Shape("red", shape, x, y, radius), x, y - offset * radius, radius)
        drawn = cv2.GaussianBlur(drawn, (0, 0), ROUNDING) > 0.5
        fit = (mask & drawn).sum() / max(1, (mask | drawn).sum())
        scores[shape] = float(fit) - (CIRCLE_HANDICAP if shape == "circle" else 0.0)
    best, second = sorted(scores, key=scores.get, reverse=True)[:2]
    return best, scores[best], scores[best] - scores[second]


def parse_ends(video: np.ndarray) -> tuple[list[Component], list[list[Component]]]:
    """Components of the first frame and of each frame of the last quarter of a uint8 (T, 64, 64, 3) video."""
    return parse_frame(video[0]), [parse_frame(frame) for frame in video[-max(1, len(video) // 4) :]]


# --- questions -------------------------------------------------------------------------------------------------------

QUESTIONS = {  # kind: (category, template)
    "present": ("object_presence", "Is there a {colour} {shape} at the end of the video?"),
    "more": ("count", "Does the number of shapes increase during the video?"),
    "fewer": ("count", "Does the number of shapes decrease during the video?"),
    "same": ("count", "Does the number of shapes stay the same during the video?"),
    "gone": ("action_correctness", "Does the {colour} {shape} disappear during the video?"),
    "turned": ("attribute_change", "Does the {colour} {shape} turn {other} during the video?"),
    "moved": ("motion", "Does the {colour} {shape} move {direction} during the video?"),
    "still": ("motion", "Does the {colour} {shape} stay in place during the video?"),
}


def _pattern(template: str) -> re.Pattern:
    groups = dict(colour=COLOURS, shape=SHAPES, other=COLOURS, direction=DIRECTIONS)
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for name, values in groups.items():
        text = text.replace("{" + name + "}", f"(?P<{name}>{'|'.join(values)})")
    return re.compile(text, re.IGNORECASE)


PATTERNS = {kind: _pattern(template) for kind, (_, template) in QUESTIONS.items()}


def understand(question: str) -> tuple[str, dict[str, str]]:
    """(kind, words) of a question. Raises ValueError naming the question when no template matches."""
    for kind, pattern in PATTERNS.items():
        if match := pattern.fullmatch(question.strip()):
            return kind, {k: v.lower() for k, v in match.groupdict().items()}
    raise ValueError(f"the oracle does not understand {question!r}; it knows the forms of oracle.QUESTIONS")


class Oracle:
    """`answer(video, question)`; parsed videos are kept for the questions that follow about the same array."""

    name = "oracle"

    def __init__(self):
        self._parsed: tuple[np.ndarray, tuple] | None = None

    def parse(self, video: np.ndarray) -> tuple[list[Component], list[list[Component]]]:
        """`parse_ends`, remembered for the last video."""
        if self._parsed is None or self._parsed[0] is not video:
            self._parsed = (video, parse_ends(video))
        return self._parsed[1]

    def answer(self, video: np.ndarray, question: str) -> Answer:
        """video: uint8 (T, 64, 64, 3), T >= 4. Raises ValueError for a question outside the grammar."""
        kind, words = understand(question)
        start, ends = self.parse(video)
        votes = [_ask(kind, words, start, end) for end in ends]
        yes, no = votes.count(True), votes.count(False)
        if yes == no or max(yes, no) <= len(votes) / 2:
            return Answer("unknown", 0.0)
        return Answer("yes" if yes > no else "no", abs(yes - no) / len(votes))


def _ask(kind: str, words: dict, start: list[Component], end: list[Component]) -> bool | None:
    """The answer from the first frame and one frame of the end; None when the object asked about was never there."""
    if kind in ("more", "fewer", "same"):
        change = len(end) - len(start)
        return {"more": change > 0, "fewer": change < 0, "same": change == 0}[kind]
    colour, shape = words["colour"], words["shape"]
    if kind == "present":
        return any(c.colour == colour and c.shape == shape for c in end)
    before = next((c for c in start if c.colour == colour), None)
    if before is None:
        return None
    at_place = [c for c in end if np.hypot(c.x - before.x, c.y - before.y) < NEAR]
    after = next((c for c in end if c.colour == colour), None)
    if kind == "gone":
        return after is None and not at_place
    if kind == "turned":
        return any(c.colour == words["other"] for c in at_place)
    if after is None:
        return None
    dx, dy = after.x - before.x, after.y - before.y
    if kind == "still":
        return bool(np.hypot(dx, dy) < MOVED)
    ux, uy = DIRECTIONS[words["direction"]]
    along, across = dx * ux + dy * uy, abs(dx * uy) + abs(dy * ux)
    return bool(along >= MOVED and along > across)


def displacement(start: list[Component], ends: list[list[Component]]) -> float:
    """Mean distance in pixels, over the objects seen at the start and at the end (see `parse_ends`), between where they
    are then.

    Objects are matched by colour; 0.0 when none is seen at both times.
    """
    moves = []
    for before in start:
        after = [next((c for c in end if c.colour == before.colour), None) for end in ends]
        after = [c for c in after if c is not None]
        if after:
            x, y = np.mean([c.x for c in after]), np.mean([c.y for c in after])
            moves.append(float(np.hypot(x - before.x, y - before.y)))
    return float(np.mean(moves)) if moves else 0.0
