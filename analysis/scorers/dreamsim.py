"""DreamSim: how alike frames and reference are to people's eyes; VBench-I2V's i2v_background is made of it.

DreamSim is an optional package that brings peft, open_clip and timm; its weights are fetched by hand, because the
package downloads them when it is first called.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from .frame_features import features, share, to_reference
from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video, load_image
from .weights import device_of

PARTS = ("dino_vitb16_lora", "open_clip_vitb16_lora", "clip_vitb16_lora")  # what the ensemble is made of


@dataclass(frozen=True)
class DreamSim(Scorer):
    """folder: where the package's weights are unpacked (its `cache_dir`). device: "auto", "cpu", "cuda", ..."""

    folder: str = ""
    device: str = "auto"

    name: ClassVar = "i2v_background_dreamsim"
    version: ClassVar = "1"
    runs: ClassVar = "here"
    inputs: ClassVar = ("image",)
    requires: ClassVar = Requires(
        {"dreamsim": "dreamsim", "torchvision": "torchvision", "torch": "torch"},
        weights="pretrained.zip of the releases of github.com/ssundaram21/dreamsim (dreamsim.config.dreamsim_weights)",
        licence="MIT", install="pip install dreamsim==0.2.1",
    )  # fmt: skip
    metrics: ClassVar = {
        "i2v_background_dreamsim": Metric(
            "", 0, 1, "the best frame's similarity to the reference, and that of neighbours; it does not see a steady drift",
            better="higher", imitates="VBench i2v_background",
        ),
        "reference_dreamsim_mean": Metric("", 0, 1, "mean similarity of DreamSim's embeddings to the reference", better="higher"),
        "reference_dreamsim_least": Metric("", 0, 1, "similarity of the frame least like the reference", better="higher"),
        "reference_dreamsim_last_quarter": Metric("", 0, 1, "mean similarity of the last quarter", better="higher"),
    }  # fmt: skip

    def available(self) -> str | None:
        if why := self.requires.missing():
            return why
        gone = [part for part in PARTS if not (Path(self.folder) / part).exists()]
        if not self.folder or gone:
            return f"{self.name}:folder=FOLDER has to hold {', '.join(PARTS)}, unpacked from {self.requires.weights}"
        return None

    def fingerprint(self) -> str:
        files = sorted(p for p in Path(self.folder).rglob("*") if p.is_file() and p.suffix != ".zip")
        total = hashlib.sha256()
        for file in files:
            with open(file, "rb") as opened:
                total.update(
                    f"{file.relative_to(self.folder)} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode()
                )
        return total.hexdigest()[:20]

    @cached_property
    def loaded(self):
        """(model, device)."""
        from dreamsim import dreamsim

        device = device_of(self.device)
        model, _ = dreamsim(pretrained=True, device=str(device), cache_dir=self.folder)
        return model, device

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Unit vectors (T, D) of uint8 frames (T, H, W, 3), each stretched to 224 x 224 as VBench-I2V does."""
        model, device = self.loaded

        def encode(pixels):
            return model.embed(pixels).reshape(len(pixels), -1)  # the package drops the axis of a single frame

        return features(frames, as_square, encode, device)

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        found = to_reference(self.features(load_image(sample.image)[None])[0], self.features(video.at_least(2)))
        return {self.name: share(found.pop("i2v"))} | {f"reference_dreamsim_{k}": share(v) for k, v in found.items()}


def as_square(frames: np.ndarray):
    """uint8 (T, H, W, 3) -> float (T, 3, 224, 224) in [0, 1], bicubic with antialiasing."""
    import torch

    pixels = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True)
    return pixels.clamp(0, 255) / 255
