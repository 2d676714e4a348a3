"""AlignVid: scale the attention logits of chosen token groups, in some blocks, for some steps (arXiv 2512.01334).

Scaling queries or keys by gamma multiplies their logits by gamma (Lemma 4.1, Eq. 5): a softmax at temperature 1 / gamma.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.attention_call import AttentionCall
from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import Block

DEFAULT_SITES = ("q_image", "k_text")
SITES = ("q_image", "k_image", "q_text", "k_text", "self")
# Key groups of joint attention. S_cond of section 4.2 is "conditioning": text and image tokens, while video keys stay as
# they are. The frame that holds the reference is video, so a model without image tokens has the text alone in it.
TEXT, IMAGE, REFERENCE = ("text", "text_padding"), ("image",), ("reference",)
KEYS = {
    "conditioning": TEXT + IMAGE,
    "text": TEXT,
    "image": IMAGE,
    "reference": REFERENCE,
    "conditioning+reference": TEXT + IMAGE + REFERENCE,
    "all": (*TEXT, *IMAGE, *REFERENCE, "video", "history"),
}
ENERGIES = (None, "centred", "absolute")


@dataclass(frozen=True)
class AlignVid:
    """Attention Scaling Modulation with Guidance Scheduling (sections 5.1, 5.2; appendix F.3).

    gamma: factor on the logits, > 0; 1 changes nothing, the paper uses 1.35.
    target: "k" scales the keys of `groups` (Eq. 9), "q" the queries, so all of their logits; joint attention only.
    groups: keys scaled in joint attention. "conditioning": text and image tokens, the paper's S_cond (section 4.2); in
        CogVideoX, which has no image tokens, that is the text. "text", "image": one of the two. "all": the whole key matrix,
        as Algorithm 1 writes it. Beyond the paper, which keeps video keys unscaled: "reference", the keys of the reference
        frame, and "conditioning+reference".
    sites: what is scaled in Wan: q_image, k_image, q_text, k_text (the branches of cross-attention) and self (all keys of
        self-attention). Query and key of the same branch together scale its logits by gamma squared.
    queries: "video" keeps the logits of text and image queries, "all" scales them too; joint attention only.
    blocks: "first_half", "all", "calibrated", a published list's name, or a list (see core/block_lists.py).
    window: in which steps, see core/step_windows.py: "early", "middle", "late" (30 % of the steps each), "all", the same with
        "-by-time", or others.
    variant: "paper", or "released" as the authors' code does it: named windows are by time; the scaled
        query of the image branch is used by the text branch again; `self` ignores `blocks`; joint attention scales all
        keys for all queries, in single-stream blocks only.
    energy: None, or scale by f(m) per sample and head, m the mean logit over the queries and all keys that the mask lets
        through (Eq. 10). The paper says only that f is monotone, "e.g. sigmoid-normalized rescaling", and stronger where
        logits are diffuse. "centred": gamma ** (2 sigmoid(mean of m over the heads - m)), which is gamma at the logit that
        is typical of the block and between 1 and gamma squared elsewhere, so on the whole as strong as gamma. "absolute":
        gamma ** (2 sigmoid(-m)), which is gamma at m = 0 and weaker than gamma in most calls, as mean logits are mostly
        above 0.
    Both guidance branches are scaled, as in the released code.
    """

    name: ClassVar[str] = "alignvid"
    label: ClassVar[str] = "AlignVid"
    joins_extra_passes: ClassVar[bool] = True

    gamma: float
    _: dataclasses.KW_ONLY
    target: str = "k"
    groups: str = "conditioning"
    sites: tuple[str, ...] = DEFAULT_SITES
    blocks: str | tuple[int | str, ...] = "first_half"
    window: Window = "early"
    variant: str = "paper"
    energy: str | None = None
    queries: str = "video"

    def __post_init__(self):
        lists_to_tuples(self)
        if not (isinstance(self.gamma, (int, float)) and math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"AlignVid gamma must be a finite number above 0, not {self.gamma}")
        allowed = {
            "target": ("q", "k"),
            "groups": tuple(KEYS),
            "variant": ("paper", "released"),
            "queries": ("video", "all"),
            "energy": ENERGIES,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"AlignVid {name} must be one of {', '.join(map(str, values))}, not {getattr(self, name)!r}"
                )
        unknown = [s for s in self.sites if s not in SITES]
        if isinstance(self.sites, str) or unknown or not self.sites:
            raise ValueError(f"AlignVid sites must be among {', '.join(SITES)}, not {self.sites!r}")
        check_window(self.window)

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.gamma == 1

    def check(self, model) -> None:
        """Raise ValueError for a block, site or key group that the model does not have."""
        choose_blocks(model, self.blocks)
        if "joint" not in model.sites:
            # The default pair serves text-to-video too, where there is no image branch.
            if "image" not in model.sites and self.sites != DEFAULT_SITES and any("image" in s for s in self.sites):
                raise ValueError(f"AlignVid sites {self.sites}: this {model.family} has no image attention")
        elif self.variant == "paper" and self.groups in ("image", "reference", "conditioning+reference"):
            needed = self.groups.removeprefix("conditioning+")
            if needed not in model.groups:
                raise ValueError(
                    f"this {model.family} has no {needed!r} keys; it has {', '.join(sorted(model.groups))}"
                )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Whether any logit of this attention changes in this forward."""
        if self.gamma == 1 or not in_window(self.window, context, by_time=self.variant == "released"):
            return False
        if self.variant == "released" and block.name.startswith("double."):
            return False
        gated = not (self.variant == "released" and site == "self")
        if gated and block.index not in choose_blocks(model, self.blocks):
            return False
        return site == "joint" or self._power(site) > 0

    def _power(self, site: str) -> int:
        """The power of gamma by which the logits of a Wan site are scaled."""
        power = sum(s == site or s.endswith("_" + site) for s in self.sites)
        if self.variant == "released" and site == "text" and "q_image" in self.sites:
            power += 1  # the query that the image branch scaled is the text branch's query
        return power

    def edit(self, call: AttentionCall) -> None:
        """Scale the logits of the call."""
        if call.site != "joint":
            factor = self._factor(call, slice(None)) if self.energy else self.gamma
            call.video_logits.multiply(factor ** self._power(call.site))
            return
        if self.variant == "released":
            groups, queries = "all", "all"
        else:
            groups, queries = "all" if self.target == "q" else self.groups, self.queries
        chosen = None if groups == "all" else call.keys.where(*KEYS[groups])
        factor = self.gamma
        if self.energy:
            factor = self._factor(call, call.queries.video if queries == "video" else slice(None))
        if chosen is not None:
            factor = torch.where(chosen[:, None, :, None], factor, 1.0)
        call.video_logits.multiply(factor)
        if queries == "all":
            call.other_logits.multiply(factor)

    def _factor(self, call, rows) -> torch.Tensor:
        """Eq. 10 per sample and head, (B, H, 1, 1): the mean logit is mean(q) . mean(k), never an L x L tensor."""
        query, key = call.query[:, :, rows].float().mean(2), call.key.float()
        if call.mask is None:
            key = key.mean(2)
        else:
            weights = keys_seen(call)[:, None, :, None].to(key.dtype)
            key = (key * weights).sum(2) / weights.sum(2).clamp(min=1)
        mean = call.scale * (query * key).sum(-1)
        if self.energy == "centred":
            mean = mean - mean.mean(1, keepdim=True)
        return (self.gamma ** (2 * torch.sigmoid(-mean)))[..., None, None]


def keys_seen(call: AttentionCall) -> torch.Tensor:
    """(1 or B, Lk) bool: the keys that the call's mask lets some query see. LTX's mask adds -10000, which leaves no weight."""
    seen = call.mask if call.mask.dtype == torch.bool else call.mask > -1000
    return seen.any(-2).any(1).expand(-1, call.key.shape[2])
