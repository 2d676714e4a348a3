"""LTX-Video, image-to-video and text-to-video: self-attention, then cross-attention to the text.

Token order: images that LTXConditionPipeline puts at later frames; video. The reference is the first latent frame, whose
tokens have a time of their own that is nearer to 0; of a given video it is the first frame, and the others are taken for
video. A reference that LTXConditionPipeline is given with less than full strength s has the time 1000 (1 - s) at most: in the
steps below it the model treats that frame as any other, and it is video here.

Text keys that the model's mask shuts out are `text_padding`: their weight is 0 and stays so.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from .family import Family, Tiny, numbered
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames


def reference_is_cleaner(timestep: torch.Tensor, first: slice) -> bool:
    """Whether the tokens of the first frame are nearer to time 0 than others; timestep: (B,) or (B, N)."""
    return timestep.ndim == 2 and bool((timestep[:, first] < timestep.amax(1, keepdim=True)).all())


def text_keys(inputs: dict) -> torch.Tensor:
    """(B, N) bool: the text tokens that the mask lets through."""
    text, mask = inputs["encoder_hidden_states"], inputs.get("encoder_attention_mask")
    if mask is None:
        return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    return mask.bool() if mask.ndim == 2 else mask[:, 0] > -1000


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Latents come as one sequence, whose grid the call tells by numbers or by the coordinates of its tokens."""
    hidden, coordinates, given = inputs["hidden_states"], inputs.get("video_coords"), 0
    if coordinates is None:
        grid = (inputs["num_frames"], inputs["height"], inputs["width"])
    else:
        time, *place = coordinates[0]
        given = int((time == 0).nonzero()[0])  # only the video begins at time 0
        rows, columns = (len(x[given:].unique()) for x in place)
        grid = ((len(time) - given) // (rows * columns), rows, columns)
    first = slice(given, given + grid[1] * grid[2])
    reference = reference_is_cleaner(inputs["timestep"], first)
    parts = [("history", given, -1), *video_frames(grid[0], grid[1] * grid[2], reference)]
    sequences = {"video": sequence(hidden.device, *parts), "text": text_sequence(hidden.device, text_keys(inputs))}
    return make_layout(sequences, grid, first if reference else None)


def tiny_model(batch, grid, words, *, reference, key_frame):
    """reference: the first frame has time 0. key_frame: an image for a later frame lies before the video."""
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(0)
    model = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=3,
        caption_channels=16,
    )  # fmt: skip
    size, mask = grid[1] * grid[2], torch.ones(batch, 8)
    mask[:, words:] = 0
    time = torch.full((batch, grid[0] * size), 900.0)
    time[:, : size if reference else 0] = 0
    inputs = dict(zip(("num_frames", "height", "width"), grid, strict=True))
    if key_frame:
        frames, rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
        places = torch.stack([(8 * frames - 7).clamp(min=0) / 25, 32 * rows, 32 * columns]).flatten(1)
        last = places[:, :size] + torch.tensor([[8.0], [0], [0]])
        inputs = {"video_coords": torch.cat([last, places], 1).expand(batch, -1, -1)}
        time = torch.cat([torch.zeros(batch, size), time], 1)
    return model, inputs | dict(
        hidden_states=torch.randn(batch, time.shape[1], 8), timestep=time, encoder_attention_mask=mask,
        encoder_hidden_states=torch.randn(batch, 8, 16),
    )  # fmt: skip


def tiny(reference=True, key_frame=False) -> Tiny:
    """A Tiny of LTX's shape."""

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        if site == "text":
            return ["text"] * words + ["text_padding"] * (8 - words)
        first = ["history"] * key_frame * size + ["reference" if reference else "video"] * size
        return first + ["video"] * (grid[0] - 1) * size

    make = functools.partial(tiny_model, reference=reference, key_frame=key_frame)
    first = lambda hidden, grid: hidden.unflatten(1, (-1, grid[1] * grid[2]))[:, int(key_frame)]  # noqa: E731
    return Tiny(make, ("self", "text"), keys, image_to_video=reference, first_frame=first)


FAMILY = Family(
    title="LTX-Video",
    reference="the first latent frame, whose tokens are nearer to time 0",
    pipelines=("LTXImageToVideoPipeline", "LTXConditionPipeline", "LTXPipeline"),
    without_reference={"LTXPipeline": "a text alone"},
    refused_pipelines={"LTXI2VLongMultiPromptPipeline": "it makes a video in windows that begin with frames of others"},
    tiny={"ltx-i2v": tiny(), "ltx-key-frame": tiny(key_frame=True), "ltx-t2v": tiny(reference=False)},
    class_name="LTXVideoTransformer3DModel",
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.transformer_blocks),
    sites=lambda transformer: {"self", "text"},
    groups=lambda transformer: {"text", "video", "text_padding", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    block_outputs=("hidden_states",),
)
