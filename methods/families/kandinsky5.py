"""Kandinsky 5, image-to-video and text-to-video: self-attention, then cross-attention to the text.

Token order: video, frame by frame. The reference is latent frame 0, if the mask in the last channel says that it is given.
All text keys are words: the model is given as many as the longest prompt of a batch has, and no mask. The attention of its
`text_transformer_blocks`, in which words attend to words, is left alone. Refused are models with sparse (NABLA) attention,
which sort their tokens into blocks and choose blocks of keys by a mask of flex attention.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from .family import Family, Tiny, numbered
from .tokens import Layout, make_layout, sequence, video_frames


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Latents are (B, F, H, W, C). Raises ValueError for a call with sparse attention."""
    if inputs.get("sparse_params") is not None:
        raise ValueError(f"Kandinsky 5: {SPARSE}")
    hidden, text = inputs["hidden_states"], inputs["encoder_hidden_states"]
    grid = tuple(n // p for n, p in zip(hidden.shape[1:4], transformer.config.patch_size, strict=True))
    size = grid[1] * grid[2]
    reference = transformer.config.visual_cond and bool((hidden[:, 0, ..., -1] != 0).all())
    sequences = {
        "video": sequence(hidden.device, *video_frames(grid[0], size, reference)),
        "text": sequence(hidden.device, ("text", text.shape[1], -1)),
    }
    return make_layout(sequences, grid, slice(0, size) if reference else None)


SPARSE = "its self-attention is sparse (NABLA): a mask of blocks for flex attention, with the tokens in another order"


def tiny_model(batch, grid, words, *, reference):
    """A model with channels for a reference; without one, as text-to-video uses it, they are 0."""
    from diffusers import Kandinsky5Transformer3DModel

    torch.manual_seed(0)
    model = Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, out_visual_dim=4, model_dim=32, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=3, axes_dims=(4, 6, 6), visual_cond=True,
    )  # fmt: skip
    f, h, w = grid
    hidden = torch.zeros(batch, f, 2 * h, 2 * w, 9)
    hidden[..., :4] = torch.randn(batch, f, 2 * h, 2 * w, 4)
    hidden[:, : int(reference), ..., -1] = 1
    return model, dict(
        hidden_states=hidden, encoder_hidden_states=torch.randn(batch, words, 16), timestep=torch.full((batch,), 900.0),
        pooled_projections=torch.randn(batch, 8), visual_rope_pos=[torch.arange(n) for n in grid],
        text_rope_pos=torch.arange(words),
    )  # fmt: skip


def tiny(reference=True) -> Tiny:
    """A Tiny of Kandinsky's shape."""

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        if site == "text":
            return ["text"] * words
        return ["reference" if reference else "video"] * size + ["video"] * (grid[0] - 1) * size

    make = functools.partial(tiny_model, reference=reference)
    first = lambda hidden, grid: hidden[:, :1, ..., :4]  # noqa: E731
    return Tiny(make, ("self", "text"), keys, image_to_video=reference, first_frame=first)


FAMILY = Family(
    title="Kandinsky 5",
    reference="the first latent frame, clean, and a mask that says so",
    pipelines=("Kandinsky5I2VPipeline", "Kandinsky5T2VPipeline"),
    without_reference={"Kandinsky5T2VPipeline": "a text alone"},
    tiny={"kandinsky-5-i2v": tiny(), "kandinsky-5-t2v": tiny(reference=False)},
    class_name="Kandinsky5Transformer3DModel",
    attention={"self_attention": "self", "cross_attention": "cross"},
    blocks=lambda transformer: numbered(transformer.visual_transformer_blocks),
    sites=lambda transformer: {"self", "text"},
    groups=lambda transformer: {"text", "video"},
    image_to_video=lambda transformer: transformer.config.visual_cond,
    layout=layout,
    block_inputs=("visual_embed", "text_embed"),
    block_outputs=("visual_embed",),
    refuse=lambda transformer: SPARSE if transformer.config.attention_type == "nabla" else None,
)
