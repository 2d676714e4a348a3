"""Height, width, frames and frame rate: what is allowed for a checkpoint, and what is taken where nothing is said."""

from __future__ import annotations

import math

from .checkpoint import Checkpoint
from .numbers import number, whole

# What the pipelines of a stem refuse sizes by, in pixels, whatever the model needs; read in diffusers 0.42.1.
DIVISOR = {"LTX": 32, "CogVideoX": 8, "": 16}
# Frame rates of the examples in the pipelines' own docstrings (diffusers 0.42.1); the longest stem that fits.
FPS = {
    "Wan": 16, "CogVideoX": 8, "ConsisID": 8, "HunyuanVideo": 15, "HunyuanVideo15ImageToVideo": 24, "HunyuanSkyreels": 15,
    "HunyuanVideoFramepack": 30, "LTX": 24, "SkyReelsV2": 24, "Kandinsky5": 24, "ChronoEdit": 16, "Cosmos2": 16, "Helios": 24,
    "Motif": 24, "SanaImageToVideo": 16, "EasyAnimate": 8,
}  # fmt: skip


def by_stem(table: dict, pipeline: str):
    """The entry of the longest stem that a pipeline's name begins with; None if there is none."""
    fits = [stem for stem in table if pipeline.startswith(stem)]
    return table[max(fits, key=len)] if fits else None


def pixel_multiple(checkpoint: Checkpoint) -> int:
    """What height and width must be multiples of: pixels per token, and what the pipeline itself asks for."""
    return math.lcm(checkpoint.compression[1] * checkpoint.patch[1], by_stem(DIVISOR, checkpoint.pipeline.__name__))


def default_size(checkpoint: Checkpoint, side: str) -> tuple[int | None, str]:
    """(pixels, where they come from) of "height" or "width"; (None, ...) for a pipeline that has no such argument."""
    if side not in checkpoint.call:
        return None, "the pipeline's choice"
    latent = checkpoint.config("transformer").get(f"sample_{side}")
    if latent:
        return latent * checkpoint.compression[1], "from the checkpoint"
    return checkpoint.call[side].default, "the pipeline's default"


def plan_size(checkpoint: Checkpoint, options, lines: list[str]) -> tuple[int, int] | None:
    """(height, width), or None where the pipeline chooses it itself. Raises ValueError for a size that cannot be made."""
    name, sizes, said = checkpoint.pipeline.__name__, {}, []
    for side in ("height", "width"):
        given = whole(f"--{side}", getattr(options, side), 1)
        default, source = default_size(checkpoint, side)
        if default is None:
            if given is not None:
                raise ValueError(
                    f"--{side} {given}: {name} chooses the size itself, by the image's shape; leave it out"
                )
            continue
        sizes[side] = given or default
        said.append("as asked" if given else source)
    if not sizes:
        lines.append(f"size: chosen by {name}, by the image's shape")
        return None
    _check_rotary(checkpoint, options, sizes)
    multiple = pixel_multiple(checkpoint)
    for side, value in sizes.items():
        if value % multiple:
            near = [n for n in (value // multiple * multiple, (value // multiple + 1) * multiple) if n]
            raise ValueError(
                f"--{side} {value}: it must be a multiple of {multiple}, such as {' or '.join(map(str, near))}"
            )
    trained = {side: default_size(checkpoint, side)[0] for side in sizes}
    if checkpoint.config("transformer").get("use_learned_positional_embeddings") and sizes != trained:
        raise ValueError(
            f"--height {sizes['height']} --width {sizes['width']}: this model learned its positions for "
            f"{trained['height']} x {trained['width']} and makes no other size"
        )
    lines.append(f"size {sizes['height']} x {sizes['width']} (height {said[0]}, width {said[1]})")
    return sizes["height"], sizes["width"]


def _check_rotary(checkpoint: Checkpoint, options, sizes: dict) -> None:
    """Wan's positions are a table of `rope_max_seq_len` rows; a longer side ends in an error about shapes."""
    longest = checkpoint.config("transformer").get("rope_max_seq_len")
    pixels = checkpoint.compression[1] * checkpoint.patch[1]
    for side, value in sizes.items():
        if not longest or value // pixels <= longest:
            continue
        where = f"{value} pixels are {value // pixels} rows of tokens, and its table of positions has {longest}"
        if getattr(options, side) is not None:
            raise ValueError(f"--{side} {value}: {where}; at most {longest * pixels}")
        missing = [f"--{s}" for s in ("height", "width", "frames") if getattr(options, s) is None]
        raise ValueError(
            f"the model cannot make a video of the pipeline's default size ({side}: {where}); "
            f"give the size that it was trained on: {', '.join(missing)}"
        )


def plan_frames(checkpoint: Checkpoint, options, call: dict, lines: list[str]) -> int:
    """Frames of the video; `call` gets the argument that makes as many. Raises ValueError for a number that cannot be made."""
    given = whole("--frames", options.frames, 1)
    config, default = checkpoint.config("transformer"), checkpoint.call["num_frames"].default
    frames, source = (
        (given, "as asked") if given else (config.get("sample_frames") or default, "the pipeline's default")
    )
    if given is None and config.get("sample_frames"):
        source = "from the checkpoint"
    if frames is None:
        raise ValueError("--frames: this pipeline has no default; say how many")
    if "latent_window_size" in checkpoint.call:
        return _framepack_frames(checkpoint, given, frames, call, lines)
    every, longest = checkpoint.compression[0], config.get("rope_max_seq_len")
    if frames % every != 1 % every:
        low = (frames - 1) // every * every + 1
        raise ValueError(f"--frames {frames}: it must be {every}k + 1, such as {low} or {low + every}")
    if longest and (frames - 1) // every >= longest:
        raise ValueError(f"--frames {frames}: the model's table of positions ends at {(longest - 1) * every + 1}")
    call["num_frames"] = frames
    lines.append(f"frames {frames} ({source})")
    return frames


def _framepack_frames(checkpoint: Checkpoint, given: int | None, frames: int, call: dict, lines: list[str]) -> int:
    """FramePack makes whole sections: of num_frames it makes as many sections as their windows without overlap need."""
    window, every = (
        call.get("latent_window_size", checkpoint.call["latent_window_size"].default),
        checkpoint.compression[0],
    )
    window = whole("--set latent_window_size", window, 1)
    shown, made = (window - 1) * every + 1, window * every
    if given is None:
        sections = max(1, -(-frames // shown))
    else:
        sections = (given - 1) // made
        if given != sections * made + 1 or not sections:
            low = max(1, sections) * made + 1
            raise ValueError(
                f"--frames {given}: FramePack makes sections of {made} frames, so {made}k + 1, such as {low} or {low + made}"
            )
    call["num_frames"] = sections * shown
    source = "as asked" if given else f"{frames} by default, in whole sections"
    lines.append(f"frames {sections * made + 1} in {sections} sections ({source})")
    return sections * made + 1


def plan_fps(checkpoint: Checkpoint, options, call: dict, lines: list[str]) -> float:
    """Frames per second of the file; models that are told the rate (LTX) get it as well. Raises ValueError."""
    name = checkpoint.pipeline.__name__
    fps, source = number("--fps", options.fps, above=0), "as asked"
    if fps is None and "frame_rate" in checkpoint.call:
        fps, source = checkpoint.call["frame_rate"].default, "the pipeline's default"
    elif fps is None:
        fps, source = by_stem(FPS, name), f"that of diffusers' example for {name}; the checkpoint does not say"
    if fps is None:
        raise ValueError(f"--fps: nothing says the frame rate of {name}; give it")
    if "frame_rate" in checkpoint.call:
        call["frame_rate"] = fps
    lines.append(f"fps {fps:g} ({source})")
    return fps
