"""Prompts that no table uses: drawn from a seed of their own, without those that the benchmark or another split has."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from testbed.benchmark import COUNTS, draw_benchmark
from testbed.world import render

from ..study.benchmark_samples import load_samples
from ..study.files import content_key, write_atomically
from ..study.parameters import Parameters
from ..study.search_settings import Split

FOLDER = Path("build/search")


def draw_prompts(split: Split, taken: set[str]) -> list[tuple[dict, object, object]]:
    """(record, scene, event) of the first prompts of a split, of each event as many, whose text is not in `taken`."""
    share = split.prompts // len(COUNTS)
    drawn = [s for s in draw_benchmark(split.seed, dict.fromkeys(COUNTS, 4 * share)) if s[0]["prompt"] not in taken]
    kinds = dict.fromkeys(record["main-category"] for record, _, _ in drawn)
    found = {kind: [s for s in drawn if s[0]["main-category"] == kind][:share] for kind in kinds}
    if short := [kind for kind, own in found.items() if len(own) < share]:
        raise ValueError(f"only {len(found[short[0]])} of {share} new prompts of {short[0]}: draw fewer")
    return [own[i] for i in range(share) for own in found.values()]


def write_prompts(parameters: Parameters, split: str, folder: Path = FOLDER) -> Path:
    """The folder of the benchmark of the split `tuning` or `held_out` of params.yaml, written if it is not there; held-out
    prompts are none of the tuning prompts either."""
    search = parameters.search
    taken = {s["prompt"] for s in load_samples(parameters.benchmark.folder)}
    if split == "held_out":
        taken |= {record["prompt"] for record, _, _ in draw_prompts(search.tuning, taken)}
    drawn = draw_prompts(getattr(search, split), taken)
    records = [record for record, _, _ in drawn]
    out = folder / f"{split}-{content_key({'records': records})}"
    for record, scene, event in drawn:
        picture = Image.fromarray(render(scene, event, executed=False, frames=1)[0])
        if not (out / record["image-path"]).is_file():
            write_atomically(out / record["image-path"], lambda path, picture=picture: picture.save(path))
    text = json.dumps(records, indent=1) + "\n"
    write_atomically(out / "meta.json", lambda path: path.write_text(text))
    return out
