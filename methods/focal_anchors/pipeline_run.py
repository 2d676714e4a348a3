"""What is known of the video that a pipeline is making: its prompt, its reference image, and what was found in them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch

from ..core.interception import replace_attribute
from .keywords import Anchors
from .placement import share_seen


@dataclass
class PipelineRun:
    """State of one pipeline call. Each FocalGuidance that is attached has its own entries in the dictionaries.

    text_slots: text tokens that the model is given. patches: (1 + h w, D), the image encoder's second-to-last hidden
    states. image: (1, 3, H, W) in [-1, 1], where the pipeline has no image encoder. seen: what the patches span of the frame.
    anchors: guidance -> Anchors. values: guidance -> ImageBranchValues or JointAttentionValues.
    similarity_maps: (guidance, step) -> {block position: (B, K, L) similarity}.
    """

    prompt: str | None = None
    text_slots: int | None = None
    patches: torch.Tensor | None = None
    image: torch.Tensor | None = None
    seen: tuple[float, float] = (1.0, 1.0)
    anchors: dict[object, Anchors] = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    similarity_maps: dict = field(default_factory=dict)


_runs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # pipeline -> PipelineRun


def current_run(pipe) -> PipelineRun:
    """The run of a pipeline's current or last video; an empty one if there was none."""
    return _runs.setdefault(pipe, PipelineRun())


def start_run(pipe, prompt: str | None) -> PipelineRun:
    """Forget what is known of a pipeline's last video and begin the next one."""
    _runs[pipe] = PipelineRun(prompt)
    return _runs[pipe]


def forget_run(pipe) -> None:
    """Forget what is known of a pipeline's last video."""
    _runs.pop(pipe, None)


def image_reader(pipe) -> str:
    """Name of the pipeline's method that is given the reference image."""
    return "encode_image" if hasattr(pipe, "encode_image") else "prepare_latents"


def watch_conditions(pipe):
    """Wrap the methods of a pipeline that read prompt and image, so that `current_run` holds what they were last given.

    Returns an undo. While they are wrapped, the pipeline raises ValueError for more than one prompt.
    """
    encode_prompt, name = pipe.encode_prompt, image_reader(pipe)
    read_image = getattr(pipe, name)
    has_image_encoder = name == "encode_image"

    def noting_prompt(prompt, *args, **kwargs):
        if isinstance(prompt, list):
            if len(prompt) != 1:
                raise ValueError(f"FocalGuidance makes one video at a time, not {len(prompt)}")
            prompt = prompt[0]
        from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean  # what Wan's pipeline tokenizes

        tokenized = prompt_clean(prompt) if has_image_encoder and prompt is not None else prompt
        run = start_run(pipe, tokenized)
        out = encode_prompt(prompt, *args, **kwargs)
        run.text_slots = out[0].shape[1]
        return out

    def noting_image(*args, **kwargs):
        out, run = read_image(*args, **kwargs), current_run(pipe)
        if has_image_encoder:
            run.patches = out[0]
            run.seen = share_seen(
                getattr(pipe, "image_processor", None), kwargs["image"] if "image" in kwargs else args[0]
            )
        elif run.image is None:  # only the first: LowPassGuidance encodes filtered images as well
            run.image = kwargs["image"] if "image" in kwargs else args[0]
        return out

    undo = [replace_attribute(pipe, "encode_prompt", noting_prompt), replace_attribute(pipe, name, noting_image)]
    return lambda: [u() for u in undo]
