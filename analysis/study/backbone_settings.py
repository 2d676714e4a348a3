"""The schema of a backbone in params.yaml: a checkpoint, how it is loaded, how it is called, and how images are fitted to it.

    backbones:
      wan2.1-14b:
        checkpoint: Wan-AI/Wan2.1-I2V-14B-480P-Diffusers   # a folder of diffusers, or a hub name
        revision: COMMIT
        pipeline: WanImageToVideoPipeline                  # any whose transformer is of a family of `methods.families`
        dtype: bfloat16
        height: 480
        width: 832
        frames: 81            # that come out; what is asked for is `call.num_frames` where a pipeline counts otherwise
        fps: 16
        steps: 40
        negative_prompt: ""
        fit: crop             # exact (default), crop, pad, or {policy: bucket, ...}: see Bucket
        load:                 # see Load
          dtype: {vae: float32, image_encoder: float32}
          offload: model
          scheduler: {arguments: {shift: 3.0}}
          compile: true                                  # see Compile
          attention_backend: native                      # of ATTENTION_BACKENDS
        call: {guidance_scale_2: 3.5, sampling_type: vanilla}   # any other keyword of the pipeline's __call__

What changes pixels is part of the video's key: all of `call`, `fit` and `load` except `offload` and `slicing`; a LoRA with
the hash of its file. A setting at its default is left out of everything that is written from params.yaml, so keys of videos
and files of settings from before the setting existed stay what they were.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_serializer, model_validator

FAMILIES = Path(__file__).parents[2] / "methods/families"
# What a backbone, a cell or the program itself says; `call` may not say it otherwise.
OWN_ARGUMENTS = (
    "image", "prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "generator",
    "output_type", "return_dict", "num_videos_per_prompt", "callback_on_step_end", "callback_on_step_end_tensor_inputs",
)  # fmt: skip
TENSORS = ("latents", "embeds", "mask", "mask_2", "embeds_2")  # ends of the names of arguments that YAML cannot hold
Dtype = Literal["float32", "bfloat16", "float16"]
# Of diffusers (AttentionBackendName). Those that end in `_hub` are left out, as they download code when they are set, and so are those
# of devices that nothing here runs on.
AttentionBackend = Literal[
    "native", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn", "flex", "flash", "flash_varlen", "_flash_3",
    "_flash_varlen_3", "sage", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90",
    "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton", "xformers",
]  # fmt: skip
ATTENTION_BACKENDS: tuple[str, ...] = get_args(AttentionBackend)
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(_Strict):
    """`fit: {policy: bucket}`: a size per image, the one of `sizes` (width, height) whose aspect is nearest or, without
    them, the image's own aspect at `area` pixels (by default the backbone's height x width), sides rounded down to
    multiples of `multiple`. The image is then cropped to the aspect and resized."""

    policy: Literal["bucket"]
    sizes: Annotated[list[Size], Field(min_length=1)] | None = None
    area: Annotated[int, Field(ge=1)] | None = None
    multiple: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _one_way(self):
        if self.sizes is not None and self.area is not None:
            raise ValueError("a bucket has `sizes` or an `area`, not both")
        return self


class Scheduler(_Strict):
    """Another scheduler of diffusers, by its class's name, or the checkpoint's own; `arguments` replace entries of its
    configuration, such as `flow_shift` of UniPCMultistepScheduler and `shift` of FlowMatchEulerDiscreteScheduler."""

    name: str | None = None
    arguments: dict[str, JsonValue] = {}


class Quantisation(_Strict):
    """A quantisation config by its name in diffusers, such as BitsAndBytesConfig, with its arguments, for `parts` of the
    pipeline. A part that is a model of transformers gets the class of the same name from there."""

    config: str
    arguments: dict[str, JsonValue] = {}
    parts: Annotated[list[str], Field(min_length=1)]


class Lora(_Strict):
    """A LoRA, a file of safetensors or a hub name with its `revision` and `weight_name`, and its strength."""

    checkpoint: str
    revision: str | None = None
    weight_name: str | None = None
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _is_fixed(self):
        if not self.checkpoint.endswith(".safetensors") and not (self.revision and self.weight_name):
            raise ValueError(
                f"the LoRA {self.checkpoint} is a .safetensors file, or a hub name with `revision` and `weight_name`"
            )
        return self


class Compile(_Strict):
    """torch.compile of the transformer: of its repeated `blocks`, as diffusers' compile_repeated_blocks has it, or of the whole
    `transformer`. Modes with CUDA graphs are left out: they write over their outputs, which methods and recorders keep."""

    part: Literal["blocks", "transformer"] = "blocks"
    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"


class Load(_Strict):
    """How a checkpoint is loaded.

    dtype: of single parts, such as {vae: float32}; the others have the backbone's. offload: what keeps parts of the model in
    the CPU's memory, by diffusers' enable_model_cpu_offload, enable_sequential_cpu_offload or enable_group_offload.
    tiling, slicing: of the autoencoder. arguments: of the pipeline's constructor, such as boundary_ratio. compile: true, or how.
    attention_backend: of the transformer, by diffusers' set_attention_backend.
    """

    dtype: dict[str, Dtype] = {}
    offload: Literal["none", "model", "sequential", "group"] = "none"
    tiling: bool = False
    slicing: bool = False
    scheduler: Scheduler | None = None
    quantisation: Quantisation | None = None
    lora: list[Lora] = []
    arguments: dict[str, JsonValue] = {}
    compile: Compile | None = None
    attention_backend: AttentionBackend | None = None

    @field_validator("compile", mode="before")
    @classmethod
    def _true_is_the_default(cls, given):
        return {True: {}, False: None}[given] if isinstance(given, bool) else given

    @model_validator(mode="after")
    def _hooks_stay_outside(self):
        if self.compile is not None and self.offload in ("sequential", "group"):
            raise ValueError(
                f"compile with offload {self.offload}: its hooks move weights inside of what is compiled; allowed are none and model"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler):
        return _changed(self, handler)

    def of_pixels(self) -> dict:
        """What of this changes pixels, apart from weights."""
        return self.model_dump(exclude={"offload", "slicing", "lora"})


class Backbone(_Strict):
    """A diffusers checkpoint, a local folder or a hub name with its revision, and how to sample from it. `delta` is a
    file of tuned tensors that are put over the transformer's. `max_sequence_length` is the pipeline's own if not given.
    `height` and `width` are in pixels, `frames` is how many come out. `load`, `call` and `fit`: see above."""

    checkpoint: str
    revision: str | None = None
    delta: str | None = None
    pipeline: str
    dtype: Dtype
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    fps: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1, le=1000)]
    negative_prompt: str
    max_sequence_length: Annotated[int, Field(ge=1)] | None = None
    fit: Literal["exact", "crop", "pad"] | Bucket = "exact"
    load: Load = Load()
    call: dict[str, JsonValue] = {}

    @field_validator("pipeline")
    @classmethod
    def _has_a_family(cls, name: str) -> str:
        family_of(name)
        return name

    @field_validator("call")
    @classmethod
    def _says_nothing_twice(cls, call: dict) -> dict:
        if taken := [name for name in call if name in OWN_ARGUMENTS or name.endswith(TENSORS)]:
            raise ValueError(f"{taken[0]!r} is not for `call`: it is set by the backbone, the sweep or the program")
        return call

    @model_validator(mode="after")
    def _fits_together(self):
        if "max_sequence_length" in self.call and self.max_sequence_length is not None:
            raise ValueError("max_sequence_length is given twice, in `call` too")
        if self.delta is not None and self.load.lora:
            raise ValueError("a backbone has a `delta` or LoRAs, not both: a LoRA renames the tensors of the delta")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler):
        return _changed(self, handler, ("fit", "load", "call"))

    def sampler(self) -> dict:
        """What of the settings determines pixels, beside the weights: it is hashed into the video's key."""
        elsewhere = {"checkpoint", "revision", "delta", "fps", "load", "call"}
        found = self.model_dump(mode="json", exclude=elsewhere, exclude_none=True)
        own = {"load": self.load.of_pixels(), "call": self.call}
        return found | {name: value for name, value in own.items() if value}


def _changed(part: BaseModel, handler, names: tuple[str, ...] | None = None) -> dict:
    """What `handler` writes, without those of `names` (all by default) that have their default value."""
    fields = type(part).model_fields
    same = {n for n in names or fields if getattr(part, n) == fields[n].get_default()}
    return {name: value for name, value in handler(part).items() if name not in same}


@cache
def _transformers() -> tuple[str, ...]:
    """Class names of the transformers of methods.families, read from its source: importing it loads torch."""
    found = []
    for file in sorted(FAMILIES.glob("[!_]*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "class_name" and isinstance(node.value, ast.Constant):
                found.append(node.value.value)
    return tuple(found)


def family_of(pipeline: str) -> str:
    """Class name of the transformer of a pipeline class, as `methods.families.family_of_pipeline` finds it. Raises
    ValueError, which names the known ones, for a pipeline of no family."""
    fits = [name for name in _transformers() if pipeline.startswith(name.split("Transformer")[0])]
    if pipeline.endswith("Pipeline") and fits:
        return max(fits, key=len)
    from methods.families import family_of_pipeline  # which may know families by other names than their own

    return family_of_pipeline(pipeline)
