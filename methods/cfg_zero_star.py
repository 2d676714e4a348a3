"""CFG-Zero*: scale the unconditional prediction to fit the conditional one, and start with empty steps (arXiv 2503.18886)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.forward_context import ForwardContext
from .families import COGVIDEOX, Block
from .guidance_formula import check_guidance, check_pipeline, forget, replace_uncond, with_sample

SCALES = ("sample", "channel", "none")


@dataclass(frozen=True)
class CFGZeroStar:
    """Guide with s u + w (c - s u), s = <c, u> / |u|^2, instead of u + w (c - u).

    scale: "sample" takes one s for each video, as the paper and diffusers do; "channel" one for each latent channel, as the
        released script for Wan image-to-video does, whose predictions have no batch axis (github
        WeichenFan/CFG-Zero-star at 3162be1); "none" leaves s at 1.
    zero_steps: the prediction of so many first steps is zero, so that the latents stay as they are. The released code advises
        4 % of the steps, and one step for Wan image-to-video, more being unstable; its own `zero_steps` counts from 0, so that
        its 0 is 1 here, as in diffusers' guider. Off by default: it is the part that is reported not to work well for
        image-to-video (github kijai/ComfyUI-WanVideoWrapper, issue 336).

    Defined by the paper for flow matching, where c and u are velocities and s minimises a bound on the error of the guided
    one. CogVideoX's v-prediction is the velocity of its own path too, dx/dphi of x = cos(phi) x_0 + sin(phi) eps, so the
    scale is used there as it stands, which goes beyond the paper; a zero prediction shrinks the latents there, so
    zero_steps is refused.
    List it after methods that change a prediction. It does not compose with other guidance formulas.
    """

    name: ClassVar[str] = "cfgzero"
    label: ClassVar[str] = "CFG-Zero*"
    changes_guidance: ClassVar[bool] = True
    once: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    scale: str = "sample"
    zero_steps: int = 0

    def __post_init__(self):
        if self.scale not in SCALES:
            raise ValueError(f"CFGZeroStar scale must be one of {', '.join(SCALES)}, not {self.scale!r}")
        if isinstance(self.zero_steps, bool) or not isinstance(self.zero_steps, int) or self.zero_steps < 0:
            raise ValueError(
                f"CFGZeroStar zero_steps must be a whole number of steps, 0 or more, not {self.zero_steps!r}"
            )

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.zero_steps == 0 and self.scale == "none"

    def check(self, model) -> None:
        """Raise ValueError for distilled guidance, and for zero_steps on a model that does not predict a flow."""
        check_guidance(self, model)
        if self.zero_steps and model.family == COGVIDEOX:
            raise ValueError(
                f"CFGZeroStar zero_steps={self.zero_steps} leaves the latents of a flow-matching model as they are; "
                "CogVideoX predicts v, and zero there shrinks them: use zero_steps=0"
            )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def watch(self, pipe):
        """Raise ValueError for a pipeline that predicts no velocity or guides by another formula."""
        check_pipeline(self, pipe, ("flow_prediction", "v_prediction"))
        return lambda: forget(pipe)

    def edit_output(self, model, inputs: dict, context: ForwardContext, output, run):
        """The unconditional prediction scaled, or nothing but zeros in the first steps."""
        if self.scale == "none" and context.step >= self.zero_steps:
            return output
        kept = {0} if self.scale == "sample" else {0, 2 if model.family == COGVIDEOX else 1}

        def formula(cond, uncond):
            if self.scale == "none":
                return uncond
            axes = tuple(axis for axis in range(cond.ndim) if axis not in kept)
            s = (cond * uncond).sum(axes, keepdim=True) / ((uncond**2).sum(axes, keepdim=True) + 1e-8)
            return s * uncond

        output = replace_uncond(self, model, inputs, context, output, formula)
        if context.step < self.zero_steps:
            return with_sample(output, torch.zeros_like(output[0]))
        return output
