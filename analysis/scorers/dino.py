"""DINO ViT-B/16: how alike frames are (VBench's subject consistency), and how alike frames and reference are (its
i2v_subject).

The model is transformers' ViT, the formulas and the preparation of frames are VBench's. One thing differs from
torch.hub's model: where frames are no squares, positions are interpolated to the grid, there by a scale factor with 0.1
added. VBench's own run was not compared, for want of the weights; so the names say which implementation it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .frame_features import as_dino, as_dino_reference, consistency, features, share, to_reference
from .scorer import Metric, Requires, Sample
from .video import NotScored, Video, load_image
from .weights import HubModel


@dataclass(frozen=True)
class Dino(HubModel):
    """model: a folder, or a hub name that is in this machine's cache (at `revision`). device: "auto", "cpu", "cuda",
    ..."""

    model: str = "facebook/dino-vitb16"

    name: ClassVar = "subject_consistency_dino_hf"
    version: ClassVar = "1"
    classes: ClassVar = ("ViTModel",)
    options: ClassVar = {"add_pooling_layer": False}
    requires: ClassVar = Requires(
        {"transformers": "transformers", "torch": "torch"}, weights="facebook/dino-vitb16",
        licence="code and weights Apache-2.0", install="hf download facebook/dino-vitb16",
    )  # fmt: skip
    metrics: ClassVar = {
        "subject_consistency_dino_hf": Metric(
            "", 0, 1, "mean similarity of DINO features to the frame before and to the first; a frozen video has 1",
            better="higher", imitates="VBench subject_consistency",
        ),
    }  # fmt: skip

    def features(self, frames: np.ndarray, prepare) -> np.ndarray:
        """Unit vectors of the class token, (T, D)."""
        model, device = self.loaded

        def encode(pixels):
            return model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

        return features(frames, prepare, encode, device)

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        unit = self.features(video.at_least(2), as_dino)
        return {self.name: share(consistency(unit).mean())}


@dataclass(frozen=True)
class DinoReference(Dino):
    """As `Dino`; frames are compared with the reference image."""

    name: ClassVar = "i2v_subject_dino_hf"
    inputs: ClassVar = ("image",)
    metrics: ClassVar = {
        "i2v_subject_dino_hf": Metric(
            "", 0, 1, "the best frame's similarity to the reference, and that of neighbours; it does not see a steady drift",
            better="higher", imitates="VBench i2v_subject",
        ),
        "reference_dino_mean": Metric("", 0, 1, "mean similarity of DINO features to the reference", better="higher"),
        "reference_dino_least": Metric("", 0, 1, "similarity of the frame that is least like the reference", better="higher"),
        "reference_dino_last_quarter": Metric("", 0, 1, "mean similarity of the last quarter to the reference", better="higher"),
    }  # fmt: skip

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        unit = self.features(video.at_least(2), as_dino_reference)
        found = to_reference(self.features(load_image(sample.image)[None], as_dino_reference)[0], unit)
        return {self.name: share(found.pop("i2v"))} | {f"reference_dino_{k}": share(v) for k, v in found.items()}
