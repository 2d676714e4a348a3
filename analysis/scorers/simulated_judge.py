"""A simulated judge: the testbed's oracle, made to err at stated rates. It sees nothing that the oracle does not; it
exists to test how judges are calibrated and corrected, and has no place in a result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from testbed.oracle import Oracle

from .judge_protocol import Judge, Reply
from .scorer import Requires
from .video import Video


@dataclass(frozen=True)
class SimulatedJudge(Judge):
    """says_yes: how often it says yes where yes is true; says_no: no where no is true; both in (0, 1]. undecided: how
    often it says neither. errors: a number that draws other errors at the same rates. An error is of a clip and a
    question: the same ones err again in every run."""

    says_yes: float = 0.0
    says_no: float = 0.0
    undecided: float = 0.0
    errors: int = 0

    name: ClassVar = "simulated_judge"
    version: ClassVar = "1"
    # It imitates no judge, and papers/stand_ins.yaml names it among those that fill nothing.
    metrics: ClassVar = {k: replace(m, imitates="") for k, m in Judge.metrics.items()}
    requires: ClassVar = Requires(
        {"cv2": "opencv-python-headless"}, licence="a simulation, for tests of the calibration only"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("says_yes", "says_no", "undecided"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a share in [0, 1] is wanted")

    def available(self) -> str | None:
        if self.says_yes and self.says_no:
            return self.requires.missing()
        return f"it is a simulation, and runs only with its rates: {self.name}:says_yes=0.9,says_no=0.8"

    def listener(self, video: Video) -> Callable[[str], Reply]:
        oracle, frames, clip = Oracle(), np.array(video.frames), video.sha256

        def ask(question: str) -> Reply:
            truth = oracle.answer(frames, question).value == "yes"  # what is not there does nothing
            wavers, errs = (_uniform(f"{clip} {question} {self.errors} {why}") for why in ("wavers", "errs"))
            if wavers < self.undecided:
                return Reply("unknown", text="simulated")
            right = errs < (self.says_yes if truth else self.says_no)
            return Reply("yes" if truth == right else "no", text="simulated")

        return ask


def _uniform(text: str) -> float:
    """A number in [0, 1) that looks random and is the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
