"""What is known of the video that a pipeline is making: its prompt, its reference image, and what was found in them."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field

import torch

from ..core.interception import replace_attribute
from ..core.prompt_words import tokenize
from ..families import family_of
from .keywords import Anchors, tokens_in, tokens_of
from .placement import share_seen


@dataclass
class PipelineRun:
    """State of one pipeline call. Each FocalGuidance that is attached has its own entries in the dictionaries.

    tokens: of each word of the prompt, among the text tokens that the model is given. patches: (1 + h w, D), the image encoder's second-to-last hidden
    states. image: (1, 3, H, W) in [-1, 1], where the pipeline has no image encoder. seen: what the patches span of the frame.
    anchors: guidance -> Anchors. values: guidance -> ImageBranchValues or JointAttentionValues.
    similarity_maps: (guidance, step) -> {block position: (B, K, L) similarity}.
    """

    prompt: str | None = None
    tokens: list[list[int]] | None = None
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
    read_image, signature = getattr(pipe, name), inspect.signature(encode_prompt)
    has_image_encoder = name == "encode_image"
    # HunyuanVideo's pipeline reads the image first, then encodes the prompt with it, and the negative prompt by a second call.
    image_first = "image" in signature.parameters

    def starting(*args, **kwargs):
        start_run(pipe, None)
        return check_inputs(*args, **kwargs)

    def noting_prompt(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        prompt = bound.arguments["prompt"]
        if isinstance(prompt, list):
            if len(prompt) != 1:
                raise ValueError(f"FocalGuidance makes one video at a time, not {len(prompt)}")
            prompt = prompt[0]
        if not image_first:
            from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean  # what Wan's pipeline tokenizes

            prompt = prompt_clean(prompt) if has_image_encoder and prompt is not None else prompt
            run = start_run(pipe, prompt)
        elif (run := current_run(pipe)).prompt is not None:
            return encode_prompt(*args, **kwargs)
        out = encode_prompt(*args, **kwargs)
        if prompt is not None:
            run.prompt, run.tokens = prompt, word_tokens(pipe, prompt, bound.arguments, out[0].shape[1])
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
    if image_first:
        check_inputs = pipe.check_inputs
        undo.append(replace_attribute(pipe, "check_inputs", starting))
    return lambda: [u() for u in undo]


def word_tokens(pipe, prompt: str, arguments: dict, count: int) -> list[list[int]]:
    """Tokens of each word of a prompt among the text tokens that the model is given; none for a word beyond them. arguments:
    of `pipe.encode_prompt`, by name; count: tokens that it gave, those of an image encoder among them."""
    if "image" not in arguments:
        return tokens_of(pipe.tokenizer, prompt, count)
    family = family_of(pipe.transformer)
    spans = tokenize(family, pipe, prompt, arguments).spans
    text = count - (family.image_tokens(pipe.transformer, pipe, "cond") or 0)
    return tokens_in({i: span for i, span in spans.items() if i < text}, prompt)
