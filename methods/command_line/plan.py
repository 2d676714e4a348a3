"""From options to the call of the pipeline: every default resolved, everything that can be refused refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image

from .checkpoint import Checkpoint, fingerprint, open_checkpoint
from .guidance import plan_guidance
from .method_settings import check_methods, read_methods
from .noise_schedule import Schedule, plan_schedule, planned_scheduler
from .numbers import whole
from .reference_image import fit_image, image_hash, open_image, said_of_fit
from .sizes import plan_fps, plan_frames, plan_size
from .video_file import check_output

# Arguments of pipelines that are objects, or whose value would change what is written.
NOT_SETTABLE = (
    "image",
    "video",
    "conditions",
    "generator",
    "latents",
    "output_type",
    "return_dict",
    "num_videos_per_prompt",
)
SCHEDULES = ("sigmas", "timesteps")  # a schedule that --set gives, with a number for each step
NOT_SETTABLE_ENDS = (
    "_embeds",
    "_mask",
    "_latents",
    "image_embeds",
    "callback_on_step_end",
    "_tensor_inputs",
    "_seqlens",
    "_image",
)


@dataclass
class Plan:
    """What will be made.

    call: the arguments of the pipeline's call, image and generator apart. size: (height, width), None where the pipeline
    chooses it. guidance_argument: see guidance.py. images: "image" and "last_image" as the pipeline gets them; image_sizes:
    (width, height) of the files. lines: all of it in words. options: the resolved options, with which
    `--settings` makes the video again.
    """

    checkpoint: Checkpoint
    methods: list
    call: dict
    size: tuple[int, int] | None
    frames: int
    fps: float
    steps: int
    guidance_argument: str | None
    guidance: float | None
    schedule: Schedule
    device: str
    options: dict
    images: dict[str, Image.Image] = field(default_factory=dict)
    image_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def make_plan(options) -> Plan:
    """Resolve and check merged options (options.merge). Raises ValueError, TypeError or OSError; no weights are loaded,
    but those of a small model that a method brings, as Focal Guidance its CLIP."""
    check_output(options.output)
    if not str(options.prompt).strip():
        raise ValueError("--prompt is empty; say what happens")
    methods = read_methods(options.method, options.gamma)
    options.seed = whole("--seed", 0 if options.seed is None else options.seed, 0, 2**63 - 1)
    options.steps = whole("--steps", options.steps, 1)
    given = {name: getattr(options, name) for name in ("image", "last_image")}
    images = {name: open_image(path) for name, path in given.items() if path is not None}
    checkpoint = open_checkpoint(options.model, options.revision)
    _check_required(checkpoint)
    lines = [f"model: {options.model}, {checkpoint.pipeline.__name__}"]
    call = {"prompt": options.prompt, **_other_arguments(checkpoint, options.set)}
    if "negative_prompt" in checkpoint.call:
        call["negative_prompt"] = options.negative_prompt or ""
    elif options.negative_prompt:
        raise ValueError(f"--negative-prompt: {checkpoint.pipeline.__name__} takes none")
    size = plan_size(checkpoint, options, lines)
    if size is not None:
        call["height"], call["width"] = size
    frames = plan_frames(checkpoint, options, call, lines)
    fps = plan_fps(checkpoint, options, call, lines)
    steps, own_schedule = _steps(checkpoint, options, call, lines)
    argument, guidance = plan_guidance(checkpoint, options, call, lines)
    _text_length(checkpoint, options, call, lines)
    if options.sampling_type is not None:
        _argument(checkpoint, "--sampling-type", "sampling_type", options.sampling_type, call)
        _check_choice(checkpoint, options.sampling_type)
    schedule = plan_schedule(checkpoint, options, lines)
    device, dtypes = _device_and_dtypes(checkpoint, options, lines)
    image_sizes = {name: image.size for name, image in images.items()}
    images = _fitted(checkpoint, images, options, size, lines)
    scheduler = None if own_schedule else planned_scheduler(checkpoint, schedule, steps)
    lines += check_methods(methods, checkpoint.transformers, steps, scheduler)
    _check_recorded(options)
    resolved = dict(
        height=size and size[0], width=size and size[1], frames=frames, fps=fps, steps=steps, seed=options.seed, **dtypes,
        guidance=guidance if argument else None, text_length=call.get("max_sequence_length"),
        fit=(options.fit or "crop") if images and size is not None else None,
    )  # fmt: skip
    if argument in options.set:  # it is repeated by `set`
        resolved["guidance"] = None
    return Plan(
        checkpoint, methods, call, size, frames, fps, steps, argument, guidance, schedule, device,
        {k: v for k, v in resolved.items() if v is not None}, images, image_sizes, lines,
    )  # fmt: skip


def _check_required(checkpoint: Checkpoint) -> None:
    """Refuse pipelines that need what cannot be given here, such as a video."""
    for name, parameter in checkpoint.call.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if (needed and name not in ("image", "prompt")) or (name == "video" and "image" not in checkpoint.call):
            raise ValueError(
                f"{checkpoint.pipeline.__name__} needs {name!r}, which cannot be given on the command line"
            )


def _other_arguments(checkpoint: Checkpoint, given: dict) -> dict:
    """Arguments of --set, checked against the signature of the pipeline's call."""
    settable = [n for n in checkpoint.call if n not in NOT_SETTABLE and not n.endswith(NOT_SETTABLE_ENDS)]
    name = checkpoint.pipeline.__name__
    for key, value in given.items():
        if key not in checkpoint.call:
            raise ValueError(f"--set {key}={value}: {name} takes no {key!r}; it takes {', '.join(settable)}")
        if key not in settable:
            raise ValueError(f"--set {key}={value}: this argument of {name} cannot be set here")
        wanted = checkpoint.call[key].default
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(wanted, bool) and not isinstance(value, bool):
            raise ValueError(f"--set {key}={value}: it must be true or false")
        if isinstance(wanted, (int, float)) and not isinstance(wanted, bool) and not numeric:
            raise ValueError(f"--set {key}={value}: it must be a number, like its default, {wanted}")
        if key in SCHEDULES and not (isinstance(value, list) and value):
            raise ValueError(f"--set {key}={value}: it must be a list of numbers, one for each step")
    return dict(given)


def _steps(checkpoint: Checkpoint, options, call: dict, lines: list[str]) -> tuple[int, bool]:
    """The number of denoising steps, and whether --set gives the schedule itself."""
    own = next((key for key in SCHEDULES if key in options.set), None)
    if own is not None:
        if options.steps is not None and options.steps != len(options.set[own]):
            raise ValueError(
                f"--steps {options.steps} and --set {own} with {len(options.set[own])} steps contradict each other"
            )
        lines.append(f"steps {len(options.set[own])} (by --set {own})")
        return len(options.set[own]), True
    default = checkpoint.call["num_inference_steps"].default
    call["num_inference_steps"] = options.steps or default
    lines.append(f"steps {options.steps or default} ({'as asked' if options.steps else 'the default of the pipeline'})")
    return call["num_inference_steps"], False


def _argument(checkpoint: Checkpoint, option: str, name: str, value, call: dict) -> None:
    if name not in checkpoint.call:
        raise ValueError(f"{option} {value}: {checkpoint.pipeline.__name__} has no {name}")
    call[name] = value


def _check_choice(checkpoint: Checkpoint, value: str) -> None:
    """FramePack's sampling types are an enumeration."""
    choices = [c.value for c in type(checkpoint.call["sampling_type"].default)]
    if value not in choices:
        raise ValueError(f"--sampling-type {value}: allowed are {', '.join(choices)}")


def _text_length(checkpoint: Checkpoint, options, call: dict, lines: list[str]) -> None:
    given, config = whole("--text-length", options.text_length, 1), checkpoint.config("transformer")
    if "max_sequence_length" not in checkpoint.call:
        if given is not None:
            raise ValueError(f"--text-length {given}: {checkpoint.pipeline.__name__} has no max_sequence_length")
        return
    trained = config.get("max_text_seq_length")
    default, source = checkpoint.call["max_sequence_length"].default, "the pipeline's default"
    if trained:
        default, source = trained, "from the checkpoint"
    length = given or default
    if (
        length != 512
        and checkpoint.component("transformer") == "WanTransformer3DModel"
        and config.get("added_kv_proj_dim")
    ):
        raise ValueError(
            f"--text-length {length}: diffusers splits the image from the text of this Wan at 512 tokens; leave it at 512"
        )
    if trained and length > trained:
        raise ValueError(f"--text-length {length}: the model was trained with {trained}, at most that")
    call["max_sequence_length"] = length
    lines.append(f"text length {length} ({'as asked' if given else source})")


def _device_and_dtypes(checkpoint: Checkpoint, options, lines: list[str]) -> tuple[str, dict]:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"--device {device}: not a device of torch, such as cuda, cuda:1, mps or cpu") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch sees no CUDA device here")
    if options.offload not in (None, "none") and kind == "cpu":
        raise ValueError(f"--offload {options.offload}: there is no accelerator here to offload from")
    dtype = options.dtype or ("float32" if kind == "cpu" else "bfloat16")
    if kind == "cpu" and dtype == "float16":
        raise ValueError("--dtype float16: CPUs lack operations for it; use float32 or bfloat16")
    wan = checkpoint.component("vae") == "AutoencoderKLWan"
    vae = options.vae_dtype or ("float32" if wan else dtype)
    lines.append(f"device {device}, {dtype}, autoencoder {vae}")
    return device, {"dtype": dtype, "vae_dtype": vae}


def _fitted(checkpoint: Checkpoint, images: dict, options, size, lines: list[str]) -> dict:
    """The images at the size of the video; pipelines that choose the size get them as they are."""
    name = checkpoint.pipeline.__name__
    if "image" not in checkpoint.call and "image" in images:
        why = "makes videos from text alone; leave the image out"
        if "conditions" in checkpoint.call:
            why = "takes its images as conditions, which cannot be given on the command line"
        raise ValueError(f"--image {options.image}: {name} {why}")
    if "image" in checkpoint.call and "image" not in images:
        raise ValueError(f"{name} makes videos from an image: give --image")
    if "last_image" in images and "last_image" not in checkpoint.call:
        raise ValueError(f"--last-image {options.last_image}: {name} takes none")
    if not images and options.fit is not None:
        raise ValueError(f"--fit {options.fit}: there is no image")
    if size is None and options.fit is not None:
        raise ValueError(f"--fit {options.fit}: {name} crops the image itself, to the size that it chooses")
    policy, fitted = options.fit or "crop", {}
    for argument, image in images.items():
        what = "reference image" if argument == "image" else "last image"
        if size is None:
            fitted[argument] = image
            lines.append(f"{what}: {image.width} x {image.height}, cropped by {name} to the size that it chooses")
        else:
            fitted[argument] = fit_image(image, size[1], size[0], policy)
            lines.append(f"{what}: {said_of_fit(image.size, size[1], size[0], policy)}")
    return fitted


def _check_recorded(options) -> None:
    """With --settings, the weights and the image must be those of the file, unless others are named here."""
    for part, recorded in options.recorded.items():
        if part == "model":
            now = fingerprint(options.model, options.revision)
        else:
            now, recorded = image_hash(getattr(options, part)), recorded["hash"]
        if now != recorded:
            raise ValueError(
                f"--settings {options.settings}: {getattr(options, part)} is not what it was ({recorded[:20]}..., now "
                f"{now[:20]}...); name it with --{part.replace('_', '-')} to use it all the same"
            )
