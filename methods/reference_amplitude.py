"""PainterI2V's motion amplitude: push the empty frames of Wan's image condition away from the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.forward_context import ForwardContext
from .families import WAN, Block
from .reference_latents import reference_latents, refuse_low_pass

LIMIT = 6.0


@dataclass(frozen=True)
class ReferenceAmplitude:
    """Multiply by `amplitude` what tells the later frames of the image condition from its first.

    With z_0 the latent frame of the reference, z_f those of the grey frames that fill the rest of the condition, and m_f the
    mean over channels and pixels of z_f - z_0, frames f > 0 become z_0 + amplitude (z_f - z_0 - m_f) + m_f, clamped to
    [-6, 6]: the contrast grows and the mean, the brightness, stays (github princepainter/ComfyUI-PainterI2V at 33810af).

    amplitude: 1 or more; 1 changes nothing. The node offers 1 to 2, its default is 1.15.

    The formula is of the autoencoder's own latents, so those of the pipeline are put back to its scale and forth: it needs a
    pipeline. Published for Wan 2.1 and 2.2 A14B with one image, and refused elsewhere. What the node gives to the model
    besides, `reference_latents`, has no input in these transformers.
    Two of them act one after the other.
    """

    name: ClassVar[str] = "amplitude"
    label: ClassVar[str] = "Reference amplitude"

    amplitude: float

    def __post_init__(self):
        if not (math.isfinite(self.amplitude) and self.amplitude >= 1):
            raise ValueError(f"ReferenceAmplitude amplitude must be a finite number of 1 or more, not {self.amplitude}")

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.amplitude == 1

    def check(self, model) -> None:
        """Raise ValueError for a model that is not a Wan with extra channels for the image."""
        config = model.transformer.config
        if model.family != WAN or config.in_channels <= config.out_channels:
            raise ValueError(
                "ReferenceAmplitude scales the grey frames in the extra image channels of Wan 2.1 and 2.2 A14B "
                f"image-to-video; this {model.family} has none"
            )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def watch(self, pipe):
        """Raise ValueError for a bare transformer, which does not know the scale of its latents."""
        if pipe is None:
            raise ValueError(
                "ReferenceAmplitude needs the autoencoder's latents_mean and latents_std: steer a pipeline"
            )
        return lambda: None

    def edit_inputs(self, model, inputs: dict, context: ForwardContext) -> dict:
        """hidden_states with scaled later frames. Raises ValueError for a condition that holds a last image as well."""
        if self.neutral:
            return inputs
        refuse_low_pass(self, model)
        hidden = inputs["hidden_states"].clone()
        condition = reference_latents(self, model, inputs, hidden)
        channels = condition.shape[1]
        if bool(hidden[:, channels:-channels, 1:].any()):
            raise ValueError(
                "ReferenceAmplitude is defined for one reference image; this condition holds a last one too"
            )
        config = context.pipe.vae.config
        mean, std = (
            torch.tensor(values, device=hidden.device, dtype=torch.float32).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        later = scale_difference(condition.float() * std + mean, self.amplitude)[:, :, 1:]
        condition[:, :, 1:] = ((later - mean) / std).to(hidden.dtype)
        return inputs | {"hidden_states": hidden}


def scale_difference(latents: torch.Tensor, amplitude: float) -> torch.Tensor:
    """Latents (B, C, F, H, W) with the difference of frames 1 .. F - 1 to frame 0 scaled about its mean, see above."""
    first = latents[:, :, :1]
    difference = latents[:, :, 1:] - first
    mean = difference.mean((1, 3, 4), keepdim=True)
    later = (first + amplitude * (difference - mean) + mean).clamp(-LIMIT, LIMIT)
    return torch.cat([first, later], dim=2)
