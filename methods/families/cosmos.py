"""Cosmos Predict 2 and 2.5, image-to-world and text-to-world: self-attention, then cross-attention to the text.

Token order: video. The reference is latent frame 0, if the condition mask says that it is given; of a given video it is the
first frame, and the others are taken for video. Text keys of zeros are padding, as Predict 2 gives them, and take part in
the softmax; those of Predict 2.5 are all words to it. Times are in 0..1.

Refused are Cosmos Predict 1, whose model is told a quarter of the logarithm of the noise, and Cosmos Transfer 2.5, whose
control latents are no reference.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from .family import Family, Tiny, numbered
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames

CONTROL = "control latents are added to what its blocks return, and they are no reference"
LOGARITHM = "it is told a quarter of the logarithm of the noise, no time in which a window could be said"


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """The video, and the text with its padding."""
    hidden, text, mask = inputs["hidden_states"], inputs["encoder_hidden_states"], inputs.get("condition_mask")
    grid = tuple(n // p for n, p in zip(hidden.shape[2:], transformer.config.patch_size, strict=True))
    size = grid[1] * grid[2]
    reference = mask is not None and bool((mask[:, :, 0] > 0).all())
    valid = text.abs().sum(-1) > 0
    if inputs.get("attention_mask") is not None:
        valid &= inputs["attention_mask"].bool()
    sequences = {
        "video": sequence(hidden.device, *video_frames(grid[0], size, reference)),
        "text": text_sequence(hidden.device, valid),
    }
    return make_layout(sequences, grid, slice(0, size) if reference else None)


def prompt_text(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """The prompt as it is. Raises ValueError for Predict 2.5, which puts it into a conversation."""
    if type(pipe).__name__ == "Cosmos2_5_PredictBasePipeline":
        raise ValueError(
            "words cannot be found in the text keys of Cosmos Predict 2.5, which hold a whole conversation"
        )
    return prompt, 0, 0


def refuse(transformer: nn.Module) -> str | None:
    """Cosmos Transfer 2.5 has image keys, and blocks that take control latents."""
    config = transformer.config
    return CONTROL if config.img_context_dim_in or config.controlnet_block_every_n else None


def tiny_model(batch, grid, words, *, reference, edition):
    """edition: "2" with text keys of zeros as padding, "2.5" with a projection of the text, which has no padding."""
    from diffusers import CosmosTransformer3DModel

    torch.manual_seed(0)
    projected = {
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": 24,
        "encoder_hidden_states_channels": 16,
    }
    model = CosmosTransformer3DModel(
        in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=18, num_layers=3, mlp_ratio=1.0,
        text_embed_dim=16, adaln_lora_dim=8, max_size=(8, 16, 16), concat_padding_mask=False, extra_pos_embed_type=None,
        **(projected if edition == "2.5" else {}),
    )  # fmt: skip
    f, h, w = grid
    text, mask = torch.randn(batch, 8, 24 if edition == "2.5" else 16), torch.zeros(batch, 1, f, 2 * h, 2 * w)
    text[:, words if edition == "2" else 8 :] = 0
    mask[:, :, : int(reference)] = 1
    time = torch.full((batch, 1, f, 1, 1), 0.9)
    time[:, :, : int(reference)] = 0.0001
    return model, dict(
        hidden_states=torch.randn(batch, 4, f, 2 * h, 2 * w), timestep=time, encoder_hidden_states=text,
        condition_mask=mask, fps=16,
    )  # fmt: skip


def tiny(reference=True, edition="2") -> Tiny:
    """A Tiny of Cosmos's shape."""

    def keys(site, grid, words, batch):
        size, words = grid[1] * grid[2], words if edition == "2" else 8
        if site == "text":
            return ["text"] * words + ["text_padding"] * (8 - words)
        return ["reference" if reference else "video"] * size + ["video"] * (grid[0] - 1) * size

    make = functools.partial(tiny_model, reference=reference, edition=edition)
    return Tiny(make, ("self", "text"), keys, image_to_video=reference)


FAMILY = Family(
    title="Cosmos Predict 2, 2.5",
    reference="the first latent frame, with a time of its own and a mask that says so",
    pipelines=("Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline"),
    refused_pipelines={
        "CosmosTextToWorldPipeline": LOGARITHM,
        "CosmosVideoToWorldPipeline": LOGARITHM,
        "Cosmos2_5_TransferPipeline": CONTROL,
    },
    tiny={"cosmos-2": tiny(), "cosmos-2.5": tiny(edition="2.5"), "cosmos-2-t2v": tiny(reference=False)},
    class_name="CosmosTransformer3DModel",
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.transformer_blocks),
    sites=lambda transformer: {"self", "text"},
    groups=lambda transformer: {"text", "video", "text_padding"},
    image_to_video=lambda transformer: True,
    layout=layout,
    refuse=refuse,
    prompt_text=prompt_text,
    block_outputs=("hidden_states",),
    time_scale=1000.0,
)
