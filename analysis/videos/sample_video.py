"""One video of a cell: the reference as the backbone is given it, the pipeline's call, and what came out checked."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from methods import blur_image, record, steer
from methods.core.record import Recording
from methods.registry import from_dict

from ..study.backbone_settings import Backbone
from ..study.cells import Cell
from ..study.image_fit import fit_image, open_reference
from ..study.input_edits import edit_reference, negative_prompt, split
from .load_backbone import call_arguments, load_pipeline, takes_image


@dataclass(frozen=True)
class Reference:
    """A reference at the size of the video: before it is blurred, and what was done to the file's image, "" for nothing."""

    image: Image.Image
    fit: str


def open_fitted(path: Path, backbone: Backbone) -> Reference:
    """The reference, an image or a video's first frame, upright and fitted. Raises ValueError that names the file for an
    image that cannot be read, or of another size where `fit` is exact."""
    image, turned = open_reference(path)
    try:
        fitted, done = fit_image(image, backbone)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from None
    return Reference(fitted, "; ".join(filter(None, (turned, done))))


def blurred(image: Image.Image, sigma: float) -> Image.Image:
    """The image blurred by `sigma` pixels."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
    return Image.fromarray(blur_image(pixels, sigma).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def reference_image(path: Path, backbone: Backbone, sigma: float) -> Image.Image:
    """The reference as a pipeline is given it: upright, fitted, and blurred by `sigma` pixels. Raises ValueError, see
    `open_fitted`."""
    return blurred(open_fitted(path, backbone).image, sigma)


def sample_video(cell: Cell, backbone: Backbone, image_path: Path) -> tuple[np.ndarray, Recording | None]:
    """One video, uint8 (T, H, W, 3), as the pipeline makes it, and what was recorded of its attention."""
    reference = open_fitted(image_path, backbone) if needs_image(backbone) else None
    return sample_fitted(cell, backbone, reference)


def needs_image(backbone: Backbone) -> bool:
    """Whether a cell's reference is opened: for the pipeline, or for its size."""
    return takes_image(backbone) or backbone.fit != "exact"


def sample_fitted(cell: Cell, backbone: Backbone, reference: Reference | None) -> tuple[np.ndarray, Recording | None]:
    """`sample_video` of a reference that is open; None where `needs_image` is false.

    Raises ValueError if the model cannot make videos of this length or size, or made another one than asked for, and
    FloatingPointError if it is not finite.
    """
    pipe = load_pipeline(backbone)
    inputs = pipeline_inputs(pipe, cell, backbone, reference)
    methods = [from_dict(settings) for settings in split(json.loads(cell.steering or "[]"))[1]]
    recorder = record(pipe, **json.loads(cell.record)) if cell.record else nullcontext()
    with steer(pipe, *methods), recorder as recording, torch.inference_mode():
        frames = pipe(**inputs).frames[0]
    if not np.isfinite(frames).all():
        raise FloatingPointError("the pipeline returned values that are not finite")
    width, height = size_of(backbone, reference)
    if frames.shape != (backbone.frames, height, width, 3):
        t, h, w = frames.shape[:3]
        raise ValueError(
            f"the pipeline made {t} frames of {w}x{h}; {backbone.frames} of {width}x{height} were expected. `frames` is how "
            "many come out; `call: {num_frames: ...}` is how many are asked for"
        )
    return (frames * 255).round().clip(0, 255).astype(np.uint8), recording


def size_of(backbone: Backbone, reference: Reference | None) -> tuple[int, int]:
    """(width, height) of the video."""
    return (backbone.width, backbone.height) if reference is None else reference.image.size


def pipeline_inputs(pipe, cell: Cell, backbone: Backbone, reference: Reference | None) -> dict:
    """The arguments of the pipeline's call for a cell. Raises ValueError if the model cannot make videos of this size.

    Guidance of a pipeline that has a guider in the place of an argument is set there. HunyuanVideo's `guidance_scale` is an
    input of models that were distilled with guidance: others ignore it, and are guided by `true_cfg_scale`.
    """
    generator = torch.Generator().manual_seed(cell.noise)
    accepted, (width, height) = call_arguments(type(pipe)), size_of(backbone, reference)
    edits, _ = split(json.loads(cell.steering or "[]"))
    avoided = negative_prompt(edits, backbone.negative_prompt)
    if avoided != backbone.negative_prompt and cell.guidance_scale <= 1:
        raise ValueError(
            f"guidance {cell.guidance_scale:g} has no unconditional branch: the negative prompt {avoided!r} is unused"
        )
    _check_size(pipe, backbone, accepted, width, height)
    inputs = {"prompt": cell.prompt, "negative_prompt": avoided, "height": height, "width": width,
              "num_frames": backbone.frames, "num_inference_steps": backbone.steps, "guidance_scale": cell.guidance_scale,
              "generator": generator, "output_type": "np"}  # fmt: skip
    if avoided and "negative_prompt" not in accepted:
        raise ValueError(f"a {type(pipe).__name__} takes no negative prompt; this one is {avoided!r}")
    inputs = {name: value for name, value in inputs.items() if name in accepted}
    if "true_cfg_scale" in accepted and not pipe.transformer.config.guidance_embeds:
        inputs["true_cfg_scale"] = inputs.pop("guidance_scale")
        if (own := backbone.call.get("true_cfg_scale", cell.guidance_scale)) != cell.guidance_scale:
            raise ValueError(
                f"true_cfg_scale is this model's guidance: it is {own:g} in `call`, and the guidance scale is "
                f"{cell.guidance_scale:g}; give the latter alone"
            )
    elif "guidance_scale" not in accepted:
        if getattr(pipe, "guider", None) is None:
            raise ValueError(f"a {type(pipe).__name__} takes no guidance scale")
        pipe.guider = pipe.guider.new(guidance_scale=cell.guidance_scale)
    if "image" in accepted:
        inputs["image"] = blurred(edit_reference(reference.image, edits), cell.blur)
    elif any(edit["input"] != "negative_prompt" for edit in edits):
        raise ValueError(f"a {type(pipe).__name__} takes no image; {edits[0]} would edit it")
    if backbone.max_sequence_length is not None:
        inputs["max_sequence_length"] = backbone.max_sequence_length
    if backbone.pipeline.startswith("CogVideoX"):
        inputs["latents"] = initial_noise(pipe, backbone, generator, width, height)
    return inputs | backbone.call


def _check_size(pipe, backbone: Backbone, accepted: list[str], width: int, height: int) -> None:
    asked, every = backbone.call.get("num_frames", backbone.frames), getattr(pipe, "vae_scale_factor_temporal", 1)
    if "latent_window_size" in accepted:  # FramePack makes whole sections, and the reference's frame before them
        window = backbone.call.get(
            "latent_window_size", inspect.signature(pipe.__call__).parameters["latent_window_size"].default
        )
        sections = max(1, -(-asked // ((window - 1) * every + 1)))
        if backbone.frames != (made := sections * window * every + 1):
            raise ValueError(
                f"frames is {backbone.frames}; {asked} asked for come out as {made}: set `frames: {made}`, and "
                "`call: {num_frames: ...}` to what is asked for"
            )
    elif "num_frames" not in backbone.call and (backbone.frames - 1) % every:
        low = (backbone.frames - 1) // every * every + 1
        raise ValueError(
            f"frames is {backbone.frames}; the model makes 1 + a multiple of {every}: {low} or {low + every}"
        )
    if "height" not in accepted and hasattr(pipe, "target_size"):  # it goes by the image, and has sizes of its own
        h, w = pipe.video_processor.calculate_default_height_width(height, width, pipe.target_size)
        if (w, h) != (width, height):
            raise ValueError(f"the video would be {w}x{h}, not {width}x{height}: set `width: {w}` and `height: {h}`")


def initial_noise(pipe, backbone: Backbone, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
    """The noise (1, F, C, H, W) that a CogVideoX video starts from. Left to itself the image-to-video pipeline draws the
    reference's latent first, and would start from other noise than its text-to-video twin."""
    frames = (backbone.frames - 1) // pipe.vae_scale_factor_temporal + 1
    together = pipe.transformer.config.patch_size_t or 1  # CogVideoX-1.5 makes more frames, and drops the first
    frames = -(-frames // together) * together
    scale = pipe.vae_scale_factor_spatial
    size = (1, frames, pipe.transformer.config.out_channels, height // scale, width // scale)
    dtype = getattr(torch, backbone.load.dtype.get("transformer", backbone.dtype))
    noise = torch.randn(size, generator=generator, dtype=dtype)
    return noise.to(pipe._execution_device)
