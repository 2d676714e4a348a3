"""Noise on the latents of the reference image, so that the video need not repeat it."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .families import COGVIDEOX, Block
from .reference_latents import check_reference, reference_latents, refuse_low_pass

VARIANTS = ("helios", "ltx")

# Defaults of the released pipelines.
PUBLISHED = {
    "helios": {"scale": (0.111, 0.135), "variant": "helios"},
    "ltx-video": {"scale": 0.15, "variant": "ltx"},
}


@dataclass(frozen=True)
class ReferenceNoise:
    """Noise on the reference frame's latents z, in both guidance branches alike.

    scale: s, 0 or more ("helios": at most 1), or a pair (low, high) from which one s is drawn for the video. 0 changes
        nothing.
    variant: "helios" (1 - s) z + s noise, the same noise in every step of a video, as in Helios's pipeline;
        "ltx" z + s t^2 noise, with the time t from 1 to 0 and new noise in every step, as in LTX-Video's condition pipeline
        (`image_cond_noise_scale`). The second is defined by the time of flow matching, which CogVideoX does not have.
    seed: of the noise, which does not depend on the device or on the pipeline's generator.

    Only the first latent frame gets noise (both of its copies in CogVideoX-1.5). The time that Wan 2.2 5B and HunyuanVideo
    token_replace give to the frame stays 0: the model takes it for clean. None of the models here is known to be trained
    with such noise on its latents.
    Two of them act one after the other.
    """

    name: ClassVar[str] = "refnoise"
    label: ClassVar[str] = "Reference noise"

    scale: float | tuple[float, float]
    _: dataclasses.KW_ONLY
    variant: str = "helios"
    seed: int = 0

    def __post_init__(self):
        lists_to_tuples(self)
        if self.variant not in VARIANTS:
            raise ValueError(f"ReferenceNoise variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")
        values = self._range()
        numbers = len(values) == 2 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        limit = 1 if self.variant == "helios" else sys.float_info.max
        if not (numbers and 0 <= values[0] <= values[1] <= limit):
            largest = " and at most 1" if self.variant == "helios" else ""
            raise ValueError(
                f"ReferenceNoise scale must be a number of 0 or more{largest}, or a pair (low, high), not {self.scale}"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"ReferenceNoise seed must be a whole number from 0 to 2**31 - 1, not {self.seed!r}")

    @classmethod
    def published(cls, name: str, seed: int = 0) -> ReferenceNoise:
        """The default of a released pipeline. Raises ValueError for a name that is not in PUBLISHED."""
        if name not in PUBLISHED:
            raise ValueError(f"no reference noise is published for {name!r}: it has {', '.join(PUBLISHED)}")
        return cls(**PUBLISHED[name], seed=seed)

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self._range()[1] == 0

    def check(self, model) -> None:
        """Raise ValueError for a model without a reference in its latents, and for "ltx" on CogVideoX."""
        check_reference(self, model)
        if self.variant == "ltx" and model.family == COGVIDEOX:
            raise ValueError(
                'ReferenceNoise variant="ltx" needs the time of flow matching; CogVideoX has none: use "helios"'
            )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def edit_inputs(self, model, inputs: dict, context: ForwardContext) -> dict:
        """hidden_states with noise on the reference frame. Raises ValueError if this call has none."""
        if self.neutral:
            return inputs
        refuse_low_pass(self, model)
        hidden = inputs["hidden_states"].clone()
        condition = reference_latents(self, model, inputs, hidden)
        # CogVideoX-1.5 joins frames in pairs, and fills an odd number of them with a copy of the reference.
        pair = getattr(model.transformer.config, "patch_size_t", None) == 2 and model.family == COGVIDEOX
        copies = [f for f in range(2 if pair else 1) if torch.equal(condition[:, :, f], condition[:, :, 0])]
        branches = 2 if context.branch == "both" else 1
        samples = condition.shape[0] // branches
        scale, noise = self.draw((samples, *condition.shape[1:2], *condition.shape[3:]), context.step)
        noise = noise.repeat(branches, 1, 1, 1).to(condition.device)
        for frame in copies:
            clean = condition[:, :, frame].float()
            if self.variant == "helios":
                noisy = (1 - scale) * clean + scale * noise
            else:
                noisy = clean + scale * (context.timestep / 1000) ** 2 * noise
            condition[:, :, frame] = noisy.to(hidden.dtype)
        return inputs | {"hidden_states": hidden}

    def draw(self, shape: tuple[int, ...], step: int) -> tuple[float, torch.Tensor]:
        """s, and standard normal noise (float32, on the CPU), for a step of the video."""
        low, high = self._range()
        scale = low + (high - low) * torch.rand(1, generator=_generator(self.seed, 0)).item()
        return scale, torch.randn(shape, generator=_generator(self.seed, 1 + step if self.variant == "ltx" else 1))

    def _range(self) -> tuple[float, float]:
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)


def _generator(*key: int) -> torch.Generator:
    """torch's generator keeps 32 bits of a seed; the sequence mixes all of the key into them."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
