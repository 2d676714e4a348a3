"""VBench's static filter, which comes before its temporal flickering, with a flow estimator that needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .flow_of_pairs import ESTIMATOR, OPENCV, check_side, neighbours, top_flow
from .scorer import Metric, Requires, Sample, Scorer
from .video import Video


def is_static(scores: np.ndarray, ends: np.ndarray, frames: int, short_side: int) -> bool:
    """VBench's decision (`static_filter.py`) from the scores of all neighbours, and of (first, last) and (last, first).

    With n = round(2 frames / 16), half to even, and t = 3 short_side / 256 px: at most n neighbours are above t, and
    neither end is above 2 n t.
    """
    count, threshold = round(2 * frames / 16), 3.0 * short_side / 256
    return bool((scores > threshold).sum() <= count and (ends <= 2 * count * threshold).all())


@dataclass(frozen=True)
class StaticFilterSupportedFlow(Scorer):
    """side: px that the short side is reduced to before; 0 for none. All frames count, at the file's own rate."""

    side: int = 256

    name: ClassVar[str] = "static_filter_supported_flow"
    version: ClassVar[str] = "1"
    requires: ClassVar[Requires] = OPENCV
    metrics: ClassVar[dict] = {
        "static_supported_flow": Metric(
            "", 0, 1,
            "1 if VBench's static filter would keep the video: hardly any pair of neighbours, and neither end against the "
            f"other, has its largest 2 % of flow above 3 px per 256 px of the short side. Flow: {ESTIMATOR}.",
            imitates="VBench static_filter (RAFT)", digits=0, proportion=True,
        )
    }  # fmt: skip

    def __post_init__(self):
        check_side(self.side)

    def score(self, video: Video, sample: Sample) -> dict:
        frames = video.at_least(2)
        last = len(frames) - 1
        scores = top_flow(video, neighbours(len(frames)), 0.02, self.side)
        ends = top_flow(video, np.array([[0, last], [last, 0]]), 0.02, self.side)
        return {"static_supported_flow": float(is_static(scores, ends, len(frames), min(frames.shape[1:3])))}
