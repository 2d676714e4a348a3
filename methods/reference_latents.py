"""Where the reference image's latents are among the inputs of a transformer."""

from __future__ import annotations

import torch

from .families import COGVIDEOX, HUNYUAN, HUNYUAN15, WAN
from .guidance_formula import attached_methods, clean_first_frame


def check_reference(method, model) -> None:
    """Raise ValueError for a model whose latents hold no reference image."""
    if model.family not in (WAN, COGVIDEOX, HUNYUAN, HUNYUAN15) or not model.image_to_video:
        raise ValueError(
            f"{method.label} needs a reference in the latents: image-to-video Wan, CogVideoX, HunyuanVideo or "
            f"HunyuanVideo-1.5, not this {model.family}"
        )


def reference_latents(method, model, inputs: dict, hidden: torch.Tensor) -> torch.Tensor:
    """A view (B, C, F, H, W) of the image condition in `hidden`, a copy of inputs["hidden_states"].

    With extra channels for it (Wan 2.1 and A14B, CogVideoX, HunyuanVideo latent_concat, HunyuanVideo-1.5) F are all latent
    frames, without their masks; where the first latent frame is the reference itself, F is 1.
    Raises ValueError if this call has no reference: Wan 2.2 5B as a text-to-video model, HunyuanVideo-1.5 without image.
    """
    config = model.transformer.config
    channels = config.out_channels
    if clean_first_frame(model, inputs):
        return hidden[:, :, :1]
    if config.in_channels == channels:
        raise ValueError(f"{method.label}: the model was given no reference frame in this call")
    if model.family == COGVIDEOX:
        return hidden[:, :, channels:].transpose(1, 2)
    if model.family == WAN:  # noisy latents, mask, image latents
        return hidden[:, -channels:]
    if model.family == HUNYUAN15 and not bool(hidden[:, 2 * channels :].any()):
        raise ValueError(f"{method.label}: the model was given no reference frame in this call")
    return hidden[:, channels : 2 * channels]  # noisy latents, image latents, mask


def refuse_low_pass(method, model) -> None:
    """Raise ValueError next to low-pass guidance, whose further pass starts from the pipeline's own inputs."""
    if any(getattr(m, "name", "") == "lowpass" for m in attached_methods(model.transformer)):
        raise ValueError(
            f"{method.label} does not compose with low-pass guidance: its further pass runs on the pipeline's inputs, "
            "without this edit, and the three predictions would have different references"
        )
