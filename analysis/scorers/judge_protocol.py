"""What a judge is asked, which frames it sees, how its reply becomes yes or no, and what is kept of the answers.

Two protocols. "log_odds": the judge may only say yes or no, and the difference of their logits is kept. "released":
that of OmitI2V's released evaluation (`evaluation/vqa_based/qwen.py` of AlignVid at 9f3e48d): a free reply of at most
128 tokens, greedy, read by its first words, else by substrings. That reading takes "Note that the cat is visible: yes"
for a no, so the reading by whole words is kept beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .scorer import Metric, Sample, Scorer
from .video import NotScored, Video

PROTOCOLS = ("log_odds", "released")
FPS = 8.0  # frames a second that the judge sees
MAX_PIXELS = 360 * 420  # of a frame
MIN_PIXELS = 128 * 28 * 28  # of a frame of a video, in qwen-vl-utils
GRID = 28  # pixels that a frame's sides are multiples of: a patch of 14, merged two by two
MIN_FRAMES, MAX_FRAMES, FRAME_FACTOR = 4, 768, 2  # of qwen-vl-utils
NEW_TOKENS = 128
# The released script tells the processor no frame rate, and that of transformers 4.50 then supposes this one when it numbers
# the frames' times, although eight a second are shown.
RELEASED_POSITION_FPS = 2.0

PROMPTS = {
    "log_odds": (
        "Question: {question}\n\nPlease watch the video carefully and answer the question based solely on what you observe. "
        "Answer with one word, yes or no."
    ),
    # Word for word that of the released script.
    "released": (
        "Question: {question}\n\nPlease watch the video carefully and answer the question based solely on what you observe. "
        "Reply with 'yes' or 'no' followed by a brief explanation of your reasoning."
    ),
}


def prompt(protocol: str, question: str) -> str:
    """The text that follows the video. Raises ValueError for an unknown protocol."""
    if protocol not in PROMPTS:
        raise ValueError(f"unknown protocol {protocol!r}; allowed are {', '.join(PROTOCOLS)}")
    return PROMPTS[protocol].format(question=question)


def read_as_released(reply: str) -> str:
    """ "yes", "no" or "unknown", by the released rule: how the text before the first comma begins; else the word of
    which alone the letters occur; else the one among the first five words."""
    text = reply.lower().strip()
    start, first_five = text.split(",")[0].strip(), " ".join(text.split()[:5])
    for word in ("yes", "no"):
        if start.startswith(word):
            return word
    if ("yes" in text) != ("no" in text):
        return "yes" if "yes" in text else "no"
    return next((word for word in ("yes", "no") if word in first_five), "unknown")


def read_by_words(reply: str) -> str:
    """ "yes" or "no" if exactly one of the two stands in the reply as a word, or begins it; else "unknown"."""
    words = re.findall(r"\b(yes|no)\b", reply.lower())
    if len(set(words)) == 1:
        return words[0]
    start = re.match(r"\W*(yes|no)\b", reply.lower())
    return start[1] if start else "unknown"


def sampled_frames(count: int, fps: float, rate: float = FPS) -> np.ndarray:
    """Indices of the frames that are shown, as qwen-vl-utils 0.0.14 picks them: an even number, about `rate` a second,
    evenly spread from the first frame to the last. Raises NotScored "too_short" under 2 frames."""
    if count < FRAME_FACTOR:
        raise NotScored("too_short", f"it has {count} frames, {FRAME_FACTOR} are needed")
    most = min(MAX_FRAMES, count) // FRAME_FACTOR * FRAME_FACTOR
    wanted = min(max(count / fps * rate, MIN_FRAMES), most, count)
    shown = int(wanted // FRAME_FACTOR) * FRAME_FACTOR
    return np.round(np.linspace(0, count - 1, shown)).astype(int)


def frame_size(height: int, width: int, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) that frames are resized to: multiples of GRID, of MIN_PIXELS to `max_pixels` together, in about
    the same proportion. Raises NotScored "undefined" for a side 200 times the other."""
    if max(height, width) > 200 * min(height, width):
        raise NotScored("undefined", f"frames of {width}x{height}: the model takes sides up to 200 times the other")
    h, w = (max(GRID, round(side / GRID) * GRID) for side in (height, width))
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return max(GRID, int(height / scale / GRID) * GRID), max(GRID, int(width / scale / GRID) * GRID)
    if h * w < MIN_PIXELS:
        scale = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * scale / GRID) * GRID, math.ceil(width * scale / GRID) * GRID
    return h, w


@dataclass(frozen=True)
class Reply:
    """answer: "yes", "no" or "unknown". log_odds: of yes against no, in nats, and mass: the share of probability that
    the two have together, None under the released protocol. words: the released reply read by whole words. text: what
    was said."""

    answer: str
    log_odds: float | NotScored | None = None
    mass: float | None = None
    words: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Judge(Scorer):
    """Base of all that answer yes/no questions about a video. protocol: one of PROTOCOLS."""

    protocol: str = "log_odds"

    inputs: ClassVar = ("questions",)
    runs: ClassVar = "here"
    metrics: ClassVar = {
        "macro": Metric(
            "share", 0, 1, "share of questions answered as expected; an undecided one is wrong", better="higher",
            imitates="OmitI2V's accuracy, whose judge is Qwen2.5-VL-32B under the protocol released",
        ),
        "adherence": Metric(
            "share", 0, 1, "1 if every question is answered as expected", better="higher", proportion=True,
            imitates="Focal Guidance's score of a video, whose judge is not stated",
        ),
        "answer": Metric("", 0, 1, "the answer to a question: 1 yes, 0 no, undefined where neither", per_item=True),
        "right": Metric("", 0, 1, "1 if the answer is the expected one", better="higher", per_item=True),
        "log_odds": Metric("nats", None, None, "log-odds of yes against no (protocol log_odds)", per_item=True),
        "yes_no_mass": Metric("share", 0, 1, "probability of yes and no together (protocol log_odds)", per_item=True),
        "word_answer": Metric("", 0, 1, "the reply read by whole words (protocol released)", per_item=True),
    }  # fmt: skip

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; allowed are {', '.join(PROTOCOLS)}")

    def listener(self, video: Video) -> Callable[[str], Reply]:
        """question -> Reply, for one video."""
        raise NotImplementedError

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        """Metric -> value; of metrics per item, one for each question, under its id ("q1", "q2", ... where it has
        none)."""
        questions = checked_questions(sample.questions)
        ask = self.listener(video)
        values: dict[str, float | NotScored] = {}
        for item, question, expected in questions:
            reply = ask(question)
            values[f"answer/{item}"] = _number(reply.answer, reply.text)
            values[f"right/{item}"] = float(reply.answer == expected)
            if reply.log_odds is not None:
                values[f"log_odds/{item}"] = reply.log_odds
            if reply.mass is not None:
                values[f"yes_no_mass/{item}"] = reply.mass
            if reply.words is not None:
                values[f"word_answer/{item}"] = _number(reply.words, reply.text)
        right = [values[f"right/{item}"] for item, _, _ in questions]
        return values | {"macro": float(np.mean(right)), "adherence": float(all(right))}


def _number(answer: str, text: str) -> float | NotScored:
    if answer == "unknown":
        return NotScored("undefined", f"neither yes nor no: {text[:200]!r}")
    return float(answer == "yes")


def checked_questions(questions: list[dict] | None) -> list[tuple[str, str, str]]:
    """(id, question, expected answer in lower case) of each. Raises NotScored "no_input" where there is none, one is
    empty, expects neither yes nor no, or two have one id."""
    found = []
    for n, q in enumerate(questions or [], start=1):
        item, text = str(q.get("id") or f"q{n}"), str(q.get("question") or "").strip()
        expected = str(q.get("expected_answer", "")).strip().lower()
        if not text or expected not in ("yes", "no"):
            raise NotScored("no_input", f"question {item}: {text!r} expects {expected!r}; yes or no is wanted")
        found.append((item, text, expected))
    if not found or len({item for item, _, _ in found}) < len(found):
        raise NotScored("no_input", f"{len(found)} questions; there has to be one, and no two with the same id")
    return found
