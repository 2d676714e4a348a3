"""VBench's temporal flickering, exactly: how little neighbouring frames differ."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np

from .scorer import Metric, Sample, Scorer
from .video import Video


@dataclass(frozen=True)
class TemporalFlickering(Scorer):
    """All frames at the file's own rate, as VBench reads them; no static filter is applied before, as in VBench-I2V."""

    name: ClassVar[str] = "temporal_flickering"
    version: ClassVar[str] = "1"
    metrics: ClassVar[dict] = {
        "temporal_flickering": Metric(
            "share", 0, 1,
            "1 less the mean absolute difference of neighbouring frames over 255. Any change lowers it: a frozen video has 1.",
            better="higher", published="VBench temporal_flickering, without its static filter",
        )
    }  # fmt: skip

    def score(self, video: Video, sample: Sample) -> dict:
        differences = [cv2.absdiff(a, b).mean() for a, b in pairwise(video.at_least(2))]
        return {"temporal_flickering": (255 - float(np.mean(differences))) / 255}
