"""What is drawn from: PE-Video's shards of videos with captions, and VidProM's list of prompts."""

from __future__ import annotations

import csv
import json
import tarfile
import tempfile
from pathlib import Path

from .drawn_samples import draw, write_draw
from .reference_images import first_frame
from .sample import Problem

CAPTIONS = ("human_caption", "model_caption", "caption")  # by people where there is one
PROMPTS = "VidProM_unique.csv"


def draw_pe_video(source: Path, folder: Path, n: int, seed: int) -> list[Problem]:
    """Draw n videos of PE-Video from the tar shards, or the unpacked ID.mp4 and ID.json, below `source`, and write draw.json
    and their first frames into `folder`; what was wrong with videos that were drawn. Raises ValueError when there is nothing to
    draw from."""
    shards = sorted(source.rglob("*.tar"))
    places = {Path(m).stem: shard for shard in shards for m in _members(shard) if m.endswith(".mp4")}
    places |= {p.stem: None for p in source.rglob("*.mp4")}
    files = {p.stem: p for p in source.rglob("*.mp4")}
    if not places:
        raise ValueError(
            f"neither .tar nor .mp4 files below {source}: see `python -m analysis benchmark-check --about pe_video`"
        )
    chosen, samples, problems = draw(places, n, seed), {}, []
    for shard in sorted({places[i] for i in chosen if places[i]}):
        with tarfile.open(shard) as tar, tempfile.TemporaryDirectory() as temporary:
            for name in (i for i in chosen if places[i] == shard):
                for suffix in (".mp4", ".json"):
                    member = next((m for m in tar.getmembers() if Path(m.name).name == name + suffix), None)
                    if member is not None:
                        (Path(temporary) / (name + suffix)).write_bytes(tar.extractfile(member).read())
                samples[name] = _sample(Path(temporary) / f"{name}.mp4", folder, problems)
    for name in (i for i in chosen if places[i] is None):
        samples[name] = _sample(files[name], folder, problems)
    write_draw(folder, "pe_video", seed, list(places), [samples[i] for i in chosen])
    return problems


def _members(shard: Path) -> list[str]:
    try:
        with tarfile.open(shard) as tar:
            return tar.getnames()
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} is not a whole tar file: {error}") from None


def _sample(video: Path, folder: Path, problems: list[Problem]) -> dict:
    """The record of a drawn video, its first frame written into images/; what is wrong with it is added to `problems`."""
    name, image = video.stem, f"images/{video.stem}.png"
    sample = {"id": name, "prompt": "", "image": image}
    try:
        told = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
        sample["prompt"] = next((told[k] for k in CAPTIONS if isinstance(told.get(k), str) and told[k].strip()), "")
        if not sample["prompt"]:
            problems.append(
                Problem("wrong field", name, f"its JSON has none of {', '.join(CAPTIONS)} but {list(told)}")
            )
    except (OSError, ValueError, AttributeError) as error:
        problems.append(Problem("missing file", name, f"no caption in {name}.json: {error}"))
    try:
        picture = first_frame(video)
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / image)
    except ValueError as error:
        problems.append(Problem("unreadable image", name, str(error)))
    return sample


def draw_vidprom(source: Path, folder: Path, n: int, seed: int) -> list[Problem]:
    """Draw n prompts of VidProM from its list (a file, or the folder that has it) and write draw.json into `folder`; its
    images are to be made. Raises ValueError when the list is not there or lacks a column."""
    file = source / PROMPTS if source.is_dir() else source
    if not file.is_file():
        raise ValueError(f"no {file}: see `python -m analysis benchmark-check --about vidprom`")
    with file.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        if lacking := {"uuid", "prompt"} - set(rows.fieldnames or []):
            raise ValueError(f"{file} lacks the columns {sorted(lacking)}; it has {rows.fieldnames}")
        prompts = {r["uuid"]: r["prompt"].strip() for r in rows if (r["prompt"] or "").strip()}
    chosen = draw(prompts, n, seed)
    write_draw(
        folder,
        "vidprom",
        seed,
        list(prompts),
        [{"id": i, "prompt": prompts[i], "image": f"images/{i}.png"} for i in chosen],
    )
    return []


DRAWS = {"pe_video": draw_pe_video, "vidprom": draw_vidprom}
