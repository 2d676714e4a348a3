"""The set-up that `doctor` looks over: what the configuration files say, with the options that were given on top."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .checkpoint import Checkpoint
from .guidance import default_guidance, distilled, guidance_argument, guided
from .noise_schedule import shift_name
from .sizes import by_stem, default_size

# Ends in PyTorch's scaled dot-product attention, which methods act in.
NATIVE_BACKENDS = ("native", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn")
CACHES = ("teacache", "first-block", "mag", "taylorseer", "pyramid", "faster", "other")


@dataclass(frozen=True)
class Setup:
    """What a video would be made with. None where the pipeline has no such setting or nothing says it.

    guided: whether an unconditional branch runs. distilled: whether the model takes the scale as an input.
    arguments: --set. methods: to be attached; empty if none are named.
    """

    checkpoint: Checkpoint
    steps: int
    guidance: float | None
    distilled: bool
    guided: bool
    height: int | None
    width: int | None
    frames: int | None
    fps: float | None
    text_length: int | None
    flow_shift: float | None
    sampling_type: str | None
    vae_dtype: str
    backend: str
    cache: str | None
    arguments: dict
    methods: tuple

    @property
    def pipeline(self) -> str:
        """Class name of the pipeline."""
        return self.checkpoint.pipeline.__name__

    @property
    def transformer(self) -> str:
        """Class name of the transformer, "" for a pipeline without one."""
        return self.checkpoint.component("transformer") or ""

    @property
    def config(self) -> dict:
        """The transformer's configuration."""
        return self.checkpoint.config("transformer")

    def argument(self, name: str):
        """An argument of the pipeline's call: as given by --set, else its default; None if it has none of that name."""
        if name in self.arguments:
            return self.arguments[name]
        return self.checkpoint.call[name].default if name in self.checkpoint.call else None


def read_setup(checkpoint: Checkpoint, options, methods: list, arguments: dict) -> Setup:
    """The set-up of merged defaults and options. Wrong values are no errors here: the rules say what is wrong with them."""
    call, transformer = checkpoint.call, checkpoint.config("transformer")

    def default(name):
        return arguments.get(name, call[name].default if name in call else None)

    argument = guidance_argument(checkpoint)
    guidance = options.guidance
    if guidance is None:
        guidance = arguments.get(argument, default_guidance(checkpoint)) if argument else None
    takes = distilled(checkpoint)
    shift, config = None, checkpoint.config("scheduler")
    if not config.get("use_dynamic_shifting"):
        shift = options.flow_shift or config.get(_shift(checkpoint))
    sampling = options.sampling_type or getattr(default("sampling_type"), "value", default("sampling_type"))
    return Setup(
        checkpoint=checkpoint,
        steps=options.steps or default("num_inference_steps"),
        guidance=guidance,
        distilled=takes,
        guided=guided(checkpoint, arguments, guidance),
        height=options.height or default_size(checkpoint, "height")[0],
        width=options.width or default_size(checkpoint, "width")[0],
        frames=options.frames or transformer.get("sample_frames") or default("num_frames"),
        fps=options.fps or default("frame_rate") or by_stem_fps(checkpoint),
        text_length=options.text_length or arguments.get("max_sequence_length") or default("max_sequence_length"),
        flow_shift=shift,
        sampling_type=sampling,
        vae_dtype=options.vae_dtype or options.dtype or "bfloat16",
        backend=options.backend or os.environ.get("DIFFUSERS_ATTN_BACKEND") or "native",
        cache=options.cache,
        arguments=arguments,
        methods=tuple(methods),
    )


def by_stem_fps(checkpoint: Checkpoint) -> float | None:
    """The frame rate of diffusers' example for the pipeline."""
    from .sizes import FPS

    return by_stem(FPS, checkpoint.pipeline.__name__)


def _shift(checkpoint: Checkpoint) -> str | None:
    import diffusers

    kind = getattr(diffusers, checkpoint.component("scheduler") or "", None)
    return shift_name(kind) if kind is not None else None
