"""What the guidances share that push a prediction away from one of the same model with a part of it perturbed.

Pipelines make g = u + w (c - u) of an unconditional prediction u and a conditional one c, or take c alone. Here one more
conditional pass with the perturbation gives p, and the result becomes g + scale (c - p), as in diffusers' guiders. The
same tensor is added to u and to c, so that the pipeline's formula gives the sum whatever w is and wherever it is applied:
in two passes, in one batch, or without guidance. (Without guidance diffusers' guiders begin at p: their scale is ours + 1.)
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch

from .core.block_lists import choose_blocks
from .core.forward_context import ForwardContext, guided
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import Block

# What watches a transformer -> {method: (step, what was added, the conditional prediction before that, the model's own)}
_added: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class PerturbedGuidance:
    """The part that is common; a subclass says what is perturbed, in hooks that act where `own_pass(context)`.

    scale: s, a finite number; 0 changes nothing, and no pass is run.
    blocks: which are perturbed, as in AlignVid. There is no default: none is published that holds for several models.
    window: in which steps; see core/step_windows.py.
    rescale: r in [0, 1], the result is multiplied by r std(c) / std(result) + 1 - r, sample by sample, as in diffusers'
        guiders; STG's released code has 0.7. It needs the guidance scale. A guidance_rescale of the pipeline's own compares
        with c + scale (c - p).
    Methods with `joins_extra_passes`, such as AlignVid and DyMoS, act in the perturbed pass as in the conditional one, so
    that the difference is the perturbation alone. Recorders do not see it. List it after methods that combine predictions
    themselves, such as low-pass guidance.
    """

    once: ClassVar[bool] = True

    scale: float
    _: dataclasses.KW_ONLY
    blocks: str | tuple[int | str, ...]
    window: Window = "all"
    rescale: float = 0.0

    def __post_init__(self):
        lists_to_tuples(self)
        kind = type(self).__name__
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale)):
            raise ValueError(f"{kind} scale must be a finite number, not {self.scale!r}")
        if not (isinstance(self.rescale, (int, float)) and 0 <= self.rescale <= 1):
            raise ValueError(f"{kind} rescale must be in [0, 1], not {self.rescale!r}")
        check_window(self.window)
        if not self.blocks:
            raise ValueError(f"{kind} blocks names no block")

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.scale == 0

    def check(self, model) -> None:
        """Raise ValueError for a block that does not exist."""
        choose_blocks(model, self.blocks)

    def watch(self, pipe):
        """Raise ValueError for a pipeline that combines predictions by another formula than u + w (c - u)."""
        guider = getattr(pipe, "guider", None)
        if guider is not None and type(guider).__name__ != "ClassifierFreeGuidance":
            raise ValueError(
                f"{self.label} adds to the predictions of classifier-free guidance, but this pipeline's guider is "
                f"{type(guider).__name__}: set pipe.guider = ClassifierFreeGuidance(guidance_scale=...)"
            )
        return lambda: None

    def own_pass(self, context: ForwardContext) -> bool:
        """Whether this is the perturbed pass."""
        return context.extra == self.name

    def perturbs(self, model, context: ForwardContext, block: Block) -> bool:
        """Whether this is the perturbed pass and the block is one of `blocks`."""
        return self.own_pass(context) and block.index in choose_blocks(model, self.blocks)

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """In the latent tokens' attention to each other, in the perturbed pass."""
        return site in ("self", "joint") and self.perturbs(model, context, block)

    def edit_output(self, model, inputs: dict, context: ForwardContext, output, run):
        """Run the perturbed pass after the conditional one, and add scale (c - p) to both predictions."""
        if self.neutral or context.extra is not None or not in_window(self.window, context):
            return output
        controller, sample = run.controller, output if torch.is_tensor(output) else output[0]
        if context.branch == "uncond":
            return _with_sample(output, self._uncond(controller, context, sample))
        self._refuse_later(controller)
        given, own = controller.model_inputs, controller.prediction  # with what other methods did to the inputs
        if context.branch == "both":
            half = sample.shape[0] // 2
            given, own = _conditional_half(given), own[half:]
        own = _exact(own)
        added = self.scale * (own - _exact(run(given, "cond", self.name)))
        if context.branch == "both":
            cond, uncond = _exact(sample[half:]), _exact(sample[:half])
            if self.rescale:
                result = self._rescaled(uncond + self._scale(context) * (cond - uncond) + added, own)
                return _with_sample(output, torch.cat([result, result]).to(sample.dtype))
            return _with_sample(output, torch.cat([uncond + added, cond + added]).to(sample.dtype))
        cond = _exact(sample)
        _added.setdefault(controller, {})[self] = context.step, added, cond, own
        cond = cond + added
        if self.rescale and not self._two_passes(context):
            cond = self._rescaled(cond, own)
        return _with_sample(output, cond.to(sample.dtype))

    def _uncond(self, controller, context, sample):
        step, added, cond, own = _added.get(controller, {}).pop(self, (None, None, None, None))
        if step != context.step:
            raise ValueError(
                f"{self.label}: step {context.step} ran the unconditional pass before the conditional one, of which it is "
                'part; if the calls of the loop come in that order, name them with transformer.cache_context("cond")'
            )
        uncond = _exact(sample)
        if not self.rescale:
            return (uncond + added).to(sample.dtype)
        w = self._scale(context)
        if w == 1:
            raise ValueError(f"{self.label} cannot rescale a guidance of scale 1, which ignores the unconditional pass")
        result = self._rescaled(uncond + w * (cond - uncond) + added, own)
        # The pipeline will compute u + w (c - u) with c = cond + added: solved for the u that makes it `result`.
        return ((result - w * (cond + added)) / (1 - w)).to(sample.dtype)

    def _rescaled(self, result, own):
        axes = tuple(range(1, own.ndim))
        return result * (self.rescale * own.std(axes, keepdim=True) / result.std(axes, keepdim=True) + 1 - self.rescale)

    def _two_passes(self, context) -> bool:
        """Whether an unconditional pass follows a conditional one. Raises ValueError where the pipeline does not tell."""
        guider = getattr(context.pipe, "guider", None)
        if guider is not None:
            return guider.num_conditions > 1
        self._scale(context)
        return guided(context.pipe)

    def _scale(self, context) -> float:
        """w of u + w (c - u)."""
        guider = getattr(context.pipe, "guider", None)
        if getattr(context.pipe if guider is None else guider, "guidance_rescale", 0):
            raise ValueError(f"{self.label} rescale={self.rescale}: the pipeline's own guidance_rescale is on as well")
        if guider is not None:
            return guider.guidance_scale + (1 if guider.use_original_formulation else 0)
        if context.guidance is None:
            raise ValueError(
                f"{self.label} rescale={self.rescale} needs the scale of classifier-free guidance, which this pipeline does "
                "not tell (HunyuanVideo's and FramePack's guidance_scale is an input of the model): use rescale=0"
            )
        return context.guidance

    def _refuse_later(self, controller) -> None:
        methods = [a.method for a in controller.attached]
        later = [m for m in methods[methods.index(self) + 1 :] if hasattr(m, "edit_output")]
        later = [m for m in later if not isinstance(m, PerturbedGuidance)]
        if later:
            name = getattr(later[0], "label", type(later[0]).__name__)
            raise ValueError(
                f"{name} changes predictions and is listed after {self.label}, whose difference it would take for the "
                f"model's own prediction: list {self.label} last"
            )


def _conditional_half(inputs: dict) -> dict:
    """The inputs of the conditional samples of a batch [uncond, cond]."""
    batch = inputs["hidden_states"].shape[0]
    return {
        k: v[batch // 2 :] if torch.is_tensor(v) and v.ndim and v.shape[0] == batch else v for k, v in inputs.items()
    }


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _with_sample(output, sample: torch.Tensor):
    """A transformer's output, tensor, tuple or dataclass, with another prediction; what else is in it, as audio, stays."""
    if torch.is_tensor(output):
        return sample
    return (sample, *output[1:]) if isinstance(output, tuple) else type(output)(**(dict(output) | {"sample": sample}))
