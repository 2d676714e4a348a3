"""Focal Guidance: tie keywords to their place in the reference image, and lend weak layers the attention of others
(arXiv 2601.07287, section 4). No code of it was released; the ledger says what the paper leaves open.

In semantic-weak layers l_w, for keywords k with anchors (methods.keywords), V_k^text and V_k^vis being what the layer's
value projections make of the keyword's text feature and of its anchor, and z the tokens that enter the layer:

    text-value binding    V_k^text <- V_k^text + text V_k^vis                             Eq. 8
    latent injection      z_ref(u, v) <- z_ref(u, v) + latent w_k(u, v) V_k^vis           Eq. 9, in the reference frame
    attention cache       A_k = mean over the other layers of cos(V_k^text, z)            Eqs. 10, 11
                          z <- z + cache 1{A_k > cache_threshold} A_k V_k^vis             Eqs. 12, 13, in every frame

All act in the conditional branch only, whose text has the keywords.

Wan 2.1 projects anchors by its own image branch. In joint attention (CogVideoX) there is none: a trained projection
(methods.anchor_projection) makes tokens of them, which go through the weak block's `to_v` without its bias, so that a
projection of zero injects zero. The text features are the text tokens that enter the block's attention.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
import weakref
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.interception import replace_attribute
from .families import COGVIDEOX, WAN, Block
from .focal_anchors.keywords import Anchors, find_anchors, load_clip
from .focal_anchors.projection import TRAIN, AnchorProjection, encode_reference, load_projection


@dataclass
class Run:
    """What is known of the video that a pipeline is making."""

    prompt: str | None = None
    slots: int | None = None  # text tokens that the model is given
    patches: torch.Tensor | None = None  # (1 + h w, D), the image encoder's second-to-last hidden states
    image: torch.Tensor | None = None  # (1, 3, H, W) in [-1, 1], where the pipeline has no image encoder
    found: dict = field(default_factory=dict)  # FocalGuidance -> Anchors
    maps: dict = field(default_factory=dict)  # (FocalGuidance, step) -> {block position: (K, L) similarity}
    projections: dict[FocalGuidance, AnchorProjection] = field(default_factory=dict)
    entered: dict = field(default_factory=dict)  # (FocalGuidance, block position) -> tokens that entered the block


RUNS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # pipeline -> Run


@dataclass(frozen=True)
class FocalGuidance:
    """Focal Guidance for Wan 2.1 image-to-video, whose own image encoder and projections it uses, and for CogVideoX
    image-to-video with a trained projection.

    clip: folder or name of the whole CLIPModel that the pipeline's image encoder is the vision half of; CogVideoX has no
        image encoder, and this one's vision half is taken.
    weak: the semantic-weak blocks, as `blocks` of AlignVid; the paper lists 11 to 26 for Wan 2.1 14B.
    sign: of the cosine between words and patches (Eq. 6); -1 as the paper prints it, 1 for the plain similarity.
    select: a word is a keyword if its largest similarity exceeds this; in [-1, 1].
    region: a patch belongs to a keyword's region if its similarity, scaled to 0..1 over the patches, is at least this.
    text, latent, cache: strengths of the three parts, >= 0; 0 switches a part off.
    cache_threshold: in [-1, 1]. cache_from: "previous", the other layers of the step before (the first step has none), or
        "earlier", the other layers of this step that come before the weak one: layers after it cannot be known yet.
    projection: safetensors file of the projection of the anchors (methods.anchor_projection); for CogVideoX, None for Wan.
    """

    clip: str
    _: dataclasses.KW_ONLY
    weak: str | tuple[int | str, ...] = "wan2.1-i2v-14b-weak"
    sign: int = -1
    select: float = 0.0
    region: float = 0.5
    text: float = 0.5
    latent: float = 0.1
    cache: float = 0.1
    cache_threshold: float = 0.0
    cache_from: str = "previous"
    projection: str | None = field(default=None, repr=False)

    def __post_init__(self):
        for name in ("text", "latent", "cache"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"FocalGuidance {name} must be a finite number, 0 or more, not {value!r}")
        for name, low, high in (("select", -1, 1), ("cache_threshold", -1, 1), ("region", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"FocalGuidance {name} must be in [{low}, {high}], not {getattr(self, name)!r}")
        for name, values in (("sign", (-1, 1)), ("cache_from", ("previous", "earlier"))):
            if getattr(self, name) not in values:
                raise ValueError(f"FocalGuidance {name} must be one of {values}, not {getattr(self, name)!r}")
        if isinstance(self.weak, list):
            object.__setattr__(self, "weak", tuple(self.weak))

    def check(self, model) -> None:
        """Raise ValueError for a model that nothing projects the anchors of, a block that is not there, an unusable CLIP,
        or a projection that is missing, does not fit or is not needed."""
        joint = model.family == COGVIDEOX and model.image_to_video
        if not joint and not (model.family == WAN and "image" in model.sites):
            raise ValueError(
                "FocalGuidance needs something that projects its anchors: the image attention of Wan 2.1 image-to-video, "
                f"or a CogVideoX image-to-video model with a trained `projection`; not this {model.family}"
            )
        if joint and self.projection is None:
            raise ValueError(
                f"FocalGuidance needs a trained `projection` of its anchors for CogVideoX, which has no image branch; {TRAIN}"
            )
        if not joint and self.projection is not None:
            raise ValueError(
                f"FocalGuidance projection={self.projection!r}: Wan 2.1 projects the anchors itself; leave it out"
            )
        if not self._weak(model):
            raise ValueError(f"FocalGuidance weak={self.weak!r} names no block")
        load_clip(self.clip)
        if joint:
            load_projection(self.projection, model.transformer, self.clip)

    def watch(self, pipe):
        """Note the prompt and the image of every video that the pipeline makes. Raises ValueError without a pipeline."""
        if not (hasattr(pipe, "encode_prompt") and hasattr(pipe, _reads_image(pipe))):
            raise ValueError("FocalGuidance reads the prompt and the image: steer a pipeline")
        return watch_conditions(pipe)

    def _weak(self, model) -> frozenset[int]:
        return choose_blocks(model.blocks, self.weak, model.family)

    def anchors(self, pipe) -> Anchors:
        """Keywords and anchors of the video that is being made, or of the last one. Warns, once a video, if there are
        none: then nothing is changed."""
        run = RUNS[pipe]
        if self not in run.found:
            patches = run.patches
            if self.projection is not None and run.image is not None:
                patches = encode_reference(self.clip, run.image)
            if run.prompt is None or patches is None:
                raise ValueError("FocalGuidance: give prompt and image to the pipeline, not their embeddings")
            clip, clip_tokenizer = load_clip(self.clip)
            found = find_anchors(
                clip, clip_tokenizer, pipe.tokenizer, run.prompt, patches, sign=self.sign, select=self.select,
                region=self.region, slots=run.slots,
            )  # fmt: skip
            run.found[self] = found
            if not found.words:
                best = max(found.highest.items(), key=lambda item: item[1], default=("no word", float("nan")))
                warnings.warn(
                    f"FocalGuidance: no word of {run.prompt!r} has a similarity above {self.select} "
                    f"(the best is {best[0]}, {best[1]:.3f}); this video is not changed",
                    stacklevel=2,
                )
        return run.found[self]

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In the text or joint attention of weak blocks, for the binding; in the joint attention of responsive ones, where
        the cache reads text values."""
        if site not in ("text", "joint") or context.branch == "uncond":
            return False
        if block.index in self._weak(model):
            return self.text > 0
        return self.cache > 0 and site == "joint"

    def edit(self, call: AttentionCall) -> None:
        """Text-value binding (Eq. 8). In the joint attention of a responsive block, only read its text values (Eq. 10)."""
        found = self.anchors(call.context.pipe)
        if not found.words:
            return
        # Joint attention has its text first: a word is at the same place among its keys as in the text.
        samples, entered = call.conditional(), RUNS[call.context.pipe].entered.pop((self, call.block.index), None)
        if entered is not None:
            values = [call.value[samples, :, list(at)].mean(2).flatten(1) for at in found.tokens]
            self._remember(call.context, call.block, torch.stack(values, 1), entered)
            return
        visual = self._visual_values(call.context.pipe, call.block, found, call.value)
        heads = visual.unflatten(-1, (call.value.shape[1], -1))  # (K, H, D)
        value = call.value.clone()
        for k, at in enumerate(found.tokens):
            value[samples, :, list(at)] += self.text * heads[k][None, :, None]
        call.value = value

    def edit_block(self, model, context: ForwardContext, block: Block, grid, hidden, encoder_hidden_states):
        """The tokens (B, L, C) that enter a block: read in responsive blocks, changed in weak ones (Eqs. 9 to 13)."""
        if context.branch == "uncond" or not (self.latent or self.cache):
            return hidden
        found = self.anchors(context.pipe)
        if not found.words:
            return hidden
        samples = slice(len(hidden) // 2 if context.branch == "both" else 0, None)  # the conditional ones
        if block.index not in self._weak(model):
            if self.cache and self.projection is not None:  # compared in `edit`, which knows the text values
                RUNS[context.pipe].entered[self, block.index] = hidden[samples]
            elif self.cache:
                values = self._text_values(context.pipe.transformer, block, found, encoder_hidden_states)
                self._remember(context, block, values, hidden)
            return hidden
        visual, change = self._visual_values(context.pipe, block, found, hidden), torch.zeros_like(hidden)
        if self.latent:
            frame = grid[1] * grid[2]
            weights = F.interpolate(found.weights[None].float(), grid[1:], mode="area")[0].flatten(1).to(hidden)
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
            change[samples, :frame] += self.latent * (weights.T @ visual)
        cached = self._cached(context, block) if self.cache else None
        if cached is not None:
            change[samples] += self.cache * (cached.transpose(1, 2).to(hidden) @ visual)
        return hidden + change

    def _remember(self, context, block, values, hidden) -> None:
        """Keep the maps (Eq. 10) of a responsive block for the weak ones; those of older steps go."""
        maps = RUNS[context.pipe].maps
        maps.setdefault((self, context.step), {})[block.index] = keyword_maps(values, hidden)
        for old in [key for key in maps if key[0] == self and not context.step - 1 <= key[1] <= context.step]:
            del maps[old]

    def _cached(self, context, block) -> torch.Tensor | None:
        """Eqs. 11 and 12: (B, K, L) mean over the responsive blocks, cut at the threshold; None if none is known."""
        step = context.step - 1 if self.cache_from == "previous" else context.step
        maps = RUNS[context.pipe].maps.get((self, step), {})
        maps = [m for i, m in maps.items() if self.cache_from == "previous" or i < block.index]
        if not maps:
            return None
        mean = torch.stack(maps).mean(0)
        return torch.where(mean > self.cache_threshold, mean, 0.0)

    def _visual_values(self, pipe, block, found, like) -> torch.Tensor:
        """V_k^vis, (K, C): the anchors through the image embedder and the block's image value projection (Eq. 7), or
        through the trained projection and the block's value projection without its bias."""
        transformer, run = pipe.transformer, RUNS[pipe]
        if self.projection is not None:
            if self not in run.projections:
                run.projections[self] = load_projection(self.projection, transformer, self.clip).to(like.device)
            tokens = run.projections[self](found.anchors.to(like.device, torch.float32)).to(like.dtype)
            # Through the module and not by its weight, which may be offloaded or adapted; what it makes of zero is the bias.
            values = transformer.transformer_blocks[block.index].attn1.to_v(
                torch.cat([tokens, torch.zeros_like(tokens[:1])])
            )
            return values[:-1] - values[-1:]
        anchors = found.anchors.to(like)[None]
        embedded = transformer.condition_embedder.image_embedder(anchors).to(like.dtype)
        return transformer.blocks[block.index].attn2.add_v_proj(embedded)[0]

    @staticmethod
    def _text_values(transformer, block, found, encoder_hidden_states) -> torch.Tensor:
        """V_k^text, (B, K, C): the block's value projection of each keyword's text features, mean over its tokens."""
        text = encoder_hidden_states[:, encoder_hidden_states.shape[1] - 512 :]
        features = torch.stack([text[:, list(at)].mean(1) for at in found.tokens], 1)
        return transformer.blocks[block.index].attn2.to_v(features)


def keyword_maps(values: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Eq. 10: cosine of keyword values (B, K, C) and tokens (B, L, C), float32 (B, K, L)."""
    return F.normalize(values.float(), dim=-1) @ F.normalize(hidden.float(), dim=-1).transpose(1, 2)


def _reads_image(pipe) -> str:
    """The method of a pipeline that is given the reference image."""
    return "encode_image" if hasattr(pipe, "encode_image") else "prepare_latents"


def watch_conditions(pipe):
    """Wrap the methods of a pipeline that read prompt and image so that RUNS[pipe] holds what it was last given; an undo."""
    encode_prompt, name = pipe.encode_prompt, _reads_image(pipe)
    read_image = getattr(pipe, name)
    wan = name == "encode_image"

    def noting_prompt(prompt, *args, **kwargs):
        if noting_prompt.bypassed:
            return encode_prompt(prompt, *args, **kwargs)
        if isinstance(prompt, list):
            if len(prompt) != 1:
                raise ValueError(f"FocalGuidance makes one video at a time, not {len(prompt)}")
            prompt = prompt[0]
        from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean  # what Wan's pipeline tokenizes

        given = prompt_clean(prompt) if wan and prompt is not None else prompt
        RUNS[pipe] = Run(prompt=given)
        out = encode_prompt(prompt, *args, **kwargs)
        RUNS[pipe].slots = out[0].shape[1]
        return out

    @functools.wraps(read_image)  # low-pass guidance reads the signature
    def noting_image(*args, **kwargs):
        out = read_image(*args, **kwargs)
        if not noting_image.bypassed:
            run = RUNS.setdefault(pipe, Run())
            if wan:
                run.patches = out[0]
            elif run.image is None:  # the first: low-pass guidance encodes filtered images too
                run.image = kwargs["image"] if "image" in kwargs else args[0]
        return out

    undo = [replace_attribute(pipe, "encode_prompt", noting_prompt), replace_attribute(pipe, name, noting_image)]
    return lambda: [u() for u in undo]
