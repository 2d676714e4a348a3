"""Where the guidance scale of `--guidance` goes: each pipeline calls it otherwise, and some ignore what looks like it."""

from __future__ import annotations

from .checkpoint import Checkpoint, read_json
from .numbers import number


def guidance_argument(checkpoint: Checkpoint) -> str | None:
    """ "guidance_scale", "true_cfg_scale", "guider" (HunyuanVideo-1.5), or None for a pipeline without any.

    HunyuanVideo's guidance_scale is an input of models that were distilled with guidance; others ignore it without a word
    and are guided by true_cfg_scale.
    """
    if "true_cfg_scale" in checkpoint.call and not distilled(checkpoint):
        return "true_cfg_scale"
    if "guidance_scale" in checkpoint.call:
        return "guidance_scale"
    return "guider" if checkpoint.component("guider") else None


def distilled(checkpoint: Checkpoint) -> bool:
    """Whether the model takes the guidance scale as an input."""
    config = checkpoint.config("transformer")
    return "true_cfg_scale" in checkpoint.call and bool(config.get("guidance_embeds", True))


def default_guidance(checkpoint: Checkpoint) -> float | None:
    """The scale if none is given: the pipeline's own, or the guider's."""
    argument = guidance_argument(checkpoint)
    if argument == "guider":
        return read_guider(checkpoint).get("guidance_scale")
    return checkpoint.call[argument].default if argument else None


def read_guider(checkpoint: Checkpoint) -> dict:
    """The configuration of the checkpoint's guider, {} if it has none."""
    return read_json(checkpoint.model, "guider/guider_config.json", checkpoint.revision) or {}


def guided(checkpoint: Checkpoint, call: dict, guidance: float | None) -> bool:
    """Whether the pipeline will run an unconditional branch, in which the negative prompt counts.

    The first expert's scale decides for both (Wan 2.2 A14B). A guider is off at scale 1 alone.
    """
    if distilled(checkpoint):
        return (call.get("true_cfg_scale") or checkpoint.call["true_cfg_scale"].default) > 1
    if guidance_argument(checkpoint) == "guider":
        return guidance is not None and guidance != 1
    return guidance is not None and guidance > 1


def plan_guidance(checkpoint: Checkpoint, options, call: dict, lines: list[str]) -> tuple[str | None, float | None]:
    """Put the scales into the arguments of the call; returns (argument, scale). See `guidance_argument`.

    Raises ValueError for a scale that is none or that the pipeline cannot take, and for a negative prompt without guidance.
    """
    argument, scale = guidance_argument(checkpoint), number("--guidance", options.guidance, at_least=0)
    name = checkpoint.pipeline.__name__
    if scale is not None and argument is None:
        raise ValueError(f"--guidance {scale}: {name} takes no guidance scale")
    if scale is not None and argument in call:
        raise ValueError(f"--guidance {scale} and --set {argument}={call[argument]} are the same argument of {name}")
    if argument == "true_cfg_scale" and "guidance_scale" in call:
        raise ValueError(
            f"--set guidance_scale={call['guidance_scale']}: this {name} does not read it, as its transformer takes no guidance; "
            "give --guidance, which is its true_cfg_scale"
        )
    if argument == "guider" and scale is not None and "guidance_scale" not in read_guider(checkpoint):
        raise ValueError(
            f"--guidance {scale}: {checkpoint.component('guider')} of this checkpoint has no guidance_scale"
        )
    chosen = " (default)" if scale is None else ""
    if scale is None:
        scale = call.get(argument, default_guidance(checkpoint)) if argument else None
    if argument not in (None, "guider"):
        call[argument] = scale
    second = number("--guidance-2", options.guidance_2, at_least=0)
    if second is not None:
        if "guidance_scale_2" not in checkpoint.call or checkpoint.model_index.get("boundary_ratio") is None:
            raise ValueError(f"--guidance-2 {second}: this {name} has no second expert with a scale of its own")
        if not guided(checkpoint, call, scale):
            raise ValueError(
                f"--guidance-2 {second} has no effect at guidance {scale}: {name} then guides neither expert"
            )
        call["guidance_scale_2"] = second
    if argument is not None:
        lines.append(
            f"guidance {scale}{chosen}: {said_of(argument, checkpoint)}"
            + (f"; second expert {second}" if second is not None else "")
        )
    if options.negative_prompt and not guided(checkpoint, call, scale):
        how = "--set true_cfg_scale=6" if distilled(checkpoint) else "--guidance above 1"
        raise ValueError(f"--negative-prompt has no effect without guidance; give {how}, or leave it out")
    return argument, scale


def said_of(argument: str, checkpoint: Checkpoint) -> str:
    """What the scale is, in words."""
    if argument == "guider":
        return f"scale of the pipeline's {checkpoint.component('guider')}"
    if distilled(checkpoint):
        return "guidance_scale, which the distilled model takes as an input (true guidance: --set true_cfg_scale=...)"
    return argument
