"""How near a video stays to its reference image: PSNR and SSIM of whole frames, no mask, and sharpness kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ..scoring.fidelity import psnr, sharpness
from ..scoring.objects import last_quarter
from .scorer import Metric, Sample, Scorer
from .sharpness import sharpness_of_frames
from .video import NotScored, Video, load_image


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of grey float (H, W) images of range 255, in [-1, 1] (Wang et al. 2004): an 11x11 Gaussian
    window of sigma 1.5, K = (0.01, 0.03), the mean over windows that are inside the image, which is at least 11x11."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    blur = lambda x: cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]  # noqa: E731
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(
        (((2 * mean_a * mean_b + c1) * (2 * both + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()
    )


def fitted(image: np.ndarray, height: int, width: int, fit: str) -> np.ndarray:
    """A reference as large as the video: "exact" refuses another ratio of sides (by more than 1 %), "crop" takes its middle,
    "stretch" changes its ratio. Raises NotScored "no_input"."""
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    ratio = (w / h) / (width / height)
    if fit == "exact" and abs(np.log(ratio)) > 0.01:
        raise NotScored("no_input", f"the reference is {w}x{h} and the video {width}x{height}, another ratio of sides: "
                        "say with fit=crop or fit=stretch how the video was made from it")  # fmt: skip
    if fit == "crop" and ratio > 1:
        wide = round(h * width / height)
        image = image[:, (w - wide) // 2 : (w - wide) // 2 + wide]
    elif fit == "crop":
        high = round(w * height / width)
        image = image[(h - high) // 2 : (h - high) // 2 + high]
    shrinks = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _metrics(name: str, unit: str, low: float, high: float, digits: int, of: str) -> dict[str, Metric]:
    when = {
        "first": "the first frame",
        "mean": "all frames, the mean",
        "min": "the frame where it is lowest",
        "last": "the last quarter, the mean",
    }
    return {
        f"{k}_{name}": Metric(unit, low, high, f"{of} against the reference: {words}.", "higher", digits=digits)
        for k, words in when.items()
    }


@dataclass(frozen=True)
class ReferenceFidelity(Scorer):
    """fit: how a reference of another size is brought to the video's: "exact" (the same ratio of sides), "crop", "stretch"."""

    fit: str = "exact"

    name: ClassVar[str] = "reference_fidelity"
    version: ClassVar[str] = "1"
    inputs: ClassVar[tuple] = ("image",)
    metrics: ClassVar[dict] = {
        **_metrics("psnr", "dB", 0, 99, 3, "PSNR of all pixels and channels, at most 99"),
        **_metrics("ssim", "", -1, 1, 5, "SSIM (Wang et al. 2004) of grey frames"),
        "sharpness_retention": Metric(
            "", 0, None, "The variance of the Laplacian, mean of the last quarter over the reference's.", digits=4,
            imitates="imaging quality (MUSIQ), of which it sees blur alone",
        ),
    }  # fmt: skip

    def __post_init__(self):
        if self.fit not in ("exact", "crop", "stretch"):
            raise ValueError(f"fit is {self.fit!r}; allowed are exact, crop, stretch")

    def score(self, video: Video, sample: Sample) -> dict:
        reference = reference_of(video, sample.image, self.fit)
        if min(reference.shape[:2]) < 11:
            raise NotScored("undefined", "SSIM needs frames of 11x11 px at least")
        grey = cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY)
        series = {
            "psnr": np.array([psnr(frame, reference) for frame in video.frames]),
            "ssim": np.array([ssim(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), grey) for frame in video.frames]),
        }
        values = {}
        for name, of_frames in series.items():
            end = of_frames[last_quarter(len(of_frames))]
            summary = {
                "first": of_frames[0],
                "mean": of_frames.mean(),
                "min": of_frames.min(),
                "last": end.mean(),
            }
            values |= {f"{k}_{name}": float(v) for k, v in summary.items()}
        end, sharp = sharpness_of_frames(video)[last_quarter(len(video.frames))].mean(), sharpness(reference)
        kept = float(end / sharp) if sharp > 0 else NotScored("undefined", "the reference is flat")
        return values | {"sharpness_retention": kept}


def reference_of(video: Video, image: Path, fit: str) -> np.ndarray:
    """The reference image as large as the video's frames. Raises NotScored "no_input" if it cannot be had."""
    height, width = video.frames.shape[1:3]
    try:
        loaded = load_image(image)
    except NotScored as reason:
        raise NotScored("no_input", reason.reason) from None
    return fitted(loaded, height, width, fit)
