"""Adaptive projected guidance (APG): guide across the conditional prediction rather than along it (arXiv 2410.02416)."""

from __future__ import annotations

import dataclasses
import math
import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.forward_context import ForwardContext
from .families import COGVIDEOX, Block
from .guidance_formula import check_guidance, check_pipeline, forget, replace_uncond

SPACES = ("denoised", "prediction")

# Defaults of MultiTalk's released code, Wan 2.1 image-to-video with speech (github MeiGen-AI/MultiTalk), which applies them to
# its differences by text and by sound apart. No other setting for a video model was found.
PUBLISHED = {"multitalk": {"eta": 0.0, "momentum": -0.75, "threshold": 55.0, "space": "prediction"}}

_averages: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # pipeline or transformer -> running average


@dataclass(frozen=True)
class AdaptiveProjectedGuidance:
    """Guide with c + (w - 1) d', d' = d_orthogonal + eta d_parallel, instead of c + (w - 1) d with d = c - u.

    d is first averaged over the steps, d <- d + momentum d_before, then shortened to the length `threshold` if it is
    longer, then split into the parts along c and across it (Algorithm 1). Lengths and products are over a whole sample.

    eta: weight of the part along c, which saturates colours; 0 as published, 1 keeps it.
    momentum: beta, negative to push away from earlier steps; 0 for none.
    threshold: the largest length r of d, None for no limit. A length grows with the number of latents: a value for images
        (diffusers' default is 15) would all but remove the guidance of a video.
    space: "denoised" takes c and u as predictions of the clean video, as the paper does; "prediction" takes them as the
        model gives them, as diffusers' guider and MultiTalk do. The first needs the noise level: a flow-matching model, or
        CogVideoX's pipeline.
    eta 1, momentum 0 and threshold None are plain guidance, bit for bit.
    List it after methods that change a prediction. It does not compose with other guidance formulas.
    """

    name: ClassVar[str] = "apg"
    label: ClassVar[str] = "Adaptive projected guidance"
    changes_guidance: ClassVar[bool] = True
    once: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    eta: float = 0.0
    momentum: float = -0.5
    threshold: float | None = None
    space: str = "denoised"

    def __post_init__(self):
        if not math.isfinite(self.eta):
            raise ValueError(f"AdaptiveProjectedGuidance eta must be a finite number, not {self.eta}")
        if not -1 < self.momentum < 1:
            raise ValueError(f"AdaptiveProjectedGuidance momentum must be in (-1, 1), not {self.momentum}")
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(
                f"AdaptiveProjectedGuidance threshold must be None or a finite length above 0, not {self.threshold}"
            )
        if self.space not in SPACES:
            raise ValueError(f"AdaptiveProjectedGuidance space must be one of {', '.join(SPACES)}, not {self.space!r}")

    @classmethod
    def published(cls, name: str) -> AdaptiveProjectedGuidance:
        """A setting of released code. Raises ValueError for a name that is not in PUBLISHED."""
        if name not in PUBLISHED:
            raise ValueError(f"APG has no setting for {name!r}: it has {', '.join(PUBLISHED)}")
        return cls(**PUBLISHED[name])

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.eta == 1 and self.momentum == 0 and self.threshold is None

    def check(self, model) -> None:
        """Raise ValueError for distilled guidance."""
        check_guidance(self, model)

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def watch(self, pipe):
        """Raise ValueError for a pipeline that guides by another formula."""
        check_pipeline(self, pipe, ("flow_prediction", "v_prediction", "epsilon"))

        def undo():
            forget(pipe)
            if pipe is not None:
                _averages.pop(pipe, None)

        return undo

    def edit_output(self, model, inputs: dict, context: ForwardContext, output, run):
        """c - d' in the place of the unconditional prediction."""
        if self.neutral:
            return output
        # Clean video D = a x + b prediction.
        a, b = denoising(model, context) if self.space == "denoised" else (0.0, 1.0)

        def formula(cond, uncond):
            axes = tuple(range(1, cond.ndim))
            update = b * (cond - uncond)
            if self.momentum:
                key = model.transformer if context.pipe is None else context.pipe
                if context.step > 0 and key in _averages:
                    update = update + self.momentum * _averages[key]
                _averages[key] = update
            if self.threshold is not None:
                update = update * (self.threshold / _length(update, axes)).clamp(max=1)
            along = b * cond + a * _noisy(model, inputs, cond) if a else b * cond
            along = along / _length(along, axes)
            parallel = (update * along).sum(axes, keepdim=True) * along
            return cond - (update - (1 - self.eta) * parallel) / b

        return replace_uncond(self, model, inputs, context, output, formula)


def denoising(model, context: ForwardContext) -> tuple[float, float]:
    """(a, b) of the predicted clean video a x + b prediction at this step, with x the noisy latents.

    Raises ValueError for a CogVideoX without its pipeline."""
    if model.family != COGVIDEOX:  # flow matching: x = (1 - s) x_0 + s noise, the prediction is noise - x_0
        return 1.0, -context.timestep / 1000
    scheduler = getattr(context.pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError('AdaptiveProjectedGuidance space="denoised" needs CogVideoX\'s pipeline for the noise level')
    signal = float(scheduler.alphas_cumprod[int(context.timestep)])
    if scheduler.config.prediction_type == "epsilon":
        return signal**-0.5, -((1 / signal - 1) ** 0.5)
    return signal**0.5, -((1 - signal) ** 0.5)


def _noisy(model, inputs: dict, cond: torch.Tensor) -> torch.Tensor:
    """The noisy latents that go with a conditional prediction, over the same frames."""
    axis = 2 if model.family == COGVIDEOX else 1
    latents = inputs["hidden_states"].narrow(axis, 0, model.transformer.config.out_channels)
    skipped = 0 if axis == 2 else latents.shape[2] - cond.shape[2]
    return (latents if axis == 2 else latents[:, :, skipped:])[-cond.shape[0] :].double()


def _length(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Euclidean length of each sample, never 0."""
    return (x**2).sum(axes, keepdim=True).sqrt().clamp(min=1e-12)
