"""BRISQUE, an image's quality without a reference, as the package `brisque` of PyPI computes it; its model comes with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..scoring.objects import last_quarter
from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video


@dataclass(frozen=True)
class BrisquePypi(Scorer):
    """frames: how many are scored, evenly spaced over the video from the first to the last."""

    frames: int = 9

    name: ClassVar[str] = "brisque_pypi"
    version: ClassVar[str] = "1"
    requires: ClassVar[Requires] = Requires(
        {"brisque": "brisque", "skimage": "scikit-image", "scipy": "scipy", "libsvm": "libsvm-official"},
        weights="a support vector regression and its ranges, inside the package; it reads the ranges with pickle",
        licence="Apache-2.0 (package)",
        install="pip install brisque libsvm-official scikit-image",
    )
    metrics: ClassVar[dict] = {
        "brisque_pypi": Metric(
            "", None, None,
            "Mean over frames; about 0 for undistorted photographs to 100. Drawings and flat pictures are outside what it was "
            "fitted to.", better="lower", digits=3, imitates="BRISQUE (Mittal et al. 2012), whose own program has another model",
        ),
        "brisque_pypi_last": Metric("", None, None, "The same of the frames of the last quarter.", better="lower", digits=3),
    }  # fmt: skip

    def __post_init__(self):
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; at least 1 is needed")

    @cached_property
    def _model(self):
        from brisque import BRISQUE

        class Brisque(BRISQUE):
            """As the package, whose 0.2.0 fails from numpy 2.4 on: its features are arrays of one number."""

            def scale_features(self, features):
                return super().scale_features([np.squeeze(f) for f in features])

        return Brisque(url=False)

    def score(self, video: Video, sample: Sample) -> dict:
        count = len(video.frames)
        picked = np.unique(np.linspace(0, count - 1, min(self.frames, count)).round().astype(int))
        values = np.array([float(np.squeeze(self._model.score(np.array(video.frames[i])))) for i in picked])
        if np.isnan(values).any():
            first = picked[np.isnan(values)][0]
            raise NotScored(
                "undefined",
                f"{np.isnan(values).sum()} of {len(picked)} frames have no value, such as the flat frame {first}",
            )
        ends = values[picked >= last_quarter(count).start]
        return {"brisque_pypi": float(values.mean()), "brisque_pypi_last": float(ends.mean())}
