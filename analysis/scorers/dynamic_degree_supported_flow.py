"""VBench's dynamic degree with a flow estimator that needs no weights in place of RAFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .flow_of_pairs import ESTIMATOR, OPENCV, check_side, neighbours, top_flow
from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video


def rule(scores: np.ndarray, frames: int, short_side: int) -> tuple[bool, float]:
    """VBench's decision from the scores of the pairs of `frames` sampled frames (`vbench/dynamic_degree.py`).

    (whether at least n = round(4 frames / 16) of the scores, half to even, are above 6 short_side / 256 px, the n-th largest
    score over that threshold). Below 3 frames n is 0 and every video would be dynamic: raises NotScored under 4.
    """
    if frames < 4:
        raise NotScored("too_short", f"{frames} sampled frames; VBench's rule has no meaning below 4")
    count, threshold = round(4 * frames / 16), 6.0 * short_side / 256
    return bool((scores > threshold).sum() >= count), float(np.sort(scores)[-count] / threshold)


@dataclass(frozen=True)
class DynamicDegreeSupportedFlow(Scorer):
    """rate: frames per second that frames are sampled at, by VBench's rule: every max(1, round(fps / rate))-th one, so that
    24 fps becomes 8, and 30 fps 7.5. side: px that the short side is reduced to before; 0 for none."""

    rate: float = 8.0
    side: int = 256

    name: ClassVar[str] = "dynamic_degree_supported_flow"
    version: ClassVar[str] = "1"
    requires: ClassVar[Requires] = OPENCV
    metrics: ClassVar[dict] = {
        "dynamic_degree_supported_flow": Metric(
            "", 0, 1,
            f"1 if a quarter of the sampled pairs move by more than 6 px per 256 px of the short side. Flow: {ESTIMATOR}. "
            "The camera's motion counts in full; a single late event in a long video does not.",
            better="higher", imitates="VBench dynamic_degree (RAFT)", digits=0, proportion=True,
        ),
        "dynamic_margin_supported_flow": Metric(
            "", 0, None, "The score that decides, over the threshold: above 1 the video is dynamic.", better="higher",
            imitates="VBench dynamic_degree (RAFT)", digits=4,
        ),
    }  # fmt: skip

    def __post_init__(self):
        check_side(self.side)
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}; frames per second above 0 are wanted")

    def score(self, video: Video, sample: Sample) -> dict:
        sampled = video.every(self.rate)
        if len(sampled) < 4:
            rule(np.zeros(0), len(sampled), 1)
        scores = top_flow(video, neighbours(sampled), 0.05, self.side)
        dynamic, margin = rule(scores, len(sampled), min(video.frames.shape[1:3]))
        return {"dynamic_degree_supported_flow": float(dynamic), "dynamic_margin_supported_flow": margin}
