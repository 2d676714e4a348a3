"""The procedural world: short clips of coloured shapes in which one described event happens.

A clip shows one to three shapes on a textured background; at most one event happens: a shape appears, disappears, changes
colour, moves, or nothing does. The caption first says what is there, then what happens. `executed=False` keeps the
caption and leaves the event out: training on such clips is what makes a model neglect prompts, as noisy captions do at
scale. Everything about a clip follows from one `numpy.random.Generator`, so a clip is known by its seed.

Shapes of one scene have different colours, so "the red circle" always names exactly one object.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

SIZE = 64  # pixels, height and width
FRAMES = 17  # 4 k + 1, as the video autoencoder wants
FPS = 8
COLOURS = {  # sRGB; at least 45 CIELAB units apart, and far from every background
    "red": (214, 39, 40),
    "green": (30, 160, 60),
    "blue": (45, 75, 215),
    "yellow": (238, 214, 45),
    "purple": (180, 50, 190),
    "cyan": (50, 200, 215),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (dx, dy), image coordinates
EVENTS = ("appear", "disappear", "recolour", "move", "nothing")
MAX_OBJECTS = 3
RADIUS = (10.0, 12.0)  # pixels; below 10 a shape can no longer be told after decoding
TRAVEL = (16.0, 24.0)  # pixels a moving shape covers


@dataclass(frozen=True)
class Shape:
    """One object: its colour and shape by name, centre (x, y) and radius in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What the reference frame shows. `texture` seeds the background."""

    objects: tuple[Shape, ...]
    texture: int


@dataclass(frozen=True)
class Event:
    """What the prompt says will happen.

    `target` indexes `Scene.objects` (None for appear and nothing). `result` is the object as it is at the end: the new
    one for appear, the recoloured or moved one, None for disappear and nothing. `start` and `length` are in frames.
    """

    kind: str
    target: int | None = None
    result: Shape | None = None
    direction: str | None = None
    start: int = 4
    length: int = 6


def generator(*key: int | str) -> np.random.Generator:
    """A generator for a key such as ("train", 17): the same key gives the same stream on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def held_out(colour: str, shape: str, kind: str) -> bool:
    """True for the (colour, shape, event) combinations that training never shows: one colour per shape and event.

    Every colour, shape and event is seen in training; only these pairings are new at test time.
    """
    if kind == "nothing":
        return False
    offset = EVENTS.index(kind) + 2 * SHAPES.index(shape)
    return list(COLOURS)[offset % len(COLOURS)] == colour


def _free_place(rng, others, radius, margin=1.0, tries=60):
    """A centre at least `margin` pixels away from all other objects and the border, or None."""
    for _ in range(tries):
        x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        if all(np.hypot(x - o.x, y - o.y) >= 1.2 * (radius + o.radius) + margin for o in others):
            return float(x), float(y)
    return None


def _path_is_free(start, dx, dy, travel, others):
    for s in np.linspace(0, travel, 9):
        x, y = start.x + s * dx, start.y + s * dy
        inside = all(start.radius + 1 <= c <= SIZE - start.radius - 1 for c in (x, y))
        if not inside or any(np.hypot(x - o.x, y - o.y) < 1.1 * (start.radius + o.radius) for o in others):
            return False
    return True


def sample_scene(rng: np.random.Generator, kind: str, allow=lambda colour, shape, kind: True) -> tuple[Scene, Event]:
    """Draw a scene and an event of `kind` in it; `allow(colour, shape, kind)` filters the object the event is about."""
    while True:
        most = MAX_OBJECTS - (kind == "appear")
        count = int(rng.choice([1, 2, 3][:most], p={2: [0.5, 0.5], 3: [0.45, 0.4, 0.15]}[most]))
        colours = list(rng.permutation(list(COLOURS)))
        objects: list[Shape] = []
        for i in range(count):
            radius = float(rng.uniform(*RADIUS))
            place = _free_place(rng, objects, radius)
            if place is None:
                break
            objects.append(Shape(str(colours[i]), str(rng.choice(SHAPES)), *place, radius))
        if len(objects) < count:
            continue
        scene = Scene(tuple(objects), int(rng.integers(2**31)))
        event = _sample_event(rng, scene, kind, str(colours[count]))
        if event is None:
            continue
        about = event.result if event.target is None else scene.objects[event.target]
        if about is None or allow(about.colour, about.shape, kind):
            return scene, event


def _sample_event(rng, scene, kind, fresh_colour):
    timing = dict(start=int(rng.integers(2, 6)), length=int(rng.integers(4, 8)))
    if kind == "nothing":
        return Event(kind, **timing)
    if kind == "appear":
        radius = float(rng.uniform(*RADIUS))
        place = _free_place(rng, scene.objects, radius)
        return place and Event(kind, None, Shape(fresh_colour, str(rng.choice(SHAPES)), *place, radius), **timing)
    target = int(rng.integers(len(scene.objects)))
    thing = scene.objects[target]
    if kind == "disappear":
        return Event(kind, target, **timing)
    if kind == "recolour":
        return Event(kind, target, replace(thing, colour=fresh_colour), **timing)
    direction = str(rng.choice(list(DIRECTIONS)))
    dx, dy = DIRECTIONS[direction]
    travel = float(rng.uniform(*TRAVEL))
    others = [o for i, o in enumerate(scene.objects) if i != target]
    if not _path_is_free(thing, dx, dy, travel, others):
        return None
    return Event(kind, target, replace(thing, x=thing.x + travel * dx, y=thing.y + travel * dy), direction, **timing)


# --- rendering -------------------------------------------------------------------------------------------------------

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5


def _coverage(thing: Shape, x, y, radius) -> np.ndarray:
    """Share of each pixel that the shape covers, (SIZE, SIZE) in [0, 1], from its signed distance."""
    dx, dy = _X - x, _Y - y
    if thing.shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif thing.shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * radius
    else:  # an upright triangle: three half-planes around a centre one third up from its base
        distance = np.maximum(dy - 0.72 * radius, 0.8575 * np.abs(dx) - 0.5145 * dy - 0.66 * radius)
    return np.clip(0.5 - distance, 0, 1)


def background(texture: int) -> np.ndarray:
    """A smooth, low-chroma texture, (SIZE, SIZE, 3) float in 0..255."""
    rng = np.random.default_rng(texture)
    tint = rng.uniform(95, 175) + rng.uniform(-9, 9, size=3)  # greyish: chroma stays below 15
    waves = np.zeros((SIZE, SIZE))
    for _ in range(4):
        fx, fy = rng.normal(0, 0.07, size=2)  # half cycles per pixel: periods of 10 pixels and more
        waves += rng.uniform(3, 9) * np.sin(np.pi * (fx * _X + fy * _Y) + rng.uniform(0, 2 * np.pi))
    return np.clip(tint + waves[..., None], 0, 255)


def render(scene: Scene, event: Event, *, executed: bool = True, frames: int = FRAMES) -> np.ndarray:
    """Draw the clip: uint8, (frames, SIZE, SIZE, 3). With `executed=False` every frame equals the reference frame."""
    back = background(scene.texture)
    clip = np.empty((frames, SIZE, SIZE, 3), np.uint8)
    previous, image = None, None
    for f in range(frames):
        progress = float(np.clip((f - event.start) / event.length, 0, 1)) if executed else 0.0
        if progress != previous:
            image, previous = np.rint(_draw(back, scene, event, progress)).astype(np.uint8), progress
        clip[f] = image
    return clip


def _draw(back, scene, event, progress):
    image = back.copy()
    things = list(scene.objects) + ([event.result] if event.kind == "appear" else [])
    for i, thing in enumerate(things):
        x, y, colour, opacity = thing.x, thing.y, np.array(COLOURS[thing.colour], float), 1.0
        if event.kind == "appear" and i == len(scene.objects):
            opacity = progress
        elif i == event.target and event.kind == "disappear":
            opacity = 1 - progress
        elif i == event.target and event.kind == "recolour":
            colour = (1 - progress) * colour + progress * np.array(COLOURS[event.result.colour], float)
        elif i == event.target and event.kind == "move":
            x += progress * (event.result.x - x)
            y += progress * (event.result.y - y)
        alpha = (opacity * _coverage(thing, x, y, thing.radius))[..., None]
        image = (1 - alpha) * image + alpha * colour
    return image


def final_objects(scene: Scene, event: Event) -> tuple[Shape, ...]:
    """The objects after the event has happened."""
    objects = list(scene.objects)
    if event.target is not None:
        objects.pop(event.target)
    return tuple(objects + ([event.result] if event.result else []))


# --- captions --------------------------------------------------------------------------------------------------------

SCENE_PHRASES = ("{things}.", "there is {things}.", "we see {things}.")
EVENT_PHRASES = {
    "appear": ("a {new} appears.", "a {new} shows up.", "then a {new} comes in."),
    "disappear": ("the {old} disappears.", "the {old} vanishes.", "then the {old} goes away."),
    "recolour": ("the {old} turns {colour}.", "the {old} becomes {colour}.", "then the {old} changes to {colour}."),
    "move": ("the {old} moves {direction}.", "the {old} slides {direction}.", "then the {old} travels {direction}."),
    "nothing": ("nothing happens.", "nothing changes.", "all stays still."),
}


def scene_caption(objects, rng: np.random.Generator) -> str:
    """What is there, in one sentence; objects in random order."""
    names = [f"a {objects[i].name}" for i in rng.permutation(len(objects))]
    return str(rng.choice(SCENE_PHRASES)).format(things=" and ".join(names) or "nothing")


def event_caption(scene: Scene, event: Event, rng: np.random.Generator | None = None) -> str:
    """What happens, in one sentence; the first phrasing when no generator is given."""
    phrases = EVENT_PHRASES[event.kind]
    phrase = phrases[0] if rng is None else str(rng.choice(phrases))
    return phrase.format(
        new=event.result.name if event.result else "",
        old=scene.objects[event.target].name if event.target is not None else "",
        colour=event.result.colour if event.result else "",
        direction=event.direction,
    )


def caption(scene: Scene, event: Event, rng: np.random.Generator) -> str:
    """The full prompt: what is there, then what happens."""
    return f"{scene_caption(scene.objects, rng)} {event_caption(scene, event, rng)}"


def vocabulary() -> list[str]:
    """Every word the grammar can produce, sorted."""
    text = " ".join(SCENE_PHRASES + sum(EVENT_PHRASES.values(), ()))
    words = {w.strip(".") for w in text.split() if "{" not in w}
    return sorted(words | set(COLOURS) | set(SHAPES) | set(DIRECTIONS) | {"a", "and"})


@dataclass(frozen=True)
class Clip:
    """A drawn clip with everything that is known about it."""

    scene: Scene
    event: Event
    caption: str
    executed: bool

    def video(self) -> np.ndarray:
        return render(self.scene, self.event, executed=self.executed)


def training_clip(index: int, *, seed: int, unexecuted: float = 0.0) -> Clip:
    """The `index`-th training clip; `unexecuted` is the share of clips whose event is described but does not happen.

    The draws of scene, event and caption do not depend on `unexecuted`. Held-out combinations never occur.
    """
    rng = generator("train", seed, index)
    kind = str(rng.choice(EVENTS, p=[0.235, 0.235, 0.235, 0.235, 0.06]))
    scene, event = sample_scene(rng, kind, allow=lambda *combination: not held_out(*combination))
    text = caption(scene, event, rng)
    return Clip(scene, event, text, executed=bool(rng.random() >= unexecuted))
