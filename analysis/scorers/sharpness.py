"""Sharpness as the variance of the Laplacian, and how much of the first frame's is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..scoring.fidelity import sharpness
from ..scoring.objects import last_quarter
from .scorer import Metric, Sample, Scorer
from .video import NotScored, Video


@dataclass(frozen=True)
class Sharpness(Scorer):
    """Needs no reference: the first frame is what is kept. Against the reference it is in `reference_fidelity`."""

    name: ClassVar[str] = "sharpness"
    version: ClassVar[str] = "1"
    metrics: ClassVar[dict] = {
        "laplacian_variance": Metric(
            "grey levels^2", 0, None,
            "The variance of the Laplacian, mean over frames. It depends on the motif, and noise raises it: compare the same "
            "sample under two methods, never two samples.", digits=2,
        ),
        "sharpness_kept": Metric(
            "", 0, None,
            "The mean of the last quarter over the first frame's. Below 0.7 it blurs; above 1.5 it dissolves into noise or "
            "texture.", digits=4,
        ),
    }  # fmt: skip

    def score(self, video: Video, sample: Sample) -> dict:
        values = sharpness_of_frames(video)
        flat = NotScored("undefined", "the first frame is flat")
        kept = float(values[last_quarter(len(values))].mean() / values[0]) if values[0] > 0 else flat
        return {"laplacian_variance": float(values.mean()), "sharpness_kept": kept}


def sharpness_of_frames(video: Video) -> np.ndarray:
    """Variance of the Laplacian of each frame, (T,)."""
    return video.recall("sharpness", lambda: np.array([sharpness(frame) for frame in video.frames]))
