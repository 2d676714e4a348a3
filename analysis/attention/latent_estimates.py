"""What a transformer was given and predicted, as latents (C, F, H, W), and the noise and clean video that follow from it.

| family | latents | prediction | noise | clean video |
|---|---|---|---|---|
| Wan | (C, F, H, W) | velocity v = noise - clean at level s | x + (1 - s) v | x - s v |
| HunyuanVideo | (C, F, H, W) | as Wan | as Wan | as Wan |
| CogVideoX | (F, C, H, W) | v = a noise - b clean, x = a clean + b noise | a v + b x | a x - b v |

a and b are the roots of alphas_cumprod and of the rest at the call's timestep. A HunyuanVideo whose reference frame stays
clean (token_replace) predicts nothing for it: there v counts as 0.
"""

from __future__ import annotations

import torch

from methods.families import COGVIDEOX, HUNYUAN, WAN


def noisy_and_prediction(transformer, inputs: dict, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, v), each (C, F, H, W) float32: of the first sample, the noisy latents that went in, without the channels of a
    condition, and what came out. inputs: the call's arguments by name. Raises ValueError for another family."""
    frames_first, family = {WAN: False, HUNYUAN: False, COGVIDEOX: True}, type(transformer).__name__
    if family not in frames_first:
        raise ValueError(f"noise is estimated for {WAN}, {HUNYUAN} and {COGVIDEOX}, not for {family}")
    x, v = inputs["hidden_states"][0].float(), prediction[0].float()
    if frames_first[family]:
        x, v = x.transpose(0, 1), v.transpose(0, 1)
    if family == HUNYUAN and transformer.config.image_condition_type == "token_replace":
        v = torch.cat([torch.zeros_like(v[:, :1]), v[:, 1:]], 1)
    return x[: transformer.config.out_channels], v


def estimates(scheduler, step: int, x: torch.Tensor, v: torch.Tensor) -> dict[str, torch.Tensor]:
    """The estimates "noise", "velocity" (the prediction itself) and "clean" at the `step`-th of the scheduler's steps.
    Raises ValueError for a scheduler of another kind of prediction."""
    kind = scheduler.config.get("prediction_type", "flow_prediction")  # flow-matching schedulers do not say
    if kind == "flow_prediction":
        level = scheduler.sigmas[step].item()
        return {"noise": x + (1 - level) * v, "velocity": v, "clean": x - level * v}
    if kind == "v_prediction":
        signal = scheduler.alphas_cumprod[int(scheduler.timesteps[step])].item()
        a, b = signal**0.5, (1 - signal) ** 0.5
        return {"noise": a * v + b * x, "velocity": v, "clean": a * x - b * v}
    raise ValueError(f"the scheduler's prediction_type is {kind!r}; flow_prediction and v_prediction are allowed")
