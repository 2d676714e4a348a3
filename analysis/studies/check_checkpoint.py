"""Is a checkpoint on this machine, whole, and of the pipeline that the study names? Nothing of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..study.backbone_settings import Backbone
from .findings import Finding
from .plan_study import WINDOW, sections

INDEX = "model_index.json"
# Suffixes of files with weights in a part's folder; the pipelines here are loaded from safetensors alone.
WEIGHTS, PICKLED = ".safetensors", (".bin", ".pt", ".ckpt")
UNWEIGHTED = ("Scheduler", "Tokenizer", "ImageProcessor", "FeatureExtractor", "Processor", "Guidance")


def local_folder(backbone: Backbone) -> Path | None:
    """Where the checkpoint lies: its folder, or its snapshot in the cache of huggingface_hub; None if it is not there."""
    if (Path(backbone.checkpoint) / INDEX).is_file():
        return Path(backbone.checkpoint)
    if Path(backbone.checkpoint).exists() or backbone.checkpoint.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(backbone.checkpoint, INDEX, revision=backbone.revision)
    except ValueError:  # no valid name of a repository
        return None
    return Path(found).parent if isinstance(found, str) else None


def checkpoint_findings(name: str, backbone: Backbone, asked: Collection[tuple[str, str]] = ()) -> list[Finding]:
    """What is wrong with the checkpoint of a backbone, or how large it is. asked: settings that have to be stated still."""
    is_hub = not Path(backbone.checkpoint).exists() and backbone.checkpoint.count("/") == 1
    found = []
    if is_hub and not backbone.revision:
        found.append(Finding("blocks", name, f"the hub name {backbone.checkpoint} has no revision, so its weights may change: "
                             f"state it as `--checkpoint {backbone.checkpoint}@REVISION`"))  # fmt: skip
    folder = local_folder(backbone)
    if folder is None:
        how = (
            f"; get it with `hf download {backbone.checkpoint} --revision {backbone.revision or 'REVISION'}`"
            if is_hub
            else ""
        )
        return [*found, Finding("blocks", name, f"the checkpoint {backbone.checkpoint} is not on this machine{how}")]
    try:
        index = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        return [*found, Finding("blocks", name, f"{folder / INDEX} cannot be read: {error}")]
    if index.get("_class_name") != backbone.pipeline:
        found.append(
            Finding(
                "blocks",
                name,
                f"{backbone.checkpoint} is a {index.get('_class_name')}, the study says {backbone.pipeline}",
            )
        )
    size = 0
    for part, (_, kind) in ((k, v) for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1]):
        problem, own = _part(folder / part, kind)
        size += own
        found += [Finding("blocks", name, f"{backbone.checkpoint}: {problem}")] if problem else []
    found += _scheduler(name, backbone, folder) + ([] if (name, "frames") in asked else _length(name, backbone, folder))
    if not any(f.level == "blocks" for f in found):
        found.append(Finding("fine", name, f"{backbone.checkpoint} is there, {size / 1e9:.3g} GB of weights"))
        found += _memory(name, backbone, size)
    return found


def _part(folder: Path, kind: str) -> tuple[str, int]:
    """(what is wrong with a part, "" for nothing; bytes of its weights)."""
    if not folder.is_dir():
        return f"its part {folder.name} ({kind}) is missing", 0
    if any(word in kind for word in UNWEIGHTED):
        return "", 0
    files = sorted(folder.glob(f"*{WEIGHTS}"))
    for index in folder.glob(f"*{WEIGHTS}.index.json"):
        named = set(json.loads(index.read_text()).get("weight_map", {}).values())
        if gone := sorted(named - {f.name for f in files}):
            return f"{len(gone)} of {len(named)} files of {folder.name} are missing, the first is {gone[0]}", 0
    if not files:
        pickled = [f.name for f in folder.iterdir() if f.suffix in PICKLED]
        why = f"; {pickled[0]} is pickled and is not read" if pickled else ""
        return f"its part {folder.name} has no {WEIGHTS} file{why}", 0
    if empty := [f.name for f in files if f.stat().st_size == 0]:
        return f"{folder.name}/{empty[0]} is empty", 0
    return "", sum(f.stat().st_size for f in files)


def _scheduler(name: str, backbone: Backbone, folder: Path) -> list[Finding]:
    """A setting of the scheduler that its class or configuration does not have would be ignored."""
    chosen = backbone.load.scheduler
    file = folder / "scheduler/scheduler_config.json"
    if chosen is None or not chosen.arguments or chosen.name or not file.is_file():
        return []
    known = json.loads(file.read_text())
    unknown = [a for a in chosen.arguments if a not in known]
    said = f"the checkpoint's {known.get('_class_name')} has no {', '.join(unknown)}; state another --scheduler, or --flow-shift own"
    return [Finding("blocks", name, said)] if unknown else []


def _length(name: str, backbone: Backbone, folder: Path) -> list[Finding]:
    """A number of frames that the autoencoder does not make would be changed, or every video would fail."""
    file = folder / "vae/config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    every = config.get("scale_factor_temporal") or config.get("temporal_compression_ratio")
    if not every:
        return []
    made = backbone.frames
    if "Framepack" in backbone.pipeline:
        window = backbone.call.get("latent_window_size") or WINDOW
        made = sections(backbone.pipeline, backbone.frames, backbone.call) * window * every + 1
    elif "num_frames" not in backbone.call:
        made = (backbone.frames - 1) // every * every + 1
    if made == backbone.frames:
        return []
    asked = backbone.call.get("num_frames", backbone.frames)
    said = f"frames is {backbone.frames}; {asked} asked for come out as {made} (`--num-frames` is what is asked for, `--frames` what comes out)"
    return [Finding("blocks", name, said)]


def _memory(name: str, backbone: Backbone, size: int) -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return []
    own = torch.cuda.get_device_properties(0).total_memory
    if size > own and backbone.load.offload == "none":
        return [
            Finding(
                "note",
                name,
                f"its weights take {size / 1e9:.0f} GB on disk and the GPU has {own / 1e9:.0f} GB; think of `--offload model`",
            )
        ]
    return []
