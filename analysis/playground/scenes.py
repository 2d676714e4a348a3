"""Scenes and events that somebody describes, of the benchmark or their own, and what to ask about the outcome."""

from __future__ import annotations

import re

import numpy as np

from testbed.benchmark import CATEGORY, COUNTS, ask_about, draw_sample
from testbed.oracle import QUESTIONS
from testbed.world import (
    COLOURS,
    DIRECTIONS,
    EVENT_PHRASES,
    MAX_OBJECTS,
    SHAPES,
    SIZE,
    Event,
    Scene,
    Shape,
    generator,
    render,
    vocabulary,
)

from ..study.parameters import Parameters

RADIUS = 11.0  # pixels of a shape, the middle of the world's range
PLACES = (int(RADIUS + 1), int(SIZE - RADIUS - 1))  # where a shape's centre may be, in pixels


def sample_names() -> list[str]:
    """The ids of the benchmark's samples."""
    return [f"{CATEGORY[kind]}_{i:03d}" for kind, count in COUNTS.items() for i in range(count)]


def benchmark_sample(parameters: Parameters, name: str) -> tuple[dict, Scene, Event]:
    """Record, scene and event of a sample. Raises ValueError for a name that the benchmark does not have."""
    if name not in sample_names():
        raise ValueError(f"no sample {name!r}; the benchmark has {', '.join(f'{CATEGORY[k]}_000' for k in COUNTS)} ...")
    kind = next(k for k in COUNTS if name.startswith(CATEGORY[k]))
    return draw_sample(kind, int(name[-3:]), parameters.benchmark.seed)


def build_scene(shapes: list[tuple[str, str, float, float]], texture: int) -> Scene:
    """A scene of (colour, shape, x, y), x and y in pixels. Raises ValueError for what the world never shows."""
    if not 1 <= len(shapes) <= MAX_OBJECTS:
        raise ValueError(f"a scene has 1 to {MAX_OBJECTS} shapes, not {len(shapes)}")
    objects = [Shape(colour, shape, float(x), float(y), RADIUS) for colour, shape, x, y in shapes]
    for i, a in enumerate(objects):
        if a.colour not in COLOURS or a.shape not in SHAPES:
            raise ValueError(f"the world has no {a.name}; it has {', '.join(COLOURS)} and {', '.join(SHAPES)}")
        if not all(PLACES[0] <= place <= PLACES[1] for place in (a.x, a.y)):
            raise ValueError(f"the {a.name} is at {a.x:g}, {a.y:g}; {PLACES[0]} to {PLACES[1]} lies inside the picture")
        for b in objects[:i]:
            if a.colour == b.colour:
                raise ValueError(f"two shapes are {a.colour}; the shapes of a scene have different colours")
            apart, least = np.hypot(a.x - b.x, a.y - b.y), 2.4 * RADIUS + 1
            if apart < least:
                raise ValueError(f"the {b.name} and the {a.name} are {apart:.0f} pixels apart; they need {least:.0f}")
    return Scene(tuple(objects), texture)


def build_event(scene: Scene, kind: str, *, subject="", colour="", shape="", direction="") -> Event:
    """An event in a scene; `subject` is a shape's name. Raises ValueError for what cannot happen there."""
    if kind == "nothing":
        return Event(kind)
    if kind in ("appear", "recolour") and colour in {o.colour for o in scene.objects}:
        raise ValueError(f"the scene has something {colour} already; shapes have different colours")
    if kind == "appear":
        if len(scene.objects) == MAX_OBJECTS:
            raise ValueError(f"the scene has {MAX_OBJECTS} shapes already, the most that the world shows")
        return Event(kind, None, Shape(colour, shape, SIZE / 2, SIZE / 2, RADIUS))
    names = [o.name for o in scene.objects]
    if subject not in names:
        raise ValueError(f"the scene has no {subject}; it has a {' and a '.join(names)}")
    target = names.index(subject)
    thing = scene.objects[target]
    result = Shape(colour, thing.shape, thing.x, thing.y, thing.radius) if kind == "recolour" else thing
    return Event(kind, target, None if kind == "disappear" else result, direction or None)


def check_prompt(prompt: str) -> None:
    """Raise ValueError for a word that the grammar, and so the model, does not know."""
    known = vocabulary()
    if outside := [word for word in re.findall(r"[^\s.]+", prompt) if word not in known]:
        raise ValueError(f"the model never saw the word {outside[0]!r}; it knows {', '.join(known)}")


def questions_about(scene: Scene, prompt: str) -> tuple[list[dict], str]:
    """(questions with their expected answers, ""), or ([], why there are none), for the event at the prompt's end."""
    colours, shapes = "|".join(COLOURS), "|".join(SHAPES)
    slots = dict(
        new=rf"(?P<colour>{colours}) (?P<shape>{shapes})", old=rf"(?P<subject>(?:{colours}) (?:{shapes}))",
        colour=rf"(?P<colour>{colours})", direction=rf"(?P<direction>{'|'.join(DIRECTIONS)})",
    )  # fmt: skip
    found = []
    for kind, phrases in EVENT_PHRASES.items():
        patterns = [rf"(?:^| ){phrase.rstrip('.').format(**slots)}$" for phrase in phrases]
        found += [(kind, m) for m in (re.search(p, prompt.rstrip(". ")) for p in patterns) if m]
    if not found:
        return [], "nothing is asked: the prompt does not end with an event of the grammar"
    kind, match = found[0]
    try:
        event = build_event(scene, kind, **match.groupdict())
    except ValueError as error:
        return [], f"nothing is asked: {error}"
    if kind == "nothing":
        asks = [("same", {}, "yes"), ("more", {}, "no"), ("fewer", {}, "no")]
        asks += [("still", dict(colour=o.colour, shape=o.shape), "yes") for o in scene.objects]
    else:
        asks = ask_about(scene, event, generator("playground", kind))
    return [{"question": QUESTIONS[ask][1].format(**words), "expected_answer": e} for ask, words, e in asks], ""


def reference(scene: Scene) -> np.ndarray:
    """The reference image of a scene, uint8 (64, 64, 3)."""
    return render(scene, Event("nothing"), frames=1)[0]
