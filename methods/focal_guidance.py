"""Focal Guidance: tie keywords to their place in the reference image, and lend weak layers the attention of other layers
(arXiv 2601.07287, section 4). No code was released; the ledger lists what the paper leaves open.

In semantic-weak layers, for each keyword k with an anchor in the image (focal_anchors/keywords.py), let V_k^text and V_k^vis
be what the layer's value projections make of the keyword's text feature and of its anchor, and z the video tokens that enter
the layer:

    text-value binding    V_k^text <- V_k^text + text V_k^vis                             Eq. 8
    latent injection      z_ref(u, v) <- z_ref(u, v) + latent w_k(u, v) V_k^vis           Eq. 9, in the reference frame
    attention cache       A_k = mean over the other layers of cos(V_k^text, z)            Eqs. 10, 11
                          z <- z + cache 1{A_k > cache_threshold} A_k V_k^vis             Eqs. 12, 13, in every frame

Everything acts in the conditional branch only, the one whose text has the keywords.

The two values depend on the architecture: focal_anchors/image_branch.py for Wan 2.1, which has an image branch, and
focal_anchors/joint_attention.py for CogVideoX, which has none and needs a trained projection.
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
from .families import COGVIDEOX, WAN, Block, Model
from .focal_anchors.image_branch import ImageBranchValues
from .focal_anchors.joint_attention import JointAttentionValues
from .focal_anchors.keywords import Anchors, find_anchors, load_clip
from .focal_anchors.pipeline_run import current_run, image_reader, watch_conditions
from .focal_anchors.projection import TRAIN, encode_reference, load_projection


@dataclass(frozen=True)
class FocalGuidance:
    """Focal Guidance for Wan 2.1 image-to-video and, with a trained projection, for CogVideoX image-to-video.

    clip: folder or hub name of a whole CLIPModel. Its vision half must be the pipeline's image encoder (Wan), or encodes
        the reference image where the pipeline has none (CogVideoX).
    weak: the semantic-weak blocks, as `blocks` of AlignVid; the paper lists 11 to 26 for Wan 2.1 14B.
    sign: of the cosine between words and patches (Eq. 6); -1 as the paper prints it, 1 for the plain similarity.
    select: a word is a keyword if its largest similarity exceeds this; in [-1, 1].
    region: a patch belongs to a keyword's region if its similarity, scaled to 0..1 over the patches, is at least this.
    text, latent, cache: strengths of the three parts, >= 0; 0 switches a part off.
    cache_threshold: in [-1, 1]. cache_from: "previous", the other layers of the step before (the first step has none), or
        "earlier", the other layers of this step that come before the weak one: layers after it cannot be known yet.
    projection: safetensors file of the anchors' projection (focal_anchors/projection.py) for CogVideoX; None for Wan.
    """

    name: ClassVar[str] = "focal"
    label: ClassVar[str] = "Focal Guidance"

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
        """Raise ValueError for a model in which nothing can project the anchors, a block that does not exist, an unusable
        CLIP model, or a projection that is missing, does not fit or is not needed."""
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
            value[samples, :, list(positions)] += self.text * visual[k][None, :, None]
        call.value = value

    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Keep the similarity maps of a responsive block for the weak ones (Eq. 10); maps of older steps are dropped."""
        pipe, anchors = call.context.pipe, self.anchors(call.context.pipe)
        if not anchors.words or not self.cache or call.block.index in self.weak_blocks(call.model):
            return
        text = self.values(pipe, call.value.device).text_values(call, anchors)
        maps, step = current_run(pipe).similarity_maps, call.context.step
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
            weights = (
                F.interpolate(anchors.weights[None].float(), grid[1:], mode="area")[0].flatten(1).to(hidden_states)
            )
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
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
            patches = run.patches
            if self.projection is not None and run.image is not None:
                patches = encode_reference(self.clip, run.image)
            if run.prompt is None or patches is None:
                raise ValueError("FocalGuidance: give prompt and image to the pipeline, not their embeddings")
            clip, clip_tokenizer = load_clip(self.clip)
            found = find_anchors(
                clip, clip_tokenizer, pipe.tokenizer, run.prompt, patches, sign=self.sign, select=self.select,
                region=self.region, slots=run.text_slots,
            )  # fmt: skip
            run.anchors[self] = found
            if not found.words:
                best = max(found.highest.items(), key=lambda item: item[1], default=("no word", float("nan")))
                warnings.warn(
                    f"FocalGuidance: no word of {run.prompt!r} has a similarity above {self.select} "
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
