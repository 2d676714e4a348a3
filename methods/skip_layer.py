"""Skip-layer guidance (SLG) and spatiotemporal skip guidance (STG): away from a prediction with blocks or attention left out.

SLG is Stability AI's, for Stable Diffusion 3.5; STG is arXiv 2411.18664. Its "residual" variant leaves out a block as SLG
does, its "attention" variant only the attention.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import COGVIDEOX, Block
from .perturbed_guidance import PerturbedGuidance

# STG's released code (github junhahyung/STGuidance at df04da0), and SLG's defaults in diffusers.
PUBLISHED = {
    "stg-cogvideox-5b": {"scale": 1.0, "blocks": (11,)},
    "stg-hunyuanvideo": {"scale": 1.0, "blocks": (2,)},
    "stg-ltx-video": {"scale": 1.0, "blocks": (19,)},
    "slg-sd3.5-medium": {"scale": 2.8, "blocks": (7, 8, 9), "window": (0.01, 0.20)},
}


@dataclass(frozen=True)
class SkipLayerGuidance(PerturbedGuidance):
    """In the perturbed pass `blocks` are left out (SLG, STG-R), or their attention is (STG-A).

    scale, blocks, window, rescale: see PerturbedGuidance.
    skip: "block", tokens leave the block as they came; "attention", each latent token's attention output is its own value.
        In self-attention the latter is perturbed-attention guidance. In joint attention the text is not seen either. STG's
        released code for Mochi writes an identity matrix into the logits instead, whose softmax is nearly uniform.
    STG's released code for Wan (scale 2, block 2) combines otherwise, g + s (g - p) with the negative prompt in the
    perturbed pass, and is not this method.
    """

    name: ClassVar[str] = "skiplayer"
    label: ClassVar[str] = "Skip-layer guidance"

    skip: str = "block"

    def __post_init__(self):
        super().__post_init__()
        if self.skip not in ("block", "attention"):
            raise ValueError(f"SkipLayerGuidance skip must be block or attention, not {self.skip!r}")

    @classmethod
    def published(cls, name: str) -> SkipLayerGuidance:
        """A setting of released code. Raises ValueError for a name that is not in PUBLISHED."""
        if name not in PUBLISHED:
            raise ValueError(f"skip-layer guidance has no setting {name!r}: it has {', '.join(PUBLISHED)}")
        return cls(**PUBLISHED[name])

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In the latent tokens' attention to each other, where that is left out."""
        return self.skip == "attention" and super().active(model, context, block, site)

    def skip_block(self, model, context: ForwardContext, block: Block) -> bool:
        """Whether the block is left out of this pass."""
        return self.skip == "block" and self.perturbs(model, context, block)

    def edit_attention_output(self, call: AttentionCall, out: torch.Tensor) -> torch.Tensor:
        """The output (B, H, Lq, D) with each latent token's own value in its place."""
        video = call.queries.video
        return torch.cat([out[:, :, : video.start], call.value[:, :, video], out[:, :, video.stop :]], dim=2)


@dataclass(frozen=True)
class SkipUnconditional:
    """Leave blocks out of the unconditional pass, which costs nothing: what Wan2GP and ComfyUI's Wan nodes call SLG.

    blocks: as in AlignVid; block 9 there, "most are detrimental aside from 8 or 9" (github deepbeepmeep/Wan2GP, pull 61).
    window: in which steps; from 10 % to 90 % there.
    Guidance does the rest: u + w (c - u) points away from a worse u. Needs an unconditional pass of its own, which
    CogVideoX does not have.
    """

    name: ClassVar[str] = "skipuncond"
    label: ClassVar[str] = "Blocks left out of the unconditional pass"

    _: dataclasses.KW_ONLY
    blocks: str | tuple[int | str, ...] = (9,)
    window: Window = (0.1, 0.9)

    def __post_init__(self):
        lists_to_tuples(self)
        check_window(self.window)

    def check(self, model) -> None:
        """Raise ValueError for a block that does not exist, or for guidance in one batch."""
        choose_blocks(model, self.blocks)
        if model.family == COGVIDEOX:
            raise ValueError(
                f"{self.label}: CogVideoX runs both branches in one batch, which a block cannot leave in half"
            )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def skip_block(self, model, context: ForwardContext, block: Block) -> bool:
        """Whether the block is left out of this pass. Raises ValueError for guidance in one batch."""
        if context.branch == "both":
            raise ValueError(f"{self.label}: this pipeline runs both branches in one batch")
        if context.branch != "uncond" or context.extra is not None or not in_window(self.window, context):
            return False
        return block.index in choose_blocks(model, self.blocks)
