"""Normalized attention guidance (NAG): a negative prompt inside the text attention (arXiv 2505.21179)."""

from __future__ import annotations

import dataclasses
import inspect
import math
import weakref
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.interception import replace_attribute
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import Block, attention_modules

# Pipeline -> {method: its negative prompt as encoded for the current or last video}
_encoded: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class NegativePrompt:
    """embeds: (n, L, C) of the text encoder. words: (n, L) bool, None if the model sees the padding. projected: per
    transformer, (n, L, inner)."""

    embeds: torch.Tensor
    words: torch.Tensor | None
    projected: weakref.WeakKeyDictionary = field(default_factory=weakref.WeakKeyDictionary)


@dataclass(frozen=True)
class NormalizedAttentionGuidance:
    """Text attention of the conditional branch becomes alpha z' + (1 - alpha) z+, z' = scale z+ - (scale - 1) z-, with z'
    shortened to tau |z+| where it is longer.

    z+ and z- are the outputs of one query for the prompt and the negative prompt, all heads together; |.| is the L1 norm of a
    token.

    negative_prompt: None takes the pipeline's own, "" if it has none.
    scale: 1 or above; 1 changes nothing. tau: above 0. alpha: in [0, 1]; 0 changes nothing. The released pipeline for Wan
        has tau 2.5, alpha 0.25 and no scale; 11 is the default of the nodes for Wan (github kijai/ComfyUI-WanVideoWrapper).
    blocks: as in AlignVid; all in the released code. window: in which steps; all there.

    Published for few-step models without guidance, where it is the only negative prompt, and also along with
    classifier-free guidance, whose unconditional branch it leaves alone, as the released pipeline does. z+ is what other
    methods made of it; a factor of theirs on all logits, such as AlignVid's, is applied to z- as well.
    The negative prompt is encoded once per video by the pipeline's `encode_prompt` and projected by the transformer.
    """

    name: ClassVar[str] = "nag"
    label: ClassVar[str] = "Normalized attention guidance"
    once: ClassVar[bool] = True
    joins_extra_passes: ClassVar[bool] = True

    negative_prompt: str | None = None
    _: dataclasses.KW_ONLY
    scale: float = 11.0
    tau: float = 2.5
    alpha: float = 0.25
    blocks: str | tuple[int | str, ...] = "all"
    window: Window = "all"

    def __post_init__(self):
        lists_to_tuples(self)
        kind = "NormalizedAttentionGuidance"
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise ValueError(f"{kind} negative_prompt must be a text or None, not {self.negative_prompt!r}")
        for name, low, high in (("scale", 1, math.inf), ("alpha", 0, 1)):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{kind} {name} must be a number in [{low}, {high}], not {value!r}")
        if not (isinstance(self.tau, (int, float)) and self.tau > 0):
            raise ValueError(f"{kind} tau must be above 0, not {self.tau!r}")
        check_window(self.window)

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.scale == 1 or self.alpha == 0

    def check(self, model) -> None:
        """Raise ValueError for joint attention, an unknown text projection, text that passes through connectors (LTX-2), or a
        block that does not exist."""
        choose_blocks(model, self.blocks)
        if "text" not in model.sites:
            raise ValueError(
                f"{self.label} needs text cross-attention. In the joint attention of this {model.family} the text changes "
                "from block to block with the video, so a negative text would have to be carried through whole blocks"
            )
        if hasattr(model.transformer, "audio_caption_projection"):
            raise ValueError(
                f"{self.label} takes the text as it is encoded, and this {model.family} is given it from the pipeline's "
                "connectors, which change it"
            )
        modules = [m for _, kind, m in attention_modules(model.transformer) if kind == "cross"]
        if text_projection(model.transformer) is None or not all(
            hasattr(m, name) for m in modules for name in ("to_k", "to_v", "norm_k")
        ):
            raise ValueError(f"{self.label} does not know how this {model.family} projects its text")

    def watch(self, pipe):
        """Encode the negative prompt whenever the pipeline encodes its prompt. Raises ValueError for a bare transformer."""
        encode = getattr(pipe, "encode_prompt", None)
        known = {} if encode is None else inspect.signature(encode).parameters
        if "do_classifier_free_guidance" not in known:
            raise ValueError(
                f"{self.label} encodes its negative prompt by a pipeline's encode_prompt: steer a pipeline"
            )

        def encode_both(*args, **kwargs):
            found = encode(*args, **kwargs)
            _encoded.setdefault(pipe, {})[self] = self._encode(encode, inspect.signature(encode).bind(*args, **kwargs))
            return found

        undo = replace_attribute(pipe, "encode_prompt", encode_both)

        def forget():
            undo()
            _encoded.get(pipe, {}).pop(self, None)

        return forget

    def _encode(self, encode, call) -> NegativePrompt:
        given = call.arguments
        prompt = self.negative_prompt
        if prompt is None and given.get("negative_prompt_embeds") is not None:
            return NegativePrompt(given["negative_prompt_embeds"], given.get("negative_prompt_attention_mask"))
        if prompt is None:
            prompt = given.get("negative_prompt") or ""
        same = {k: given[k] for k in ("max_sequence_length", "device", "dtype") if k in given}
        found = encode(prompt=prompt, do_classifier_free_guidance=False, **same)
        return NegativePrompt(found[0], found[1] if len(found) == 4 else None)  # (embeds, mask, ...) or (embeds, ...)

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In text attention, unless the branch is unconditional."""
        if self.neutral or site != "text" or context.branch == "uncond" or not in_window(self.window, context):
            return False
        return block.index in choose_blocks(model, self.blocks)

    def edit_attention_output(self, call: AttentionCall, out: torch.Tensor) -> torch.Tensor:
        """The output (B, H, Lq, D) with the conditional samples guided away from the negative prompt."""
        samples = call.conditional()
        if out[samples].shape[0] == 0:
            return out
        positive, negative = (x.transpose(1, 2) for x in (out[samples], self._negative_output(call, samples)))
        guided = combine(positive.flatten(2), negative.flatten(2), self.scale, self.tau, self.alpha)
        guided = guided.unflatten(2, positive.shape[2:]).transpose(1, 2)
        return torch.cat([out[: samples.start], guided]) if samples.start else guided

    def _negative_output(self, call, samples):
        """(B', H, Lq, D): attention of the same queries to the negative prompt."""
        negative = _encoded.get(call.context.pipe, {}).get(self)
        if negative is None:
            raise ValueError(f"{self.label}: the pipeline encoded no prompt since the context was opened")
        if call.video_logits.per_key is not None:
            raise ValueError(
                f"{self.label}: another method scales single keys of the prompt; the negative one has others"
            )
        transformer, module = call.model.transformer, call.module
        query, _, scale = call.scaled(slice(0, call.query.shape[2]), call.video_logits)
        query = query[samples]
        if transformer not in negative.projected:
            embeds = negative.embeds.to(query.device, transformer.dtype)
            negative.projected[transformer] = text_projection(transformer)(embeds)
        text = negative.projected[transformer]
        if getattr(module, "fused_projections", False):
            key, value = module.to_kv(text).chunk(2, dim=-1)
        else:
            key, value = module.to_k(text), module.to_v(text)
        key = module.norm_k(key)
        repeats = query.shape[0] // text.shape[0]
        key, value = (
            x.unflatten(2, (query.shape[1], -1)).transpose(1, 2).repeat_interleave(repeats, 0).to(query.dtype)
            for x in (key, value)
        )
        mask = None
        if negative.words is not None:
            mask = negative.words.to(query.device).bool().repeat_interleave(repeats, 0)[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def text_projection(transformer):
    """What projects the text encoder's output: Wan's and its relatives', or LTX's; None where neither is there."""
    embedder = getattr(getattr(transformer, "condition_embedder", None), "text_embedder", None)
    return embedder if embedder is not None else getattr(transformer, "caption_projection", None)


def combine(positive, negative, scale: float, tau: float, alpha: float) -> torch.Tensor:
    """alpha z' + (1 - alpha) z+ of outputs z+ and z- (B, N, C); at least in float32, returned in the dtype of z+."""
    exact = torch.promote_types(positive.dtype, torch.float32)
    z, away = positive.to(exact), negative.to(exact)
    guided = scale * z - (scale - 1) * away
    length, longest = guided.abs().sum(-1, keepdim=True), tau * z.abs().sum(-1, keepdim=True)
    guided = torch.where(length > longest, guided / (length + 1e-7) * longest, guided)
    return (alpha * guided + (1 - alpha) * z).to(positive.dtype)
