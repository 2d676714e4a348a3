"""LAION's aesthetic predictor on CLIP ViT-L/14, VBench's aesthetic quality: a linear head on the features of each
frame.

It is the first predictor, one linear layer (`sa_0_4_vit_l_14_linear`). pyiqa's `laion_aes` is the later MLP; values of
the two are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from .clip import ClipFrames
from .scorer import Metric, Requires, Sample
from .video import NotScored, Video
from .weights import missing_file, weights_digest

SOURCE = "sa_0_4_vit_l_14_linear.pth of github.com/LAION-AI/aesthetic-predictor"


@dataclass(frozen=True)
class AestheticLaion(ClipFrames):
    """head: a safetensors file with the head's `weight` (1, D) and `bias` (1,). model, revision, device: as
    `ClipFrames`."""

    model: str = "openai/clip-vit-large-patch14"
    head: str = ""

    name: ClassVar = "aesthetic_laion_hf"
    requires: ClassVar = Requires(
        {"transformers": "transformers", "torch": "torch"}, weights=f"openai/clip-vit-large-patch14 and {SOURCE}",
        licence="code and weights of both MIT", install="hf download openai/clip-vit-large-patch14",
    )  # fmt: skip
    metrics: ClassVar = {
        "aesthetic_laion_hf": Metric(
            "", None, None, "how pleasing the middle square is as a photograph, about 0 to 1 (the head's 1 to 10 over 10); not motion",
            better="higher", imitates="VBench aesthetic_quality",
        ),
    }  # fmt: skip

    def available(self) -> str | None:
        return super().available() or missing_file(self.name, "head", self.head, SOURCE)

    def fingerprint(self) -> str:
        from pathlib import Path

        return f"{super().fingerprint()} {weights_digest(Path(self.head))}"

    @cached_property
    def linear(self) -> tuple[np.ndarray, float]:
        """(weight (D,), bias). Raises ValueError if they are not those of a linear layer on this CLIP's features."""
        from safetensors.numpy import load_file

        found, width = load_file(self.head), self.loaded[0].config.projection_dim
        if set(found) != {"weight", "bias"} or found["weight"].shape != (1, width) or found["bias"].shape != (1,):
            shapes = {name: value.shape for name, value in found.items()}
            raise ValueError(f"{self.head} holds {shapes}; the head has weight (1, {width}) and bias (1,)")
        return found["weight"][0].astype(np.float64), float(found["bias"][0])

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        weight, bias = self.linear
        return {self.name: float((self.features(video.frames) @ weight + bias).mean() / 10)}
