"""A backbone of params.yaml as a diffusers pipeline, checked before anything is loaded, one at a time in memory."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import json
from pathlib import Path

import torch

from ..study.backbone_settings import OWN_ARGUMENTS, TENSORS, Backbone, Load
from .compiled_transformer import check_backend, check_compile, compile_transformers, set_backend
from .fast_convolution import convolve_directly
from .tuned_weights import load_delta

_held: dict[str, object] = {}  # the pipeline of this process by what it was loaded with: never more than one


# Checks --------------------------------------------------------------------------------------------------------------
def check_backbone(name: str, backbone: Backbone) -> None:
    """Raise ValueError, which names the value and what is allowed, for settings that the pipeline or diffusers does not
    have. Nothing of the checkpoint is read but its index."""
    import diffusers

    if backbone.load == Load() and not backbone.call and backbone.pipeline in dir(diffusers):
        return  # importing the pipeline's class would take seconds for nothing
    kind, load = pipeline_class(backbone), backbone.load
    parts, options = kind._get_signature_keys(kind)
    accepted = call_arguments(kind)
    where = f"backbones.{name}"
    if "video" in accepted:
        raise ValueError(f"{where}.pipeline is {backbone.pipeline}, which starts from a video; a cell has an image")
    free = sorted(n for n in accepted if n not in _set_here(backbone))
    _only(f"{where}.call", backbone.call, free, f"{backbone.pipeline} takes")
    if backbone.max_sequence_length is not None:
        _only(f"{where}", ["max_sequence_length"], accepted, f"{backbone.pipeline} takes")
    if backbone.negative_prompt and "negative_prompt" not in accepted:
        raise ValueError(f'{where}.negative_prompt: {backbone.pipeline} takes none; give ""')
    _only(f"{where}.load.dtype", load.dtype, sorted(parts), "its parts are")
    _only(f"{where}.load.arguments", load.arguments, sorted(set(options) - set(parts)), "its constructor takes")
    if load.scheduler is not None:
        scheduler = _scheduler_class(f"{where}.load.scheduler", backbone)
        if scheduler is not None:
            known = sorted(set(inspect.signature(scheduler.__init__).parameters) - {"self"})
            _only(f"{where}.load.scheduler.arguments", load.scheduler.arguments, known, f"{scheduler.__name__} takes")
    if load.quantisation is not None:
        _only(f"{where}.load.quantisation.parts", load.quantisation.parts, sorted(parts), "its parts are")
        _quantisation_class(load.quantisation.config, "diffusers")
    if load.compile is not None:
        check_compile(f"{where}.load.compile", backbone)
    if load.attention_backend is not None:
        check_backend(f"{where}.load.attention_backend", backbone)
    if load.lora and importlib.util.find_spec("peft") is None:
        raise ValueError(f"{where}.load.lora needs peft, which is not installed: pip install peft")


def _only(where: str, given, allowed, said: str) -> None:
    if unknown := [n for n in given if n not in allowed]:
        raise ValueError(f"{where} has {unknown[0]!r}; {said} {', '.join(allowed) or 'none'}")


def _set_here(backbone: Backbone) -> set[str]:
    accepted = call_arguments(pipeline_class(backbone))
    return set(OWN_ARGUMENTS) | {n for n in accepted if n.endswith(TENSORS)}


def pipeline_class(backbone: Backbone) -> type:
    """The class of a backbone's pipeline. Raises ValueError if diffusers has none of the name."""
    import diffusers

    collecting = gc.isenabled()
    gc.disable()  # what is imported stays; to look through it for garbage again and again takes a third of the time
    try:
        found = getattr(diffusers, backbone.pipeline, None)
    finally:
        if collecting:
            gc.enable()
    if found is None:
        near = [n for n in dir(diffusers) if n.endswith("Pipeline") and n[:3] == backbone.pipeline[:3]]
        raise ValueError(f"diffusers has no {backbone.pipeline}; it has {', '.join(near) or 'none like it'}")
    return found


def call_arguments(pipeline: type) -> list[str]:
    """Names of the arguments of a pipeline's call."""
    return [n for n in inspect.signature(pipeline.__call__).parameters if n != "self"]


def takes_image(backbone: Backbone) -> bool:
    """Whether a backbone's pipeline starts from an image."""
    return "image" in call_arguments(pipeline_class(backbone))


def _scheduler_class(where: str, backbone: Backbone) -> type | None:
    """The class of the scheduler that is asked for, or the checkpoint's own where its index is on this machine."""
    import diffusers

    name, index = backbone.load.scheduler.name, Path(backbone.checkpoint) / "model_index.json"
    if name is None and index.is_file():
        name = json.loads(index.read_text())["scheduler"][1]
    if name is None:
        return None
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise ValueError(f"{where}.name is {name!r}, no scheduler of diffusers, such as UniPCMultistepScheduler")
    return found


def _quantisation_class(name: str, library: str) -> type:
    module = importlib.import_module(library)
    found = getattr(module, name, None)
    if not name.endswith("Config") or not isinstance(found, type):
        known = [n for n in dir(module) if n.endswith("Config") and "uant" in getattr(module, n).__module__]
        raise ValueError(f"load.quantisation.config is {name!r}, not one of {', '.join(sorted(known))} of {library}")
    return found


# Loading -------------------------------------------------------------------------------------------------------------
def load_pipeline(backbone: Backbone):
    """The diffusers pipeline of a backbone, on the GPU if there is one; kept for the next cell of this process, and dropped
    before another one is loaded. Raises ValueError for settings that the checkpoint cannot have."""
    kept = backbone.model_dump_json(include={"checkpoint", "revision", "delta", "pipeline", "dtype", "load"})
    if kept not in _held:
        drop_pipeline()
        _held[kept] = _load(backbone)
    return _held[kept]


def drop_pipeline() -> None:
    """Free the pipeline of this process, and the memory of the GPU that it had."""
    _held.clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


load_pipeline.cache_clear = drop_pipeline


def _load(backbone: Backbone):
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    load, kind = backbone.load, pipeline_class(backbone)
    on_gpu = torch.cuda.is_available()
    if load.offload in ("model", "sequential") and not on_gpu:
        raise ValueError(
            f"load.offload is {load.offload}, which needs a GPU, and there is none; allowed are none and group"
        )
    dtype = getattr(torch, backbone.dtype)
    if load.dtype:
        dtype = {"default": dtype} | {part: getattr(torch, name) for part, name in load.dtype.items()}
    more = dict(load.arguments)
    if load.quantisation is not None:
        more["quantization_config"] = _quantisation(kind, backbone)
    pipe = kind.from_pretrained(
        backbone.checkpoint, revision=backbone.revision, dtype=dtype, use_safetensors=True, **more
    )
    if load.scheduler is not None:
        other = _scheduler_class("load.scheduler", backbone) if load.scheduler.name else type(pipe.scheduler)
        pipe.scheduler = other.from_config(pipe.scheduler.config, **load.scheduler.arguments)
    if backbone.delta is not None:
        load_delta(pipe.transformer, Path(backbone.delta))
    _load_loras(pipe, load)
    _prepare_autoencoder(pipe, backbone)
    if load.attention_backend is not None:
        set_backend(pipe, load.attention_backend)
    if load.compile is not None:
        compile_transformers(pipe, load.compile)
    pipe.set_progress_bar_config(disable=True)
    return _place(pipe, load, torch.device("cuda" if on_gpu else "cpu"))


def _quantisation(kind: type, backbone: Backbone):
    from diffusers import PipelineQuantizationConfig

    asked, index = backbone.load.quantisation, kind.load_config(backbone.checkpoint, revision=backbone.revision)
    mapping = {}
    for part in asked.parts:
        library = "transformers" if index[part][0] == "transformers" else "diffusers"
        mapping[part] = _quantisation_class(asked.config, library)(**asked.arguments)
    return PipelineQuantizationConfig(quant_mapping=mapping)


def _load_loras(pipe, load: Load) -> None:
    names = [f"lora{i}" for i in range(len(load.lora))]
    for name, lora in zip(names, load.lora, strict=True):
        own = {"revision": lora.revision, "weight_name": lora.weight_name} if lora.revision else {}
        pipe.load_lora_weights(lora.checkpoint, adapter_name=name, use_safetensors=True, **own)
    if names:
        pipe.set_adapters(names, [lora.scale for lora in load.lora])


def _prepare_autoencoder(pipe, backbone: Backbone) -> None:
    if backbone.pipeline.startswith("CogVideoX"):  # the other autoencoder goes frame by frame, and gains little
        convolve_directly(pipe.vae)
    for name in ("tiling", "slicing"):
        if getattr(backbone.load, name):
            enable = getattr(pipe.vae, f"enable_{name}", None)
            if enable is None:
                raise ValueError(f"load.{name}: a {type(pipe.vae).__name__} has none")
            enable()


def _place(pipe, load: Load, device: torch.device):
    if load.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif load.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif load.offload == "group":  # layer by layer, the next one on its way while one computes
        streams = device.type == "cuda"
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=streams, non_blocking=streams)
    else:
        return pipe.to(device)
    return pipe


def memory_advice(backbone: Backbone) -> str:
    """What of the settings would need less memory, in words, the cheapest first."""
    load = backbone.load
    ways = [] if load.tiling else ["`load: {tiling: true}` (the autoencoder in tiles)"]
    order = ["none", "model", "group", "sequential"]
    if more := order[order.index(load.offload) + 1 :]:
        ways.append(f"`load: {{offload: {more[0]}}}`" + (f" (then {', '.join(more[1:])})" if more[1:] else ""))
    if load.quantisation is None:
        ways.append("`load: {quantisation: ...}`")
    if backbone.dtype == "float32":
        ways.append("`dtype: bfloat16`")
    return ", ".join([*ways, "fewer frames or pixels"])
