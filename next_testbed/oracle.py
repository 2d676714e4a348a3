"""Answer yes/no questions about a video from its pixels alone.

A frame is parsed into components of one palette colour (nearest in CIELAB), each fitted with the world's three shapes.
A question about the end of the video is answered by the majority of its last quarter, a question about an event by
comparing that with the first frame, after the camera's motion, read off the background, has been taken off. The oracle
knows the world's colours and shapes, never the truth of a sample; it has the interface of a vision-language model: text
in, "yes", "no" or "unknown" out. Unknown counts as wrong.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from testbed.oracle import MOVED, NEAR, Answer, Component, parse_frame

from .camera import camera_shift
from .world import COLOURS, DIRECTIONS, SHAPES


def last_quarter(frames: int) -> list[int]:
    """The frames by which a question about the end of a video is answered."""
    return list(range(frames - max(1, frames // 4), frames))


def parse_ends(video: np.ndarray) -> tuple[list[Component], list[list[Component]]]:
    """Components of the first frame and of each frame of the last quarter of a uint8 (T, 64, 64, 3) video, the latter
    with the camera's motion since the first frame taken off."""
    return parse_frame(video[0]), [parse_steady(video, f) for f in last_quarter(len(video))]


def parse_steady(video: np.ndarray, frame: int) -> list[Component]:
    """`parse_frame` of one frame of a video, in the coordinates of the first frame's camera."""
    dx, dy = camera_shift(video[0], video[frame])
    return [replace(c, x=c.x - dx, y=c.y - dy) for c in parse_frame(video[frame])]


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
    "pushed": ("interaction", "Does the {colour} {shape} push the {other} {other_shape} during the video?"),
}


def _pattern(template: str) -> re.Pattern:
    groups = dict(colour=COLOURS, shape=SHAPES, other=COLOURS, other_shape=SHAPES, direction=DIRECTIONS)
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
    if kind == "pushed":
        return _pushed(words["other"], start, end, before, after)
    dx, dy = after.x - before.x, after.y - before.y
    if kind == "still":
        return bool(np.hypot(dx, dy) < MOVED)
    ux, uy = DIRECTIONS[words["direction"]]
    along, across = dx * ux + dy * uy, abs(dx * uy) + abs(dy * ux)
    return bool(along >= MOVED and along > across)


def _pushed(other: str, start, end, before: Component, after: Component) -> bool | None:
    """Both went the way from the one to the other, and the one that pushes went farther: it had to get there first."""
    there, pushed = (next((c for c in frame if c.colour == other), None) for frame in (start, end))
    if there is None or pushed is None:
        return None
    line = np.array([there.x - before.x, there.y - before.y])
    line /= max(1e-6, float(np.linalg.norm(line)))
    own = float(np.array([after.x - before.x, after.y - before.y]) @ line)
    others = float(np.array([pushed.x - there.x, pushed.y - there.y]) @ line)
    return others >= MOVED and own > others
