"""What methods share that change how the predictions of classifier-free guidance are combined.

Every pipeline here computes u + w (c - u) by itself, from two forward passes or from one batch. A method that wants another
combination of c and u returns another u: with c - d in its place the pipeline makes c + (w - 1) d, with s u it makes
s u + w (c - s u). The scale w need not be known, and both hold wherever a pipeline guides at all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

from .core.controller import controllers
from .core.forward_context import ForwardContext, guided
from .families import COGVIDEOX, HUNYUAN, WAN

# Families whose formula of guidance is not that of two predictions of one shape, in the layout (B, C, F, H, W) or CogVideoX's.
OTHER_FORMULAS = {
    "LTXVideoTransformer3DModel": "its predictions are packed and hold the clean reference",
    "LTX2VideoTransformer3DModel": "its pipelines combine up to four predictions of picture and sound",
    "Kandinsky5Transformer3DModel": "its predictions hold the clean reference, with the channels last",
    "CosmosTransformer3DModel": "its pipelines guide what they have made of two predictions, by another formula",
    "ChronoEditTransformer3DModel": "its video is cut to two frames in the middle of the sampling",
}

# Pipeline (or transformer) -> (step, conditional prediction) between the two passes of sequential guidance.
_waiting: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def check_guidance(method, model) -> None:
    """Raise ValueError for a model whose guidance is distilled into its weights, as FramePack's is, or has another formula."""
    if model.family in OTHER_FORMULAS:
        raise ValueError(f"{method.label} cannot guide a {model.family}: {OTHER_FORMULAS[model.family]}")
    if getattr(model.transformer.config, "guidance_embeds", False):
        raise ValueError(
            f"{method.label} combines a conditional and an unconditional prediction; the guidance of this {model.family} "
            "is distilled (guidance_embeds): its one prediction is guided already"
        )


def check_pipeline(method, pipe, prediction_types: tuple[str, ...]) -> None:
    """Raise ValueError for a pipeline whose scheduler takes another kind of prediction, or whose guider is not plain
    classifier-free guidance. pipe None, a bare transformer, passes."""
    config = getattr(getattr(pipe, "scheduler", None), "config", {})
    kind = config.get("prediction_type", "flow_prediction")  # flow-matching schedulers know no other
    if kind not in prediction_types:
        raise ValueError(f"{method.label} takes predictions of type {', '.join(prediction_types)}, not {kind}")
    guider = getattr(pipe, "guider", None)
    if guider is not None and type(guider).__name__ != "ClassifierFreeGuidance":
        raise ValueError(
            f"{method.label} replaces the formula of classifier-free guidance, but this pipeline's guider is "
            f"{type(guider).__name__}: set pipe.guider = ClassifierFreeGuidance(guidance_scale=...)"
        )


def forget(pipe) -> None:
    """Drop a prediction that an interrupted run left behind."""
    if pipe is not None:
        _waiting.pop(pipe, None)


def replace_uncond(
    method,
    model,
    inputs: dict,
    context: ForwardContext,
    output,
    formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
):
    """The output of a forward pass with formula(c, u) in the place of the unconditional prediction u.

    formula: of two float64 tensors (B, ...) over the frames that are generated; the first frame is left out where it is
    the clean reference, whose prediction the pipeline throws away. Further passes, such as a guider's, are left alone.
    Raises ValueError if the pipeline does not guide, or if another method changes the formula as well.
    """
    sample = output[0]
    if getattr(context, "extra", None) is not None or context.branch not in ("cond", "uncond", "both"):
        return output
    refuse_others(method, model)
    if context.branch == "both":
        uncond, cond = sample.chunk(2)
        return with_sample(output, torch.cat([_replaced(model, inputs, cond, uncond, formula), cond]))
    key = model.transformer if context.pipe is None else context.pipe
    if context.branch == "cond":
        refuse_unguided(method, model, context)
        _waiting[key] = context.step, sample
        return output
    if key not in _waiting:
        raise ValueError(f"{method.label}: step {context.step} ran an unconditional pass without a conditional one")
    _, cond = _waiting.pop(key)
    return with_sample(output, _replaced(model, inputs, cond, sample, formula))


def refuse_unguided(method, model, context: ForwardContext) -> None:
    """Raise ValueError in a conditional pass that no unconditional one will follow, or, where the pipeline does not tell
    (HunyuanVideo), in the first after one that none has followed."""
    pipe, off = context.pipe, False
    if pipe is not None and model.family == COGVIDEOX:
        off = True  # its pipeline guides in one batch if it guides
    elif pipe is not None and model.family == WAN:
        off = not guided(pipe)
    elif pipe is not None and getattr(pipe, "guider", None) is not None:
        off = pipe.guider.num_conditions < 2
    step, _ = _waiting.get(model.transformer if pipe is None else pipe, (context.step, None))
    if off or 0 < context.step != step:
        raise ValueError(
            f"{method.label} needs an unconditional prediction, and step {context.step if off else step} has none: "
            "classifier-free guidance is off (raise guidance_scale or true_cfg_scale above 1)"
        )


def refuse_others(method, model) -> None:
    """Raise ValueError if a further method on this transformer changes the combination of the predictions."""
    owners = [
        m
        for m in attached_methods(model.transformer)
        if getattr(m, "changes_guidance", False) or getattr(m, "name", "") == "lowpass"
    ]
    if len(owners) > 1:
        other = next((m for m in owners if m is not method), method)
        reason = f"both replace the unconditional prediction ({method.label} twice)" if other is method else (
            "low-pass guidance combines three predictions, and the formula is defined for two"
            if other.name == "lowpass" else "both replace the unconditional prediction"
        )  # fmt: skip
        raise ValueError(f"{method.label} does not compose with {other.label}: {reason}")


def attached_methods(transformer) -> list:
    """All methods and recorders that are attached to a transformer, in the order in which they act."""
    controller = controllers.get(transformer)
    return [] if controller is None else [a.method for a in controller.attached]


def clean_first_frame(model, inputs: dict) -> bool:
    """Whether the first latent frame is the reference itself, at time 0: Wan 2.2 5B, HunyuanVideo token_replace."""
    config = model.transformer.config
    if model.family == HUNYUAN:
        return config.image_condition_type == "token_replace"
    times = inputs["timestep"]
    return model.family == WAN and times.ndim == 2 and bool((times[:, 0] == 0).all() and (times[:, -1] > 0).all())


def with_sample(output, sample: torch.Tensor):
    """A transformer's output, tuple or dataclass, with another prediction."""
    return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)


def _replaced(model, inputs, cond, uncond, formula):
    first = 1 if clean_first_frame(model, inputs) else 0
    frames = (slice(None), slice(None), slice(first, None)) if first else ()
    new = uncond.clone()
    new[frames] = formula(cond[frames].double(), uncond[frames].double()).to(uncond.dtype)
    return new
