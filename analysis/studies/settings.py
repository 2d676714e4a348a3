"""The settings of a backbone by the names of presets.yaml, and where params.yaml has them."""

from __future__ import annotations

import json
from pathlib import Path

from ..study.presets import OWN

# Setting -> path inside the backbone's entry. `scheduler` and `flow_shift` are written together, and `guidance_scale` and
# `seeds` are of the sweeps of the backbone.
PLACES = {
    **{k: (k,) for k in ("checkpoint", "revision", "delta", "steps", "frames", "width", "height", "fps", "fit", "dtype",
                         "negative_prompt", "max_sequence_length", "pipeline")},
    "vae_dtype": ("load", "dtype", "vae"),
    "offload": ("load", "offload"),
    "tiling": ("load", "tiling"),
    "compile": ("load", "compile"),
    "attention_backend": ("load", "attention_backend"),
    "scheduler": ("load", "scheduler", "name"),
    "flow_shift": ("load", "scheduler", "arguments"),
    "sampling_type": ("call", "sampling_type"),
    "true_cfg_scale": ("call", "true_cfg_scale"),
    "num_frames": ("call", "num_frames"),
}  # fmt: skip
CALL = "call."  # any other argument of the pipeline's call
OF_SWEEPS = ("guidance_scale", "seeds", "samples")


def shift_argument(scheduler: str | None, checkpoint: Path | None) -> str:
    """What the flow shift is called in a scheduler's configuration: `shift` of FlowMatchEulerDiscreteScheduler and its like,
    `flow_shift` of UniPC and its like. Where the checkpoint's own scheduler is used, a local checkpoint says which it is."""
    if scheduler is None and checkpoint is not None:
        file = checkpoint / "scheduler/scheduler_config.json"
        if file.is_file():
            found = json.loads(file.read_text())
            return next((k for k in ("flow_shift", "shift") if k in found), "flow_shift")
    return "shift" if scheduler is not None and scheduler.startswith("FlowMatch") else "flow_shift"


def put(document: dict, backbone: str, key: str, value, folder: Path) -> None:
    """Write a setting of a backbone into a params.yaml's mapping; `own` takes it out, so that the pipeline's own is used.
    None leaves it to be stated. `folder` is what a checkpoint's path is relative to.

    Raises ValueError for a setting that there is not, and for `own` where a video needs a value.
    """
    entry = document["backbones"][backbone]
    if key in OF_SWEEPS:
        if value == OWN:
            raise ValueError(f"{key} cannot be left to the pipeline")
        for sweep in (s for s in document["sweeps"].values() if s["backbone"] == backbone):
            sweep[key] = _for_sweep(key, value)
        return
    if key.startswith(CALL) and key != CALL:
        call = entry.setdefault("call", type(entry)())
        call[key.removeprefix(CALL)] = value
        return
    if key not in PLACES:
        known = ", ".join([*PLACES, *OF_SWEEPS])
        raise ValueError(f"unknown setting {key!r}; there are {known}, and call.NAME for the pipeline's call")
    if key in ("scheduler", "flow_shift"):
        return _put_scheduler(entry, key, value, folder)
    *parents, last = PLACES[key]
    for name in parents:
        entry = entry.setdefault(name, type(entry)())
    if value == OWN and key in (
        "sampling_type",
        "true_cfg_scale",
        "max_sequence_length",
        "fit",
        "revision",
        "vae_dtype",
        "compile",
        "attention_backend",
    ):
        entry.pop(last, None)
        return
    if value == OWN:
        raise ValueError(f"{key} cannot be left to the pipeline")
    if key == "checkpoint" and (before := get(document, backbone, "flow_shift")) is not None:
        entry[last] = value
        return _put_scheduler(entry, "flow_shift", before, folder)  # whose name depends on the checkpoint's scheduler
    entry[last] = {"policy": "bucket"} if (key, value) == ("fit", "bucket") else value


def _for_sweep(key: str, value):
    if value is None or isinstance(value, list):
        return value
    if key == "seeds":
        return list(range(value))
    return [value] if key == "guidance_scale" else value


def _put_scheduler(entry: dict, key: str, value, folder: Path) -> None:
    load = entry.setdefault("load", type(entry)())
    before = load.get("scheduler") or {}
    arguments = dict(before.get("arguments") or {})
    name = before.get("name", OWN) if "scheduler" in load else OWN
    shift = next((arguments.pop(k) for k in ("flow_shift", "shift") if k in arguments), OWN)
    if key == "scheduler":
        name = value
    else:
        shift = value
    checkpoint = entry.get("checkpoint")
    argument = shift_argument(None if name in (OWN, None) else name, folder / checkpoint if checkpoint else None)
    if shift != OWN:
        arguments[argument] = shift
    made = ({} if name == OWN else {"name": name}) | ({"arguments": arguments} if arguments else {})
    load.pop("scheduler", None)
    if made:
        load["scheduler"] = type(entry)(made)
    if not load:
        del entry["load"]


def comment(document, backbone: str, key: str, text: str) -> None:
    """Put a comment beside a setting, in place of what stands there; nothing where the setting is not in the file."""
    if key in OF_SWEEPS:
        for sweep in (s for s in document["sweeps"].values() if s["backbone"] == backbone):
            sweep.yaml_add_eol_comment(text, key)
        return
    entry = document["backbones"][backbone]
    *parents, last = PLACES.get(key) or key.split(".", 1)
    for name in parents:
        entry = entry.get(name, {})
    if last in entry:
        entry.ca.items.pop(last, None)
        entry.yaml_add_eol_comment(text, last)


def get(document: dict, backbone: str, key: str):
    """A setting as it stands in a params.yaml's mapping; None if it has to be stated or is the pipeline's own."""
    entry = document["backbones"][backbone]
    if key in OF_SWEEPS:
        return next((s.get(key) for s in document["sweeps"].values() if s["backbone"] == backbone), None)
    for name in PLACES[key]:
        entry = (entry or {}).get(name)
    if key == "flow_shift":
        return next(iter((entry or {}).values()), None)
    return entry


def setting_of(path: str) -> tuple[str, str]:
    """(backbone or sweep, setting) of a path such as `backbones.framepack.load.dtype.vae`, by the setting's name here."""
    section, rest = path.split(".", 1)
    for key, place in PLACES.items():
        tail = "." + ".".join(place)
        if rest.endswith((tail, f"{tail}.shift", f"{tail}.flow_shift") if key == "flow_shift" else tail):
            name = rest[: rest.rindex(tail)]
            if section == "backbones" and name:
                return name, key
    name, _, key = rest.rpartition(".")
    return name or section, key
