"""Focal Guidance: tie keywords to their place in the reference image, and lend weak layers the attention of other layers
(arXiv 2601.07287, section 4). No code was released; the ledger lists what the paper leaves open.

In semantic-weak layers, for each keyword k with an anchor in the image (focal_anchors/keywords.py), let V_k^text and V_k^vis
be what the layer's value projections make of the keyword's text feature and of its anchor, and z the video tokens that enter
the layer (section 3.2 finds the weak layers by what leaves them, analysis/attention/semantic_layers.py):

    text-value binding    V_k^text <- V_k^text + text V_k^vis                             Eq. 8
    latent injection      z_ref(u, v) <- z_ref(u, v) + latent w_k(u, v) V_k^vis           Eq. 9, in the reference frame
    attention cache       A_k = mean over the other layers of cos(V_k^text, z)            Eqs. 10, 11
                          z <- z + cache 1{A_k > cache_threshold} A_k V_k^vis             Eqs. 12, 13, in every frame

Everything acts in the conditional branch only, the one whose text has the keywords.

The two values depend on the architecture: focal_anchors/image_branch.py for Wan 2.1, which has an image branch, and
focal_anchors/joint_attention.py for CogVideoX and HunyuanVideo, which have none and need a trained projection.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .families import CHRONOEDIT, COGVIDEOX, HUNYUAN, SKYREELS_V2, WAN, Block, Model
from .focal_anchors.image_branch import ImageBranchValues
from .focal_anchors.joint_attention import JointAttentionValues, text_places
from .focal_anchors.keywords import Anchors, find_anchors, load_clip
from .focal_anchors.pipeline_run import current_run, image_reader, watch_conditions
from .focal_anchors.placement import place
from .focal_anchors.projection import TRAIN, encode_reference, load_projection

CHOICES = {
    "sign": (-1, 1),
    "readout": ("tokens", "phrase"),
    "keywords": ("similarity", "prominence"),
    "injection": ("peak", "sum"),
    "cache_map": ("cosine", "attention"),
    "cache_from": ("previous", "earlier"),
}


@dataclass(frozen=True)
class FocalGuidance:
    """Focal Guidance for Wan 2.1 image-to-video and, with a trained projection, for CogVideoX and HunyuanVideo image-to-video.

    clip: folder or hub name of a whole CLIPModel. Its vision half must be the pipeline's image encoder (Wan), or encodes
        the reference image where the pipeline has none (CogVideoX, HunyuanVideo).
    weak: the semantic-weak blocks, as `blocks` of AlignVid; the paper lists 11 to 26 for Wan 2.1 14B, and the
        single-stream blocks 17 to 32 for HunyuanVideo ("hunyuanvideo-i2v-13b-weak").
    sign: of the cosine between words and patches (Eq. 6); -1 as the paper prints it, 1 for the plain similarity.
    readout: where that cosine is taken. "tokens", as Eq. 6 says: each word's token of the prompt, and the patches of the
        second-to-last layer. CLIP never trained the first to name anything: only a text's end token. "phrase": the end
        token of the word with the one before it ("yellow square"), and the patches through the values of the last layer,
        as MaskCLIP reads places out of a CLIP; it is meant for sign 1.
    select: a word is a keyword if its score exceeds this; in [-1, 1]. keywords: what the score is. "similarity", its largest
        (section 4.1), which says more about the word's place in the prompt than about what it names; or "prominence", how
        far its similarity, less the empty prompt's, rises above its own mean over the patches.
    region: a patch belongs to a keyword's region if its similarity, scaled to 0..1 over the patches, is at least this.
    text, latent, cache: strengths of the three parts, >= 0; 0 switches a part off.
    injection: the scale of w_k in Eq. 9, a "normalized similarity weight". "peak": at most 1 for each keyword, whatever the
        number of tokens. "sum": they sum to 1, so that the injection gets weaker with every token that the frame has.
    cache_map: A_k. "cosine", Eq. 10; or "attention", the weights of the layer's own attention to the keyword among the
        words, mean over heads: values and tokens lie in spaces that no training aligned, queries and keys do not.
    cache_threshold: in [-1, 1]. cache_from: "previous", the other layers of the step before (the first step has none), or
        "earlier", the other layers of this step that come before the weak one: layers after it cannot be known yet.
    projection: safetensors file of the anchors' projection (focal_anchors/projection.py) where attention is joint; None for Wan.
    """

    name: ClassVar[str] = "focal"
    label: ClassVar[str] = "Focal Guidance"
    once: ClassVar[bool] = True  # what a block's tokens were is kept under the method's settings

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
    readout: str = "tokens"
    keywords: str = "similarity"
    injection: str = "peak"
    cache_map: str = "cosine"
    projection: str | None = field(default=None, repr=False)

    def __post_init__(self):
        lists_to_tuples(self)
        for name in ("text", "latent", "cache"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"FocalGuidance {name} must be a finite number, 0 or more, not {value!r}")
        for name, low, high in (("select", -1, 1), ("cache_threshold", -1, 1), ("region", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"FocalGuidance {name} must be in [{low}, {high}], not {getattr(self, name)!r}")
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"FocalGuidance {name} must be one of {values}, not {getattr(self, name)!r}")

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.text == self.latent == self.cache == 0

    def check(self, model) -> None:
        """Raise ValueError for a model in which nothing can project the anchors, a block that does not exist, an unusable
        CLIP model, or a projection that is missing, does not fit or is not needed."""
        joint = model.image_to_video and (
            model.family == COGVIDEOX or (model.family == HUNYUAN and "image" in model.groups)
        )
        if not joint and not (model.family in (WAN, SKYREELS_V2, CHRONOEDIT) and "image" in model.sites):
            raise ValueError(
                "FocalGuidance needs something that projects its anchors: the image attention of Wan 2.1 image-to-video, "
                "SkyReels-V2 or ChronoEdit, or a CogVideoX or HunyuanVideo image-to-video model with a trained `projection`; "
                f"not this {model.family}"
            )
        if joint and self.projection is None:
            raise ValueError(
                f"FocalGuidance needs a trained `projection` of its anchors for {model.family}, which has no image branch; {TRAIN}"
            )
        if not joint and self.projection is not None:
            raise ValueError(
                f"FocalGuidance projection={self.projection!r}: Wan 2.1 projects the anchors itself; leave it out"
            )
        if not self.weak_blocks(model):
            raise ValueError(f"FocalGuidance weak={self.weak!r} names no block")
        load_clip(self.clip)
        if joint:
            load_projection(self.projection, model.transformer, self.clip)

    def watch(self, pipe):
        """Note prompt and image of every video that the pipeline makes. Raises ValueError without a pipeline."""
        if not (hasattr(pipe, "encode_prompt") and hasattr(pipe, image_reader(pipe))):
            raise ValueError("FocalGuidance reads the prompt and the image: steer a pipeline")
        return watch_conditions(pipe)

    def weak_blocks(self, model: Model) -> frozenset[int]:
        """Positions of the semantic-weak blocks; the others are called responsive."""
        return choose_blocks(model, self.weak)

    def active(self, model: Model, context: ForwardContext, block: Block, site: str) -> bool:
        """In the text or joint attention: of weak blocks for the binding, of responsive ones to fill the cache."""
        if site not in ("text", "joint") or context.branch == "uncond":
            return False
        return self.text > 0 if block.index in self.weak_blocks(model) else self.cache > 0

    def edit(self, call: AttentionCall) -> None:
        """Text-value binding in weak blocks (Eq. 8)."""
        pipe, anchors = call.context.pipe, self.anchors(call.context.pipe)
        if not anchors.words or call.block.index not in self.weak_blocks(call.model):
            return
        visual = self.values(pipe, call.value.device).visual_values(call.block, anchors, call.value)
        visual = visual.unflatten(-1, (call.value.shape[1], -1))  # (K, H, D)
        value, samples = call.value.clone(), call.conditional()
        for k, positions in enumerate(anchors.tokens):
            value[samples, :, text_places(call, positions)] += self.text * visual[k][None, :, None]
        call.value = value

    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Keep the similarity maps of a responsive block for the weak ones (Eq. 10); maps of older steps are dropped."""
        pipe, anchors = call.context.pipe, self.anchors(call.context.pipe)
        if not anchors.words or not self.cache or call.block.index in self.weak_blocks(call.model):
            return
        maps, step = current_run(pipe).similarity_maps, call.context.step
        if self.cache_map == "attention":
            found = attention_maps(call, anchors.tokens)
        else:
            text = self.values(pipe, call.value.device).text_values(call, anchors)
            found = keyword_maps(text, call.block_input.hidden_states[call.conditional()])
        maps.setdefault((self, step), {})[call.block.index] = found
        for key in [key for key in maps if key[0] == self and not step - 1 <= key[1] <= step]:
            del maps[key]

    def edit_block(
        self, model: Model, context: ForwardContext, block: Block, grid, hidden_states, encoder_hidden_states
    ) -> torch.Tensor:
        """Latent injection and attention cache: the video tokens (B, L, C) that enter a weak block (Eqs. 9 to 13)."""
        weak = block.index in self.weak_blocks(model)
        if context.branch == "uncond" or not weak or not (self.latent or self.cache):
            return hidden_states
        anchors = self.anchors(context.pipe)
        if not anchors.words:
            return hidden_states
        samples, change = context.conditional(len(hidden_states)), torch.zeros_like(hidden_states)
        visual = self.values(context.pipe, hidden_states.device).visual_values(block, anchors, hidden_states)
        if self.latent:
            frame = grid[1] * grid[2]
            weights = place(anchors.weights.float(), grid[1], grid[2], anchors.seen).flatten(1).to(hidden_states)
            total = weights.amax(1, keepdim=True) if self.injection == "peak" else weights.sum(1, keepdim=True)
            weights = weights / total.clamp(min=1e-12)
            change[samples, :frame] += self.latent * (weights.T @ visual)
        cached = self._cached(context, block) if self.cache else None
        if cached is not None:
            change[samples] += self.cache * (cached.transpose(1, 2).to(hidden_states) @ visual)
        return hidden_states + change

    def _cached(self, context: ForwardContext, block: Block) -> torch.Tensor | None:
        """Eqs. 11 and 12: (B, K, L) mean over the responsive blocks, zero below the threshold; None if nothing is cached."""
        step = context.step - 1 if self.cache_from == "previous" else context.step
        maps = current_run(context.pipe).similarity_maps.get((self, step), {})
        maps = [m for i, m in maps.items() if self.cache_from == "previous" or i < block.index]
        if not maps:
            return None
        mean = torch.stack(maps).mean(0)
        return torch.where(mean > self.cache_threshold, mean, 0.0)

    def anchors(self, pipe) -> Anchors:
        """Keywords and anchors of the current or last video. Warns once per video without any, which stays unchanged.

        Raises ValueError if the pipeline was given embeddings instead of a prompt and an image.
        """
        run = current_run(pipe)
        if self not in run.anchors:
            patches, seen = run.patches, run.seen
            if self.projection is not None and run.image is not None:
                patches, seen = encode_reference(self.clip, run.image), (1.0, 1.0)
            if run.prompt is None or patches is None:
                raise ValueError("FocalGuidance: give prompt and image to the pipeline, not their embeddings")
            clip, clip_tokenizer = load_clip(self.clip)
            found = find_anchors(
                clip, clip_tokenizer, run.prompt, run.tokens, patches, sign=self.sign, select=self.select,
                region=self.region, readout=self.readout, keywords=self.keywords, seen=seen,
            )  # fmt: skip
            run.anchors[self] = found
            if not found.words:
                best = max(found.highest.items(), key=lambda item: item[1], default=("no word", float("nan")))
                warnings.warn(
                    f"FocalGuidance: no word of {run.prompt!r} has a {self.keywords} above {self.select} "
                    f"(the best is {best[0]}, {best[1]:.3f}); this video is not changed",
                    stacklevel=2,
                )
        return run.anchors[self]

    def values(self, pipe, device: torch.device) -> ImageBranchValues | JointAttentionValues:
        """What makes V_k^vis and V_k^text in this pipeline's transformer; a projection is loaded once per video."""
        run = current_run(pipe)
        if self not in run.values:
            if self.projection is None:
                run.values[self] = ImageBranchValues(pipe.transformer)
            else:
                projection = load_projection(self.projection, pipe.transformer, self.clip).to(device)
                run.values[self] = JointAttentionValues(pipe.transformer, projection)
        return run.values[self]


def keyword_maps(values: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Eq. 10: cosine similarity of keyword values (B, K, C) and tokens (B, L, C), float32 (B, K, L)."""
    return F.normalize(values.float(), dim=-1) @ F.normalize(hidden_states.float(), dim=-1).transpose(1, 2)


def attention_maps(call: AttentionCall, keywords: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """(B, K, L) float32: the attention of the conditional video tokens to each keyword's tokens, among the words alone and
    mean over heads, as the methods left the call. keywords: positions of each one's tokens in the text."""
    query, key, scale = call.scaled(slice(call.queries.video.start, call.queries.video.stop), call.video_logits)
    query, key = query[call.conditional()].float(), key[call.conditional()].float()
    words = call.keys.where("text")[-1].nonzero().flatten()
    places = [torch.tensor(text_places(call, at), device=words.device) for at in keywords]
    member = torch.stack([torch.isin(words, at) for at in places], 1).float()
    total = 0.0
    for head in range(query.shape[1]):  # one head at a time bounds the memory: tokens times words
        total = total + (scale * query[:, head] @ key[:, head][:, words].mT).softmax(-1) @ member
    return total.transpose(1, 2) / query.shape[1]
