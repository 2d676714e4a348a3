"""Clips to tune a video model on: from the procedural world or from a folder, encoded once into safetensors shards."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from methods import FocalGuidance
from methods.focal_anchors.keywords import Anchors
from methods.focal_anchors.pipeline_run import start_run, watch_conditions

from ..study.files import content_key, write_atomically
from ..study.parameters import Backbone
from ..study.progress import track
from ..study.video_files import read_video
from .encoded import Encoded, Text
from .tuned_families import module_of

SHARD = 32  # clips per file


@dataclass(frozen=True)
class Source:
    """`count` clips; `read(i)` gives clip i as uint8 (T, H, W, 3) and its caption. `identity` changes when they do; `about`
    says for the card what they are."""

    count: int
    identity: str
    about: str
    read: Callable[[int], tuple[np.ndarray, str]]


def from_world(count: int, seed: int) -> Source:
    """Training clips of the procedural world whose described event always happens: their captions are accurate."""
    from testbed.world import training_clip

    def read(index):
        clip = training_clip(index, seed=seed)
        return clip.video(), clip.caption

    about = f"{count} clips of the procedural world (seed {seed}), in all of which the described event happens"
    return Source(count, f"world, seed {seed}, {count} clips", about, read)


def from_folder(folder: Path, backbone: Backbone) -> Source:
    """The videos that `<folder>/metadata.csv` names in its columns file_name and caption, cut to the backbone's frames.

    They must have the backbone's height and width and no fewer frames; nothing is resized or resampled in time. Raises
    ValueError that names the file or the row for anything else.
    """
    listed = folder / "metadata.csv"
    if not listed.is_file():
        raise ValueError(f"no {listed}: it must have the columns file_name and caption, a row per video")
    with listed.open(newline="") as f:
        table = csv.DictReader(f)
        rows = list(table)
        if missing := {"file_name", "caption"} - set(table.fieldnames or ()):
            raise ValueError(f"{listed} has no column {' and no '.join(sorted(missing))}; it has {table.fieldnames}")
    if not rows:
        raise ValueError(f"{listed} names no video")
    for number, row in enumerate(rows, 2):
        if not (row["caption"] or "").strip():
            raise ValueError(f"{listed}, line {number}: {row['file_name']} has no caption")
        if not (folder / row["file_name"]).is_file():
            raise ValueError(f"{listed}, line {number}: there is no file {row['file_name']}")

    def read(index):
        path = folder / rows[index]["file_name"]
        video, wanted = read_video(path), (backbone.frames, backbone.height, backbone.width)
        if video.shape[1:3] != wanted[1:] or len(video) < wanted[0]:
            have = "{} frames of {}x{}".format(*video.shape[:3])
            raise ValueError(f"{path} has {have} (height x width); wanted: {wanted[0]} of {wanted[1]}x{wanted[2]}")
        return video[: backbone.frames], rows[index]["caption"]

    sizes = [(folder / row["file_name"]).stat().st_size for row in rows]
    identity = content_key({"rows": [list(r.values()) for r in rows], "sizes": sizes})
    return Source(len(rows), identity, f"{len(rows)} clips of a folder, with its captions", read)


class Shards:
    """Encoded clips on disk, read one by one: `shards[i]` is an Encoded; `empty` is the empty caption's Text.

    slots: text tokens of the model."""

    def __init__(self, folder: Path, count: int, slots: int):
        self.folder, self.count, self.slots = folder, count, slots
        self.empty = _text(_read(folder / "empty.safetensors")[0], slots)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Encoded:
        t, notes = _read(_shard_file(self.folder, index // SHARD), str(index))
        note = notes[str(index)]
        tokens = torch.split(t["tokens"], t["counts"].tolist())
        found = Anchors(
            tuple(note["words"]), tuple(tuple(x.tolist()) for x in tokens), t["similarity"], t["weights"], t["anchors"],
            note["highest"], tuple(note["seen"]),
        )  # fmt: skip
        image = t["image"][None] if "image" in t else None
        return Encoded(t["latent"][None], t["condition"][None], _text(t, self.slots), image, note["caption"], found)


def _text(tensors: dict, slots: int) -> Text:
    text, beside = tensors["text"], (tensors[k][None] if k in tensors else None for k in ("mask", "pooled"))
    padded = torch.cat([text, text.new_zeros(max(0, slots - len(text)), text.shape[1])])
    return Text(padded[None], *beside)


def _shard_file(folder: Path, number: int) -> Path:
    return folder / f"clips-{number:04d}.safetensors"


def _read(path: Path, clip: str | None = None):
    """(tensors of one clip, or all; notes) of a shard."""
    prefix = f"{clip}/" if clip is not None else ""
    with safe_open(path, "pt") as f:
        found = {k.removeprefix(prefix): f.get_tensor(k) for k in f.keys() if k.startswith(prefix)}
        return found, json.loads((f.metadata() or {}).get("notes", "{}"))


@torch.no_grad()
def encode_clips(
    pipe,
    guidance: FocalGuidance,
    source: Source,
    folder: Path,
    *,
    slots: int,
    call: dict,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Encode every clip of a source by the pipeline's own methods into `<folder>/clips-*.safetensors`.

    Shards that are there are kept; of `world` processes each does its part. Keywords and anchors are those of `guidance`
    (a clip without keywords has none, and is tuned on without guidance). slots: text tokens, as the model's module says;
    call: further arguments of the pipeline's call.
    """
    family = module_of(pipe.transformer)
    if rank == 0:
        empty = {k: v.contiguous().cpu() for k, v in family.encode_empty(pipe, slots, call).items()}
        write_atomically(folder / "empty.safetensors", partial(save_file, empty))
    todo = [k for k in range(-(-source.count // SHARD)) if not _shard_file(folder, k).exists()][rank::world]
    for k in track(todo, len(todo), "encode clips"):
        tensors, notes = {}, {}
        for i in range(k * SHARD, min((k + 1) * SHARD, source.count)):
            clip, notes[str(i)] = encode_one(pipe, guidance, *source.read(i), slots=slots, seed=i, call=call)
            tensors |= {f"{i}/{name}": value.contiguous().cpu() for name, value in clip.items()}
        save = partial(save_file, tensors, metadata={"notes": json.dumps(notes)})
        write_atomically(_shard_file(folder, k), save)


def encode_one(
    pipe, guidance: FocalGuidance, video: np.ndarray, caption: str, *, slots: int, call: dict, seed: int = 0
) -> tuple[dict, dict]:
    """(tensors, notes) of a clip: latents as `pipe` makes them of a reference image, text, image tokens, anchors.

    seed: of what the pipeline draws."""
    undo = watch_conditions(pipe)
    try:
        start_run(pipe, None)
        tensors = module_of(pipe.transformer).encode(pipe, video, caption, slots=slots, seed=seed, call=call)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a clip without keywords
            found = guidance.anchors(pipe)
    finally:
        undo()
    tensors |= {
        "anchors": found.anchors, "similarity": found.similarity, "weights": found.weights,
        "tokens": torch.tensor([i for at in found.tokens for i in at], dtype=torch.int64),
        "counts": torch.tensor([len(at) for at in found.tokens], dtype=torch.int64),
    }  # fmt: skip
    return tensors, {"caption": caption, "words": found.words, "highest": found.highest, "seen": found.seen}


def cache_name(weights: str, guidance: FocalGuidance, source: Source, backbone: Backbone) -> str:
    """Name of the folder of a source's shards; what was encoded otherwise has another name."""
    settings = [weights, source.identity, guidance.clip, guidance.sign, guidance.select, guidance.region]
    settings += [guidance.readout, guidance.keywords]
    settings += [backbone.height, backbone.width, backbone.frames, backbone.dtype]
    settings += [backbone.max_sequence_length] if backbone.max_sequence_length is not None else []
    settings += [backbone.call] if backbone.call else []
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
