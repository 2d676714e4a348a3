"""Perturbed-attention guidance (PAG): away from a prediction in which tokens attend to themselves only (arXiv 2403.17377)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.attention_call import AttentionCall
from .core.log_sum_exp import attention_with_lse
from .perturbed_guidance import PerturbedGuidance


@dataclass(frozen=True)
class PerturbedAttentionGuidance(PerturbedGuidance):
    """In the perturbed pass the self-attention map of `blocks` is the identity: the output is the value.

    scale, blocks, window, rescale: see PerturbedGuidance. diffusers' pipelines for images take scale 3 and
    the middle block of a U-Net, its guider 2.8 and the steps from 1 % to 20 %. No setting for a video model was found.
    In joint attention the latent tokens do not see each other, but themselves and the text and image tokens, as in
    diffusers' PAGJointAttnProcessor2_0; logits keep what other methods made of them. Text queries stay as they are.
    """

    name: ClassVar[str] = "pag"
    label: ClassVar[str] = "Perturbed-attention guidance"

    def edit_attention_output(self, call: AttentionCall, out: torch.Tensor) -> torch.Tensor:
        """The output (B, H, Lq, D) with the latent tokens' attention to each other cut to the diagonal."""
        video, length = call.queries.video, call.key.shape[2]
        own = call.value[:, :, video]
        if video == slice(0, length):
            return own.clone()
        return torch.cat([out[:, :, : video.start], self._with_text(call, own), out[:, :, video.stop :]], dim=2)

    def _with_text(self, call, own):
        """Attention of each latent token to itself and to all that is no latent token, merged by log-sum-exp."""
        video = call.queries.video
        query, key, scale = call.scaled(video, call.video_logits)
        others = [slice(0, video.start), slice(video.stop, key.shape[2])]
        for members, _ in call.groups_with_bias():
            if any(bool(members[:, part].any()) for part in others):
                raise ValueError(f"{self.label} cannot keep a bias on the keys of the text, which another method adds")
        mask = call.rows_of_mask(video)
        if mask is not None and mask.shape[-1] > 1:
            mask = torch.cat([mask[..., part] for part in others], dim=-1)
        text_key, text_value = (torch.cat([x[:, :, part] for part in others], dim=2) for x in (key, call.value))
        text_out, text_lse = attention_with_lse(query, text_key, text_value, mask, scale)
        exact = text_lse.dtype
        logit = scale * (query.to(exact) * key[:, :, video].to(exact)).sum(-1)
        for members, bias in call.groups_with_bias():
            biased = torch.zeros(query.shape[0], 1, dtype=exact, device=query.device)
            biased[call.conditional()] = 1.0
            logit = logit + (members[:, video].to(exact) * bias[video].to(exact) * biased)[:, None]
        weight = torch.sigmoid(logit - text_lse)[..., None]
        return torch.lerp(text_out.to(exact), own.to(exact), weight).to(own.dtype)
