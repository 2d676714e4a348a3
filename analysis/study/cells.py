"""A cell is one video to make: a backbone, a sample, a seed and settings. A sweep is a grid of cells."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from itertools import product

from .benchmark_samples import load_samples
from .files import content_key
from .input_edits import check_edit, split
from .parameters import Parameters
from .video_key import canonical, check_projections, file_hash, program_hash, weights_hash


@dataclass(frozen=True)
class Cell:
    """Everything that determines one video. `noise` seeds the initial noise: equal for the same sample and seed under
    every setting, so that settings are compared on the same noise. `steering` and `record` are JSON, "" for none, and
    `code` a hash of the programs that do them and blur the reference; `method` is the steering's name in params.yaml."""

    backbone: str
    weights: str
    sampler: str
    sample: str
    image: str
    prompt: str
    seed: int
    noise: int
    guidance_scale: float
    blur: float
    prompts: str
    method: str = "none"
    steering: str = ""
    record: str = ""
    code: str = ""

    @property
    def key(self) -> str:
        """What the video is called: 20 hexadecimal digits of a hash of all that determines its pixels, names left out."""
        named = asdict(self)
        optional = ("steering", "record", "code")
        given = {k: v for k, v in named.items() if k not in ("backbone", "prompts", "method", *optional)}
        return content_key(given | {k: named[k] for k in optional if named[k]})


def donor_of(index: int, samples: list[dict]) -> int:
    """Whose prompt sample `index` gets when prompts are shuffled: one with another event, always the same one."""
    others = [i for i, s in enumerate(samples) if s["sub-category"] != samples[index]["sub-category"]]
    return others[(index * 7919 + 101) % len(others)]


def check_methods(parameters: Parameters, sweep_name: str) -> None:
    """Raise ValueError for a method of a sweep, or a setting of one, that does not exist or is refused."""
    from methods.registry import from_dict  # loads torch, which takes longer than all the rest of this file

    for method in parameters.sweeps[sweep_name].methods:
        edits, steered = split(parameters.methods[method])
        for edit in edits:
            check_edit(edit)
        for settings in steered:
            from_dict(settings)


def expand(parameters: Parameters, sweep_name: str, *, checked: bool = True) -> list[Cell]:
    """All cells of a sweep, in a fixed order: settings outermost, samples innermost. Raises ValueError for what the
    sweep cannot have, such as a method with an unknown setting; `checked` is False where only the keys are wanted."""
    if sweep_name not in parameters.sweeps:
        raise ValueError(f"unknown sweep {sweep_name!r}; params.yaml has {list(parameters.sweeps)}")
    if checked:
        check_methods(parameters, sweep_name)
    sweep = parameters.sweeps[sweep_name]
    backbone = parameters.backbones[sweep.backbone]
    samples = load_samples(parameters.benchmark_of(sweep_name).folder)
    chosen = [i for i, s in enumerate(samples) if s["main-category"] in sweep.categories or not sweep.categories]
    if sweep.samples > len(chosen):
        of = f" of {', '.join(sweep.categories)}" if sweep.categories else ""
        raise ValueError(f"sweeps.{sweep_name}.samples is {sweep.samples}; the benchmark has {len(chosen)}{of}")
    chosen = chosen[: sweep.samples]
    weights = weights_hash(sweep.backbone, backbone)
    sampler = content_key(backbone.sampler())
    images = _images(parameters, sweep_name, [samples[i] for i in chosen])
    record = canonical(sweep.record.model_dump()) if sweep.record else ""
    check_projections(sweep.backbone, backbone, weights, [s for m in sweep.methods for s in parameters.methods[m]])
    cells = []
    for method, scale, blur, seed in product(sweep.methods, sweep.guidance_scale, sweep.blur, sweep.seeds):
        steering, code = parameters.methods[method], ""
        if steering or record or blur:
            code = program_hash(steering, backbone.pipeline, blurred=blur > 0)
        for i in chosen:
            sample = samples[i]
            prompt = sample["prompt"] if sweep.prompts == "own" else samples[donor_of(i, samples)]["prompt"]
            noise = int.from_bytes(hashlib.sha256(f"{sample['id']}/{seed}".encode()).digest()[:4], "little")
            if (sample["id"], seed) not in images:
                raise ValueError(f"sweeps.{sweep_name}: {sweep.reference} has no video of {sample['id']}, seed {seed}")
            cells.append(
                Cell(sweep.backbone, weights, sampler, sample["id"], images[sample["id"], seed], prompt, seed, noise,
                     scale, blur, sweep.prompts, method, canonical(steering) if steering else "", record, code)
            )  # fmt: skip
    return cells


def _images(parameters: Parameters, sweep_name: str, samples: list[dict]) -> dict[tuple[str, int], str]:
    """(sample, seed) -> what identifies the reference: a hash of the image, or the key of the video it is the first frame
    of. Raises ValueError for an image that is missing."""
    sweep = parameters.sweeps[sweep_name]
    if sweep.reference != "own":
        return {(c.sample, c.seed): c.key for c in expand(parameters, sweep.reference, checked=False)}
    files = {s["id"]: parameters.benchmark_of(sweep_name).folder / s["image-path"] for s in samples}
    if missing := [file for file in files.values() if not file.is_file()]:
        raise ValueError(f"the reference image {missing[0]} is missing; run `python -m testbed benchmark`")
    return {(sample, seed): file_hash(file) for sample, file in files.items() for seed in sweep.seeds}
