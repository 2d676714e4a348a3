"""`python -m methods generate`: one steered video from a checkpoint, an image and a prompt, and a file that says how."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch

from ..core.steer import steer
from ..registry import to_dict
from .checkpoint import fingerprint
from .options import asked, merge
from .plan import Plan, make_plan
from .reference_image import image_hash
from .video_file import settings_path, write_both


def generate(options) -> None:
    """Make the video and write its settings beside it; both appear whole or not at all."""
    options = merge(options)
    given = asked(options)
    plan = make_plan(options)
    print("\n".join(plan.lines), flush=True)
    if options.dry_run:
        return
    weights = fingerprint(options.model, options.revision)
    try:
        pipe = load(plan, options)
        frames, report = sample(plan, options, pipe)
    except torch.OutOfMemoryError as error:
        less = {None: "model", "none": "model", "model": "sequential"}.get(options.offload)
        raise RuntimeError(
            f"out of memory on {plan.device}: take {f'--offload {less}, ' if less else ''}fewer --frames or a smaller "
            f"--height and --width ({str(error).splitlines()[0]})"
        ) from None
    if options.report:
        print(report)
    made = what_was_made(plan, options, pipe, frames, report) | {"weights": weights}
    write_both(frames, options.output, plan.fps, {"asked": given, "made": made, "methods": made.pop("methods")})
    print(f"{options.output}, settings in {settings_path(options.output)}")


def load(plan: Plan, options):
    """The pipeline with its scheduler, guider and placement."""
    dtypes = {"default": getattr(torch, plan.options["dtype"]), "vae": getattr(torch, plan.options["vae_dtype"])}
    pipe = plan.checkpoint.pipeline.from_pretrained(
        options.model, revision=options.revision, dtype=dtypes, use_safetensors=True
    )
    plan.schedule.apply(pipe)
    if plan.guidance_argument == "guider" and options.guidance is not None:
        pipe.guider = pipe.guider.new(guidance_scale=plan.guidance)
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=plan.device)
    elif options.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=plan.device)
    else:
        pipe.to(plan.device)
    return pipe


def sample(plan: Plan, options, pipe) -> tuple:
    """(frames (T, H, W, 3) in [0, 1], the report of where methods acted or None).

    Raises RuntimeError for frames that are not finite and for a report that there is not.
    """
    inputs = plan.call | plan.images
    generator = torch.Generator().manual_seed(options.seed)
    steered = steer(pipe, *plan.methods) if plan.methods else nullcontext()
    with steered as steering, torch.inference_mode():
        if options.report and not hasattr(steering, "report"):
            raise RuntimeError("--report: `steer` makes no report" if plan.methods else "--report: there is no method")
        frames = pipe(**inputs, generator=generator, output_type="np").frames[0]
        report = steering.report() if hasattr(steering, "report") else None
    if not torch.isfinite(torch.as_tensor(frames)).all():
        raise RuntimeError("the video has values that are not finite; try --dtype float32 or --vae-dtype float32")
    if len(frames) != plan.frames:
        print(f"warning: {len(frames)} frames were made, {plan.frames} planned", file=sys.stderr)
    return frames, report


def what_was_made(plan: Plan, options, pipe, frames, report) -> dict:
    """For the settings file: resolved values, what the arguments of the call were, weights and versions."""
    import diffusers
    import transformers

    made = {
        "pipeline": type(pipe).__name__,
        "frames": frames.shape[0],
        "height": frames.shape[1],
        "width": frames.shape[2],
        "options": plan.options,
        "call": {k: getattr(v, "value", v) for k, v in plan.call.items()},
        "guidance": {"argument": plan.guidance_argument, "scale": plan.guidance},
        "scheduler": {"class": type(pipe.scheduler).__name__}
        | {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")},
        "timesteps": [round(float(t), 3) for t in pipe.scheduler.timesteps],
        "device": torch.cuda.get_device_name(plan.device) if plan.device.startswith("cuda") else plan.device,
        "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers)},
        "plan": plan.lines,
        "methods": [to_dict(m) for m in plan.methods],
    }
    if getattr(pipe, "guider", None) is not None:
        config = {k: v for k, v in pipe.guider.config.items() if not k.startswith("_")}
        made["guider"] = {"class": type(pipe.guider).__name__} | config
    for argument, size in plan.image_sizes.items():
        made[f"{argument}_file"] = {"hash": image_hash(getattr(options, argument)), "size": list(size)}
    if report is not None:
        made["report"] = str(report)
    return made
