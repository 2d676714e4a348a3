"""Motion from optical flow without learned weights: of the whole video and of its quarters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .flow_of_pairs import ESTIMATOR, OPENCV, check_side, neighbours, top_flow
from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video

BLIND = "What moves it does not say: the camera, a subject and a shape that fades in count alike."


@dataclass(frozen=True)
class OpticalFlow(Scorer):
    """side: px that the short side is reduced to before; 0 for none. With 0, or on videos that are no larger, `flow_px` and
    its quarters are the columns of the same names in this repository's score tables."""

    side: int = 256

    name: ClassVar[str] = "optical_flow"
    version: ClassVar[str] = "1"
    requires: ClassVar[Requires] = OPENCV
    metrics: ClassVar[dict] = {
        "flow_px": Metric(
            "px / frame", 0, None,
            f"The mean over neighbouring frames of the mean of the largest 5 % of the flow: {ESTIMATOR}. {BLIND}", digits=3,
            imitates="the motion that VBench's dynamic degree thresholds",
        ),
        "flow_q1": Metric("px / frame", 0, None, "The same of the first quarter of the pairs.", digits=3),
        "flow_q2": Metric("px / frame", 0, None, "The same of the second quarter.", digits=3),
        "flow_q3": Metric("px / frame", 0, None, "The same of the third quarter.", digits=3),
        "flow_q4": Metric("px / frame", 0, None, "The same of the last quarter.", digits=3),
        "flow_speed": Metric(
            "short sides / s", 0, None, f"`flow_px` over the short side, times the frames per second. {BLIND}", digits=5
        ),
    }  # fmt: skip

    def __post_init__(self):
        check_side(self.side)

    def score(self, video: Video, sample: Sample) -> dict:
        frames = video.at_least(5)  # a pair for each quarter
        flow = top_flow(video, neighbours(len(frames)), 0.05, self.side)
        quarters = {f"flow_q{i}": float(part.mean()) for i, part in enumerate(np.array_split(flow, 4), start=1)}
        if video.fps is None:
            speed = NotScored("no_input", "the frames per second are not known")
        else:
            speed = float(flow.mean()) / min(frames.shape[1:3]) * video.fps
        return {"flow_px": float(flow.mean())} | quarters | {"flow_speed": speed}
