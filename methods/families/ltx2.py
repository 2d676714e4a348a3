"""LTX-2, LTX-2.3 and LTX-2.5, image-to-video and text-to-video: self-attention, then cross-attention to the text.

Of the six attentions of a block these two, `attn1` and `attn2`, are steered. Those of the sound (`audio_attn1`,
`audio_attn2`) and between picture and sound (`audio_to_video_attn`, `video_to_audio_attn`) are left alone.

Token order: video; images for later frames and what in-context pipelines append, as `history`. The reference is the first
latent frame, whose tokens have a time of their own that is nearer to 0. Text keys: the words, then learned registers in the
place of padding, which take part in the softmax as Wan's padding does and are `text_padding`. Only the pipeline knows how
many words there are; to a transformer alone, all keys that its mask lets through are `text`.
"""

from __future__ import annotations

import functools
import weakref

import torch
from torch import nn

from .family import Family, Tiny, numbered
from .ltx import reference_is_cleaner, text_keys
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames

WORDS = weakref.WeakKeyDictionary()  # transformer -> (B,) words of each prompt in the current or last video


def watch(pipe):
    """Note how many words the prompts have, which the connectors are told before they put registers behind them."""
    connectors, transformer = getattr(pipe, "connectors", None), getattr(pipe, "transformer", None)
    if connectors is None or connectors.config.video_connector_num_learnable_registers is None:
        return lambda: None
    transformer = getattr(transformer, "_orig_mod", transformer)

    def note(module, args, kwargs):
        mask = kwargs["attention_mask"] if "attention_mask" in kwargs else args[1]
        WORDS[transformer] = mask.sum(-1)

    handle = connectors.register_forward_pre_hook(note, with_kwargs=True)

    def forget():
        handle.remove()
        WORDS.pop(transformer, None)

    return forget


def words_and_registers(transformer: nn.Module, inputs: dict) -> torch.Tensor:
    """(B, N) bool: the text tokens that are words. Raises ValueError for another number of prompts than the pipeline had."""
    valid, words = text_keys(inputs), WORDS.get(transformer)
    if words is None:
        return valid
    batch = valid.shape[0]
    if batch > len(words):
        raise ValueError(f"the transformer was given {batch} prompts, but the pipeline's connectors {len(words)}")
    words = words[-batch:].to(valid.device)  # passes beside guidance's have the prompts alone, which come last
    return valid & (torch.arange(valid.shape[1], device=valid.device)[None] < words[:, None])


def prompt_text(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """The prompt as it is: connectors with registers bring its words to the front. Raises ValueError for other connectors."""
    if pipe.connectors.config.video_connector_num_learnable_registers is None:
        raise ValueError("words are found only in an LTX-2 whose connectors put registers behind them")
    return prompt, 0, 0


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """The grid is told by numbers; tokens beyond it were appended."""
    hidden, grid = inputs["hidden_states"], (inputs["num_frames"], inputs["height"], inputs["width"])
    size, appended = grid[1] * grid[2], hidden.shape[1] - grid[0] * grid[1] * grid[2]
    reference = reference_is_cleaner(inputs["timestep"], slice(0, size))
    parts = [*video_frames(grid[0], size, reference), ("history", appended, -1)]
    text = text_sequence(hidden.device, words_and_registers(transformer, inputs))
    sequences = {"video": sequence(hidden.device, *parts), "text": text}
    return make_layout(sequences, grid, slice(0, size) if reference else None)


def left_out(transformer: nn.Module, inputs: dict) -> frozenset[tuple[int, str]]:
    """Self-attention of the blocks in which spatio-temporal guidance puts the values in its place, for all samples."""
    blocks, mask = inputs.get("spatio_temporal_guidance_blocks") or (), inputs.get("perturbation_mask")
    if not transformer.config.perturbed_attn or (mask is not None and bool((mask != 0).any())):
        return frozenset()
    return frozenset((b, "self") for b in blocks)


def tiny_model(batch, grid, words, *, reference, edition, appended):
    """edition: "2" or "2.3", with gated heads, time-dependent text keys and no projection of the text."""
    from diffusers import LTX2VideoTransformer3DModel

    torch.manual_seed(0)
    later = edition == "2.3"
    model = LTX2VideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        audio_in_channels=6, audio_out_channels=6, audio_num_attention_heads=2, audio_attention_head_dim=8,
        audio_cross_attention_dim=16, num_layers=3, caption_channels=16, gated_attn=later, cross_attn_mod=later,
        audio_gated_attn=later, audio_cross_attn_mod=later, perturbed_attn=later, use_prompt_embeddings=not later,
        rope_type="split" if later else "interleaved",
    )  # fmt: skip
    size, mask = grid[1] * grid[2], torch.ones(batch, 8)
    mask[:, words:] = 0
    time = torch.full((batch, (grid[0] + appended) * size), 900.0)
    time[:, : size if reference else 0] = 0
    inputs = dict(zip(("num_frames", "height", "width"), grid, strict=True))
    if appended:
        places = model.rope.prepare_video_coords(batch, *grid, device="cpu")
        inputs["video_coords"] = torch.cat([places, places[:, :, :size] + torch.tensor([2.0, 0, 0])[:, None, None]], 2)
        time[:, -size:] = 0
    return model, inputs | dict(
        hidden_states=torch.randn(batch, time.shape[1], 8), audio_hidden_states=torch.randn(batch, 5, 6),
        encoder_hidden_states=torch.randn(batch, 8, 24 if later else 16),
        audio_encoder_hidden_states=torch.randn(batch, 8, 16), timestep=time, audio_timestep=torch.full((batch,), 900.0),
        sigma=torch.full((batch,), 900.0), encoder_attention_mask=mask, audio_encoder_attention_mask=mask,
        audio_num_frames=5,
    )  # fmt: skip


def tiny(reference=True, edition="2", appended=0) -> Tiny:
    """A Tiny of LTX-2's shape."""

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        if site == "text":
            return ["text"] * words + ["text_padding"] * (8 - words)
        first = ["reference" if reference else "video"] * size
        return first + ["video"] * (grid[0] - 1) * size + ["history"] * appended * size

    make = functools.partial(tiny_model, reference=reference, edition=edition, appended=appended)
    first = lambda hidden, grid: hidden[:, : grid[1] * grid[2]]  # noqa: E731
    return Tiny(make, ("self", "text"), keys, image_to_video=reference, first_frame=first)


FAMILY = Family(
    title="LTX-2, LTX-2.3, LTX-2.5",
    reference="the first latent frame, whose tokens are nearer to time 0",
    pipelines=("LTX2ImageToVideoPipeline", "LTX2ConditionPipeline", "LTX2Pipeline"),
    without_reference={"LTX2Pipeline": "a text alone"},
    refused_pipelines=dict.fromkeys(
        ("LTX2DFRPipeline", "LTX2DFRTemporalRefinePipeline"), "it runs every step in tiles"
    ),
    tiny={
        "ltx-2-i2v": tiny(),
        "ltx-2.3-i2v": tiny(edition="2.3"),
        "ltx-2-condition": tiny(appended=1),
        "ltx-2-t2v": tiny(reference=False),
    },
    class_name="LTX2VideoTransformer3DModel",
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.transformer_blocks),
    sites=lambda transformer: {"self", "text"},
    groups=lambda transformer: {"text", "video", "text_padding", "history"},
    image_to_video=lambda transformer: True,
    layout=layout,
    block_outputs=("hidden_states", "audio_hidden_states"),
    extra_passes={"uncond_stg": "cond", "uncond_modality": "cond"},
    left_out=left_out,
    prompt_text=prompt_text,
    watch=watch,
)
