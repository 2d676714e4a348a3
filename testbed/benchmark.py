"""The benchmark: 367 samples in OmitI2V's proportions and 100 motion samples, with yes/no questions.

`meta.json` has exactly OmitI2V's fields, so the same evaluation reads both. Half of each sample's questions have the
answer yes. One quarter of the samples ask for a combination of colour, shape and event that training never showed;
their `domain` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from PIL import Image

from .oracle import QUESTIONS
from .world import COLOURS, SIZE, Event, Scene, caption, event_caption, generator, held_out, render, sample_scene

CATEGORY = {"recolour": "modification", "appear": "addition", "disappear": "deletion", "move": "motion"}
COUNTS = {"recolour": 125, "appear": 122, "disappear": 120, "move": 100}  # OmitI2V: 34.19 / 33.16 / 32.65 % of 367
HELD_OUT_SHARE = 0.25
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def ask_about(scene: Scene, event: Event, rng) -> list[tuple[str, dict, str]]:
    """(kind, words, expected answer): two questions of each answer, all about the event."""
    spare = [c for c in COLOURS if c not in {o.colour for o in scene.objects}]
    if event.kind == "appear":
        new = dict(colour=event.result.colour, shape=event.result.shape)
        wrong = new | {"colour": str(rng.choice([c for c in spare if c != new["colour"]]))}
        return [("present", new, "yes"), ("more", {}, "yes"), ("same", {}, "no"), ("present", wrong, "no")]
    thing = scene.objects[event.target]
    old = dict(colour=thing.colour, shape=thing.shape)
    if event.kind == "disappear":
        return [("gone", old, "yes"), ("fewer", {}, "yes"), ("same", {}, "no"), ("present", old, "no")]
    if event.kind == "recolour":
        now = event.result.colour
        wrong = str(rng.choice([c for c in spare if c != now]))
        return [
            ("turned", old | {"other": now}, "yes"),
            ("present", old | {"colour": now}, "yes"),
            ("present", old, "no"),
            ("turned", old | {"other": wrong}, "no"),
        ]
    return [
        ("moved", old | {"direction": event.direction}, "yes"),
        ("present", old, "yes"),
        ("moved", old | {"direction": OPPOSITE[event.direction]}, "no"),
        ("still", old, "no"),
    ]


def draw_sample(kind: str, index: int, seed: int) -> tuple[dict, Scene, Event]:
    """The `index`-th sample of an event kind: its record, its scene and its event."""
    rng = generator("benchmark", seed, kind, index)
    novel = bool(rng.random() < HELD_OUT_SHARE)
    scene, event = sample_scene(rng, kind, allow=lambda *combination: held_out(*combination) == novel)
    prompt = caption(scene, event, rng)
    asks = ask_about(scene, event, rng)
    name = f"{CATEGORY[kind]}_{index:03d}"
    questions = [
        {
            "id": f"{name}_q{i}",
            "question": QUESTIONS[ask][1].format(**words),
            "expected_answer": expected,
            "category": QUESTIONS[ask][0],
        }
        for i, (ask, words, expected) in enumerate(asks[j] for j in rng.permutation(len(asks)))
    ]
    record = {
        "id": name,
        "prompt": prompt,
        "image-path": f"images/{name}.png",
        "resolution": [SIZE, SIZE],
        "expected-change": event_caption(scene, event),
        "main-category": CATEGORY[kind],
        "sub-category": f"{kind}-{event.direction}" if kind == "move" else kind,
        "domain": "held-out combination" if novel else "seen combination",
        "questions": questions,
    }
    return record, scene, event


def draw_benchmark(seed: int, counts: dict[str, int] | None = None) -> list[tuple[dict, Scene, Event]]:
    """All samples, kinds interleaved, so that the first n are a balanced subset."""
    counts = counts or COUNTS
    order = sorted((((i + 0.5) / n, kind, i) for kind, n in counts.items() for i in range(n)))
    return [draw_sample(kind, i, seed) for _, kind, i in order]


def write_benchmark(folder: Path, seed: int) -> None:
    """Write `meta.json`, `images/*.png` and `manifest.csv` (id, sha256 of the image's pixels, sha256 of the record)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = draw_benchmark(seed)
    lines = ["id,image_sha256,record_sha256"]
    for record, scene, event in samples:
        reference = render(scene, event, executed=False, frames=1)[0]
        Image.fromarray(reference).save(folder / record["image-path"])
        hashes = (hashlib.sha256(b).hexdigest() for b in (reference.tobytes(), json.dumps(record).encode()))
        lines.append(",".join([record["id"], *hashes]))
    for name, text in {
        "meta.json": json.dumps([r for r, _, _ in samples], indent=1) + "\n",
        "manifest.csv": "\n".join(lines) + "\n",
    }.items():
        (folder / (name + ".tmp")).write_text(text)
        os.replace(folder / (name + ".tmp"), folder / name)
