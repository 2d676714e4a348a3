"""DyMoS: subtract a constant from the logits of generated frames' queries on the reference frame's keys (arXiv 2605.19398)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.attention_call import AttentionCall
from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import Block

SCHEDULES = ("uniform", "linear", "log")

# Table 3: strength and share of steps per backbone.
PUBLISHED = {
    "wan2.2-i2v-a14b": {"gamma": 0.6, "window": (0.0, 0.20)},
    "wan2.1-i2v-14b": {"gamma": 1.0, "window": (0.0, 0.25)},
    "hunyuanvideo-1.5": {"gamma": 1.0, "window": (0.0, 0.20)},
    "cogvideox-5b": {"gamma": 0.8, "window": (0.0, 0.24)},
}


@dataclass(frozen=True)
class DyMoS:
    """Subtract `gamma h(f)` from the logits of reference-frame keys for queries of latent frame f (Eq. 6).

    gamma: any finite number, in logit units; 0 changes nothing, a negative one ties the video to its reference.
    window: in which steps, see core/step_windows.py; published are shares from the first one on.
    schedule: h over the latent frames f = 1 .. F - 1: "uniform" 1; "linear" f / (F - 1); "log"
        log(1 + f) / log F. The formulas (Eqs. 9-11) are missing from the available text; these are the simplest that
        match its description: weaker near the reference, 1 at the last frame, log rising faster at first.
    variant: "paper" leaves the queries of the reference frame alone (appendix C.1), "released" subtracts from them too
        (h = 1), as one of the two public scripts does (github sh0xed98b8/DyMoS at 8413978); the other (shoxedqBbB/DyMoS at
        28f120c) leaves them alone. Both are for Wan 2.2 alone: that text queries keep their logits in joint attention is
        read from Eq. 6, which speaks of the queries of frames.
    Only the conditional branch is changed (Eq. 7), under sequential and batched guidance.
    """

    name: ClassVar[str] = "dymos"
    label: ClassVar[str] = "DyMoS"
    joins_extra_passes: ClassVar[bool] = True

    gamma: float
    _: dataclasses.KW_ONLY
    window: Window = (0.0, 0.2)
    schedule: str = "uniform"
    variant: str = "paper"

    def __post_init__(self):
        lists_to_tuples(self)
        if not (isinstance(self.gamma, (int, float)) and math.isfinite(self.gamma)):
            raise ValueError(f"DyMoS gamma must be a finite number, not {self.gamma}")
        check_window(self.window)
        for name, values in (("schedule", SCHEDULES), ("variant", ("paper", "released"))):
            if getattr(self, name) not in values:
                raise ValueError(f"DyMoS {name} must be one of {', '.join(values)}, not {getattr(self, name)!r}")

    @classmethod
    def published(cls, backbone: str) -> DyMoS:
        """The setting of table 3 for a backbone. Raises ValueError for one that is not in the table."""
        if backbone not in PUBLISHED:
            raise ValueError(f"DyMoS publishes no setting for {backbone!r}: it has {', '.join(PUBLISHED)}")
        return cls(**PUBLISHED[backbone])

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.gamma == 0

    def check(self, model) -> None:
        """Raise ValueError for a model without a reference frame."""
        if not model.image_to_video:
            raise ValueError(f"DyMoS needs a reference frame; this {model.family} is a text-to-video model")

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In self-attention or joint attention, in the window's steps, unless the branch is unconditional."""
        if self.gamma == 0 or site not in ("self", "joint") or context.branch == "uncond":
            return False
        return in_window(self.window, context)

    def edit(self, call: AttentionCall) -> None:
        """Add the bias of each query to the call. Raises ValueError if this call has no reference frame."""
        if call.reference is None:
            raise ValueError("DyMoS: the model was given no reference frame in this call")
        frames = call.queries.frames.clone()
        if (call.queries.frames[call.reference] < 0).all():  # FramePack: the reference lies before the window
            frames += (frames >= 0).to(frames.dtype)
        last = int(frames.max())
        if self.schedule == "linear":
            h = frames / last
        elif self.schedule == "log":
            h = torch.log1p(frames.clamp(min=0).double()) / math.log(1 + last)
        else:
            h = torch.ones_like(frames, dtype=torch.float64)
        chosen = frames > 0
        if self.variant == "released":
            is_reference = torch.zeros_like(chosen)
            is_reference[call.reference] = True
            chosen, h = chosen | is_reference, torch.where(is_reference, 1.0, h.double())
        bias = torch.where(chosen, -self.gamma * h, 0.0).float()
        call.bias = bias if call.bias is None else call.bias + bias
