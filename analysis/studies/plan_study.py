"""`study plan`: how many videos, steps, GPU hours and gigabytes a study needs. Seconds per step are measured or stated, never guessed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..study.backbone_settings import Backbone
from ..study.benchmark_samples import load_samples
from ..study.image_fit import fitted_size, open_reference
from ..study.parameters import Parameters
from ..videos.records import VideoState, sweep_states

# Bytes of a lossless file per byte of its pixels, where a study has no video yet to go by: 22 MB were measured for one clip
# of 81 frames of 512x768. A noisy clip takes more, up to 1.
LOSSLESS = 22e6 / (81 * 512 * 768 * 3)
WINDOW = 9  # latent frames that FramePack makes at once, by diffusers' default


@dataclass(frozen=True)
class Cost:
    """What is left to do of a sweep. `steps` are denoising steps of one video, with all passes of guidance; `seconds` are per
    step, None if not known; `pixels` of all frames of the missing videos; `bytes_per_pixel` of the files."""

    sweep: str
    backbone: str
    videos: int
    missing: int
    steps: int
    seconds: float | None
    source: str
    gigabytes: float

    @property
    def hours(self) -> float | None:
        """GPU hours of the missing videos, without loading the model."""
        return None if self.seconds is None else self.missing * self.steps * self.seconds / 3600


def sections_of(backbone: Backbone) -> int:
    """How often the steps of a backbone are gone through for one video."""
    return sections(backbone.pipeline, backbone.frames, backbone.call)


def sections(pipeline: str, frames: int, call: dict) -> int:
    """FramePack makes its video in sections, as diffusers counts them; all others make it in one."""
    if "Framepack" not in pipeline:
        return 1
    window = call.get("latent_window_size") or WINDOW
    return max(1, math.ceil((call.get("num_frames") or frames) / ((window - 1) * 4 + 1)))


def plan_study(
    parameters: Parameters,
    seconds: dict[str, float] | None = None,
    states: Callable[[Parameters, str], list[VideoState]] = sweep_states,
) -> list[Cost]:
    """The cost of every sweep, in the study's folder. `seconds` per step are stated by backbone; else those of the videos that
    are there are taken. Raises ValueError for a backbone that there is not, and seconds that are none."""
    if unknown := set(seconds or {}) - set(parameters.backbones):
        raise ValueError(
            f"seconds per step of {sorted(unknown)[0]!r}: no such backbone; there are {', '.join(parameters.backbones)}"
        )
    if bad := {b: s for b, s in (seconds or {}).items() if not 0 < s < math.inf}:
        raise ValueError(
            f"seconds per step of {next(iter(bad))} are {next(iter(bad.values()))}; a positive number is wanted"
        )
    found = []
    for name, sweep in parameters.sweeps.items():
        backbone, all_states = parameters.backbones[sweep.backbone], states(parameters, name)
        steps = backbone.steps * sections_of(backbone)
        left = [s for s in all_states if s.state != "ok"]
        made = [s.record for s in all_states if s.state == "ok" and s.record and s.record.seconds]
        given, source = (seconds or {}).get(sweep.backbone), "stated"
        if given is None and made:
            given = sum(r.seconds for r in made) / len(made) / steps
            source = f"measured on {len(made)} videos, {', '.join(sorted({r.device for r in made if r.device}))}"
        found.append(Cost(name, sweep.backbone, len(all_states), len(left), steps, given, source if given else "not known",
                          _bytes(parameters, name, left, all_states) / 1e9))  # fmt: skip
    return found


def disk_needed(parameters: Parameters) -> float:
    """Bytes of all videos that are missing."""
    return sum(cost.gigabytes for cost in plan_study(parameters)) * 1e9


def _bytes(parameters: Parameters, sweep: str, left: list[VideoState], states: list[VideoState]) -> float:
    backbone = parameters.backbones[parameters.sweeps[sweep].backbone]
    made = [s.record for s in states if s.state == "ok" and s.record and s.record.bytes and s.record.frames]
    rate = LOSSLESS
    if made:
        rate = sum(r.bytes for r in made) / sum(r.frames * r.height * r.width * 3 for r in made)
    sizes = video_sizes(parameters.benchmark_of(sweep).folder, backbone)
    return sum(rate * 3 * backbone.frames * math.prod(sizes[s.cell.sample]) for s in left)


def video_sizes(folder: Path, backbone: Backbone) -> dict[str, tuple[int, int]]:
    """(width, height) of the video of each sample of a benchmark. An image that does not fit counts with the backbone's own
    size."""
    own = backbone.width, backbone.height
    if backbone.fit in ("exact", "crop", "pad"):
        return {s["id"]: own for s in load_samples(folder)}
    return {s["id"]: _fitted(folder / s["image-path"], backbone) or own for s in load_samples(folder)}


def _fitted(path: Path, backbone: Backbone) -> tuple[int, int] | None:
    try:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
            with Image.open(path) as image:  # its header alone
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return fitted_size(*(image.size[::-1] if turned else image.size), backbone)
        return fitted_size(*open_reference(path)[0].size, backbone)
    except (OSError, ValueError):
        return None


def plan_lines(costs: list[Cost], gpus: int) -> list[str]:
    """The plan in words, one line a sweep and one for all."""
    if gpus < 1:
        raise ValueError(f"--gpus is {gpus}; at least 1 is wanted")
    lines = [
        f"{c.sweep}: {c.videos} videos, {c.missing} to make, {c.steps} steps each, "
        + (
            f"{c.seconds:.3g} s a step ({c.source}): {c.hours:.4g} GPU hours"
            if c.seconds
            else "seconds per step not known"
        )
        + f", {c.gigabytes:.3g} GB"
        for c in costs
    ]
    known = [c.hours for c in costs if c.missing]
    total, disk = sum(h for h in known if h is not None), sum(c.gigabytes for c in costs)
    if None in known:
        lines.append(
            f"in all {sum(c.missing for c in costs)} videos, {disk:.3g} GB; state --seconds-per-step S, or --measure 1"
        )
    else:
        lines.append(f"in all {sum(c.missing for c in costs)} videos: {total:.4g} GPU hours, {total / gpus:.4g} hours on {gpus} "
                     f"GPUs if they share evenly, {disk:.3g} GB; loading the models is not counted")  # fmt: skip
    return lines


def read_seconds(given: list[str], backbones: list[str]) -> dict[str, float]:
    """{backbone: seconds per step} of `18.4` (for all) and `BACKBONE=18.4`. Raises ValueError for anything else."""
    found = {}
    for text in sorted(given, key=lambda t: "=" in t):  # what is said of one backbone counts
        name, _, number = text.rpartition("=")
        try:
            found |= dict.fromkeys([name] if name else backbones, float(number))
        except ValueError:
            raise ValueError(f"--seconds-per-step {text}: a number, or BACKBONE=number") from None
    return found
