"""Dynamic degree with RAFT, by VBench's protocol, on torchvision's network.

Every max(1, round(fps / 8))-th frame; frames padded with their border to a multiple of 8, and the flow not cut again;
of each pair the mean of the largest 5 % of the magnitudes; dynamic if round(4 n / 16) of the n - 1 pairs are above 6
min(h, w) / 256 pixels.

VBench uses the original RAFT with `raft-things.pth` and 20 updates. torchvision's `raft_large` with the weights C_T_V2
(FlyingChairs and FlyingThings3D) is the nearest; values are not the same, so both stand in the name, and degrees are
never compared across estimators. Whatever the estimator, a video of two sampled frames needs no pair at all in VBench
and is "dynamic"; here it has no value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video
from .weights import device_of, missing_file, weights_digest

if TYPE_CHECKING:
    import torch

RATE = 8  # frames a second that are looked at
LEAST = 4  # sampled frames below which the rule asks for no moving pair
SOURCE = "https://download.pytorch.org/models/raft_large_C_T_V2-1bb1363a.pth"


def pair_scores(frames: np.ndarray, flow: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """For each pair of neighbours of uint8 (T, H, W, 3) the mean of the largest floor(0.05 h w) magnitudes in pixels,
    (T - 1,).

    flow: two frames, float (1, 3, h, w) in 0..255 with sides that are multiples of 8 -> flow (1, 2, h, w) in pixels.
    """
    import torch

    height, width = frames.shape[1:3]
    rows, columns = -height % 8, -width % 8
    around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)  # left, right, top, bottom
    video = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
    video = torch.nn.functional.pad(video, around, mode="replicate")
    top, scores = int(video.shape[-2] * video.shape[-1] * 0.05), []
    for a, b in pairwise(video[:, None]):
        magnitude = flow(a, b).float().square().sum(1).sqrt().flatten()
        scores.append(float(magnitude.topk(top).values.mean()))
    return np.array(scores)


def dynamic(scores: np.ndarray, height: int, width: int) -> dict[str, float]:
    """VBench's verdict on the pair scores of a video, and how clear it is.

    degree: 0 or 1. margin: the round(4 n / 16)-th largest pair score over the threshold; above 1 means dynamic. speed:
    mean pair score over the short side, in short sides a pair.
    """
    threshold, wanted = 6 * min(height, width) / 256, round(4 * (len(scores) + 1) / 16)
    margin = float(np.sort(scores)[-wanted] / threshold)
    return {"degree": float(margin > 1), "margin": margin, "speed": float(scores.mean() / min(height, width))}


@dataclass(frozen=True)
class Raft(Scorer):
    """weights: a safetensors file with torchvision's C_T_V2 state dict. updates: of the flow, 20 as in VBench. device:
    "auto", "cpu", "cuda", ..."""

    weights: str = ""
    updates: int = 20
    device: str = "auto"

    name: ClassVar = "dynamic_degree_raft_torchvision"
    version: ClassVar = "1"
    runs: ClassVar = "here"
    requires: ClassVar = Requires(
        {"torchvision": "torchvision", "torch": "torch"}, weights=f"raft_large C_T_V2 (20 MB), {SOURCE}",
        licence="torchvision BSD-3-Clause; of the weights no licence of their own is stated", install="pip install 'torchvision>=0.28'",
    )  # fmt: skip
    metrics: ClassVar = {
        "dynamic_degree_raft_torchvision": Metric(
            "", 0, 1, "1 if a quarter of the sampled pairs move fast; camera motion counts fully, a single late event does not",
            proportion=True, imitates="VBench dynamic_degree",
        ),
        "dynamic_margin_raft_torchvision": Metric("", 0, None, "how far the verdict is from its threshold; above 1 is dynamic"),
        "speed_raft_torchvision": Metric(
            "short sides / s", 0, None, "mean of the largest 5 % of flow; needs no threshold, size or frame rate"
        ),
    }  # fmt: skip

    def __post_init__(self):
        if self.updates < 1:
            raise ValueError(f"updates is {self.updates}; 1 or more are wanted")

    def available(self) -> str | None:
        return self.requires.missing() or missing_file(self.name, "weights", self.weights, SOURCE)

    def fingerprint(self) -> str:
        return weights_digest(Path(self.weights))

    @cached_property
    def flow(self) -> Callable:
        """As `pair_scores` wants it."""
        from safetensors.torch import load_file
        from torchvision.models.optical_flow import raft_large

        device = device_of(self.device)
        model = raft_large(weights=None)
        model.load_state_dict(load_file(self.weights))
        return as_flow(model.eval().to(device), self.updates, device)

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        import torch

        indices = video.every(RATE)
        if len(indices) < LEAST:
            raise NotScored("too_short", f"{len(indices)} frames at about {RATE} a second, {LEAST} are needed")
        frames = video.frames[indices]
        with torch.inference_mode():
            found = dynamic(pair_scores(frames, self.flow), *frames.shape[1:3])
        seconds = (indices[1] - indices[0]) / video.known_fps()
        return {
            "dynamic_degree_raft_torchvision": found["degree"], "dynamic_margin_raft_torchvision": found["margin"],
            "speed_raft_torchvision": found["speed"] / seconds,
        }  # fmt: skip


def as_flow(model, updates: int, device) -> Callable:
    """torchvision's RAFT, which takes frames in [-1, 1] and returns the flow after every update, as `pair_scores` wants
    it. Raises NotScored "undefined" for frames under 128 pixels a side, which the network cannot take."""

    def flow(a, b):
        if min(a.shape[-2:]) < 128:
            raise NotScored(
                "undefined", f"frames of {a.shape[-1]}x{a.shape[-2]}; torchvision's RAFT needs 128 pixels a side"
            )
        a, b = (x.to(device) / 127.5 - 1 for x in (a, b))
        return model(a, b, num_flow_updates=updates)[-1].cpu()

    return flow
