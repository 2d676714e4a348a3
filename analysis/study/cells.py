"""A cell is one video to make: a backbone, a sample, a seed and settings. A sweep is a grid of cells."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from safetensors import safe_open

import methods
from methods import FocalGuidance
from methods.core.block_lists import CALIBRATED
from methods.families import family_of_pipeline
from methods.registry import from_dict

from .benchmark_samples import load_samples
from .files import code_hash, content_key, folder_hash
from .parameters import Backbone, Parameters


@dataclass(frozen=True)
class Cell:
    """Everything that determines one video. `noise` seeds the initial noise: equal for the same sample and seed under
    every setting, so that settings are compared on the same noise. `steering` and `record` are JSON, "" for none, and
    `code` a hash of the programs that do them; `method` is the steering's name in params.yaml."""

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
        named = asdict(self)
        optional = ("steering", "record", "code")
        given = {k: v for k, v in named.items() if k not in ("backbone", "prompts", "method", *optional)}
        return content_key(given | {k: named[k] for k in optional if named[k]})


def weights_hash(name: str, backbone: Backbone) -> str:
    """Identifies a backbone's weights: a hash of the folder's files, or the hub name at a revision, and of the delta.
    Raises ValueError if one is missing, or if the delta was tuned from other weights."""
    if backbone.delta is not None:
        base, file = weights_hash(name, backbone.model_copy(update={"delta": None})), Path(backbone.delta)
        if not file.is_file():
            raise ValueError(f"backbone {name}: no delta at {file}; tune one with `python -m analysis tune-focal`")
        _check_weights(file, base, f"backbone {name}: the delta {file} was tuned from", backbone, "tune")
        return content_key({"checkpoint": base, "delta": _file_hash(file)})
    folder = Path(backbone.checkpoint)
    if (folder / "model_index.json").is_file():
        return folder_hash(folder)
    if folder.exists() or backbone.checkpoint.count("/") != 1:
        raise ValueError(
            f"backbone {name}: no checkpoint at {backbone.checkpoint} (model_index.json is missing); "
            "train it with `make train-testbed`, or give a hub name such as organisation/model"
        )
    if not backbone.revision:
        raise ValueError(
            f"backbone {name}: the hub checkpoint {backbone.checkpoint} needs a `revision` (a commit hash)"
        )
    return f"{backbone.checkpoint}@{backbone.revision}"


def donor_of(index: int, samples: list[dict]) -> int:
    """Whose prompt sample `index` gets when prompts are shuffled: one with another event, always the same one."""
    others = [i for i, s in enumerate(samples) if s["sub-category"] != samples[index]["sub-category"]]
    return others[(index * 7919 + 101) % len(others)]


def expand(parameters: Parameters, sweep_name: str) -> list[Cell]:
    """All cells of a sweep, in a fixed order: settings outermost, samples innermost. Raises ValueError for what the
    sweep cannot have, such as a method with an unknown setting."""
    if sweep_name not in parameters.sweeps:
        raise ValueError(f"unknown sweep {sweep_name!r}; params.yaml has {list(parameters.sweeps)}")
    sweep = parameters.sweeps[sweep_name]
    backbone = parameters.backbones[sweep.backbone]
    folder = parameters.benchmark.folder
    samples = load_samples(folder)
    if sweep.samples > len(samples):
        raise ValueError(f"sweeps.{sweep_name}.samples is {sweep.samples}; the benchmark has {len(samples)}")
    weights = weights_hash(sweep.backbone, backbone)
    sampler = content_key(backbone.model_dump(exclude={"checkpoint", "revision", "delta", "fps"}, exclude_none=True))
    if sweep.reference == "own":
        images = {(s["id"], seed): _file_hash(folder / s["image-path"]) for s in samples for seed in sweep.seeds}
    else:  # the first frame of another sweep's video of the same sample and seed
        images = {(c.sample, c.seed): c.key for c in expand(parameters, sweep.reference)}
    record = canonical(sweep.record.model_dump()) if sweep.record else ""
    # Raises for what is not a method or a setting of one.
    used_by = {method: [from_dict(settings) for settings in parameters.methods[method]] for method in sweep.methods}
    check_projections(sweep.backbone, backbone, weights, [m for used in used_by.values() for m in used])
    cells = []
    for method, scale, blur, seed in product(sweep.methods, sweep.guidance_scale, sweep.blur, sweep.seeds):
        steering, used = parameters.methods[method], used_by[method]
        code = program_hash(used, backbone.pipeline, recorded=bool(record)) if used or record else ""
        for i, sample in enumerate(samples[: sweep.samples]):
            prompt = sample["prompt"] if sweep.prompts == "own" else samples[donor_of(i, samples)]["prompt"]
            noise = int(np.frombuffer(hashlib.sha256(f"{sample['id']}/{seed}".encode()).digest()[:4], np.uint32)[0])
            if (sample["id"], seed) not in images:
                raise ValueError(f"sweeps.{sweep_name}: {sweep.reference} has no video of {sample['id']}, seed {seed}")
            cells.append(
                Cell(sweep.backbone, weights, sampler, sample["id"], images[sample["id"], seed], prompt, seed, noise,
                     scale, blur, sweep.prompts, method, canonical(steering) if steering else "", record, code)
            )  # fmt: skip
    return cells


def program_hash(used: list, pipeline: str, *, recorded: bool) -> str:
    """Hash of the code that steers with the methods `used` and records, of the calibrated blocks that a pipeline's models
    have, and of the projections that methods name: a changed method makes its videos anew. Raises ValueError for a
    projection that is missing."""
    names = [f"core/{n}" for n in ("log_sum_exp", "attention_call", "steer", "step_windows", "block_lists")]
    names += ["core/record"] if recorded else []
    names += ["focal_anchors/keywords"] if any(isinstance(m, FocalGuidance) for m in used) else []
    projections = _projections(used)
    names += ["focal_anchors/projection"] if projections else []
    files = {Path(methods.__file__).parent / f"{name}.py" for name in names}
    found = code_hash([*files, *{Path(inspect.getfile(type(m))) for m in used}])
    if any(getattr(m, "blocks", None) == "calibrated" for m in used):
        listed = [e for e in json.loads(CALIBRATED.read_text()) if e["family"] == family_of_pipeline(pipeline)]
        found = content_key({"code": found, "lists": [[e["count"], e["blocks"]] for e in listed]})
    if projections:
        found = content_key({"code": found, "projections": [_file_hash(file) for file in projections]})
    return found


def check_projections(name: str, backbone: Backbone, weights: str, used: list) -> None:
    """Raise ValueError for a method's projection that was trained with other weights than the backbone's of hash `weights`;
    a delta over them does not count."""
    files = _projections(used)
    base = weights
    if files and backbone.delta is not None:
        base = weights_hash(name, backbone.model_copy(update={"delta": None}))
    for file in files:
        _check_weights(file, base, f"backbone {name}: the projection {file} was trained with", backbone, "train")


def _check_weights(file: Path, base: str, made: str, backbone: Backbone, again: str) -> None:
    """Raise ValueError, beginning with `made`, if the metadata of a safetensors file name other weights than `base`."""
    with safe_open(file, "np") as f:
        weights = (f.metadata() or {}).get("weights")
    if weights != base:
        raise ValueError(
            f"{made} other weights ({weights}) than {backbone.checkpoint} has ({base}); {again} it anew with "
            "`python -m analysis tune-focal`"
        )


def _projections(used: list) -> list[Path]:
    """Files of the projections that methods name. Raises ValueError for one that is missing."""
    files = [Path(m.projection) for m in used if getattr(m, "projection", None) is not None]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(
            f"no projection at {missing[0]}; train it with `python -m analysis tune-focal --backbone NAME`, which writes "
            "<out>/<variant>-projection.safetensors"
        )
    return files


def canonical(settings) -> str:
    """JSON with sorted keys, so that equal settings are equal text."""
    return json.dumps(settings, sort_keys=True)


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"the reference image {path} is missing; run `python -m testbed benchmark`")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:20]
