"""The procedural world: short clips of coloured shapes in which one described event happens.

A clip shows one to three shapes on a textured background; at most one event happens: a shape appears, disappears, changes
colour, moves, pushes another one, or nothing does. The caption first says what is there, then what happens. Besides, the
camera may pan and the shapes that the event is not about may drift: *ambient* motion, which no caption mentions and whose
amplitude is heavy-tailed, so that motion is graded, as in real clips.

`executed=False` keeps the caption and leaves the event out: training on such clips is one way to make a model neglect prompts, as
noisy captions do at scale; clips that mostly show their reference (`clips.Clip.late`) are another. Everything about a clip follows from one `numpy.random.Generator`, so a clip is known by
its seed. Shapes of one scene have different colours, so "the red circle" always names exactly one object.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

SIZE = 64  # pixels, height and width
FRAMES = 17  # 4 k + 1, as the video autoencoders want
FPS = 8
COLOURS = {  # sRGB; at least 40 CIELAB units apart, and far from every background
    "red": (214, 39, 40),
    "green": (30, 160, 60),
    "blue": (45, 75, 215),
    "yellow": (238, 214, 45),
    "purple": (180, 50, 190),
    "cyan": (50, 200, 215),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (dx, dy), image coordinates
EVENTS = ("appear", "disappear", "recolour", "move", "push", "nothing")
MAX_OBJECTS = 3
RADIUS = (10.0, 12.0)  # pixels; below 10 a shape can no longer be told after decoding
TRAVEL = (20.0, 38.0)  # pixels a moving shape covers
GAP = (5.0, 16.0)  # pixels between a shape and the one that it is going to push
PUSHED = (9.0, 14.0)  # pixels a pushed shape covers
PAN = dict(share=0.6, median=2.5, sigma=0.9, most=14.0)  # of the camera over a clip, pixels; see _heavy_tailed
DRIFT = dict(share=0.5, median=1.5, sigma=0.7, most=4.0)  # of a bystander over a clip, pixels


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
    one for appear, the recoloured or moved one, None for disappear and nothing. `other` is the index of the object that
    is pushed and `other_result` that object at the end. Ambient motion comes on top. `start` and `length` are in frames.
    """

    kind: str
    target: int | None = None
    result: Shape | None = None
    direction: str | None = None
    other: int | None = None
    other_result: Shape | None = None
    start: int = 4
    length: int = 6


@dataclass(frozen=True)
class Ambient:
    """Motion that no caption mentions, at constant speed, in pixels (x, y) over the whole clip: of everything together
    (`pan`, the camera) and of each object of the scene (`drifts`, in their order; none drifts when empty)."""

    pan: tuple[float, float] = (0.0, 0.0)
    drifts: tuple[tuple[float, float], ...] = ()


STILL = Ambient()


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


# --- scenes and events -----------------------------------------------------------------------------------------------


def _inside(x: float, y: float, radius: float, margin: float = 1.0) -> bool:
    """Whether a shape's circle is in the picture; a triangle, which reaches farther, may lose up to three pixels at a corner."""
    return all(radius + margin <= c <= SIZE - radius - margin for c in (x, y))


def _free_place(rng, others, radius, margin=1.0, tries=60):
    """A centre at least `margin` pixels away from all other objects and the border, or None."""
    for _ in range(tries):
        x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        if all(np.hypot(x - o.x, y - o.y) >= 1.2 * (radius + o.radius) + margin for o in others):
            return float(x), float(y)
    return None


def _path_is_free(start: Shape, end: Shape, others) -> bool:
    for s in np.linspace(0, 1, 9):
        x, y = start.x + s * (end.x - start.x), start.y + s * (end.y - start.y)
        if not _inside(x, y, start.radius):
            return False
        if any(np.hypot(x - o.x, y - o.y) < 1.1 * (start.radius + o.radius) for o in others):
            return False
    return True


def sample_scene(rng: np.random.Generator, kind: str, allow=lambda colour, shape, kind: True) -> tuple[Scene, Event]:
    """Draw a scene and an event of `kind` in it; `allow(colour, shape, kind)` filters the object the event is about."""
    while True:
        least, most = (2 if kind == "push" else 1), MAX_OBJECTS - (kind == "appear")
        shares = {(1, 2): [0.5, 0.5], (1, 3): [0.45, 0.4, 0.15], (2, 3): [0.75, 0.25]}[least, most]
        count = int(rng.choice(np.arange(least, most + 1), p=shares))
        colours = [str(c) for c in rng.permutation(list(COLOURS))]
        objects = _two_in_line(rng, colours) if kind == "push" else []
        if objects is None:
            continue
        for i in range(len(objects), count):
            radius = float(rng.uniform(*RADIUS))
            place = _free_place(rng, objects, radius)
            if place is None:
                break
            objects.append(Shape(colours[i], str(rng.choice(SHAPES)), *place, radius))
        if len(objects) < count:
            continue
        scene = Scene(tuple(objects), int(rng.integers(2**31)))
        event = _sample_event(rng, scene, kind, colours[count])
        if event is None:
            continue
        about = event.result if event.target is None else scene.objects[event.target]
        if about is None or allow(about.colour, about.shape, kind):
            return scene, event


def _outline(thing: Shape) -> np.ndarray:
    """Points on the border of a shape around the origin, (n, 2) in pixels."""
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    rays = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if thing.shape == "circle":
        return thing.radius * rays
    lengths = np.linspace(0, 2 * thing.radius, 161)  # the border is where the distance along a ray turns positive
    distances = _distance(thing, *(lengths[:, None] * rays[None, :, i] for i in (0, 1)))
    return rays * lengths[(distances < 0).sum(0)][:, None]


def _contact(first: Shape, second: Shape, ux: float, uy: float) -> float:
    """The distance of two shapes' centres at which they touch, the second in the direction (ux, uy) from the first."""
    apart = np.arange(8.0, 36.0, 0.25)[:, None]
    a, b = _outline(first), _outline(second)
    overlap = (_distance(second, a[:, 0] - apart * ux, a[:, 1] - apart * uy) < 0).any(1)
    overlap |= (_distance(first, b[:, 0] + apart * ux, b[:, 1] + apart * uy) < 0).any(1)
    return float(apart[overlap].max()) + 0.25


def _two_in_line(rng, colours) -> list[Shape] | None:
    """Two shapes with room for the first to reach the second and push it on, or None where the draw does not fit."""
    angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(*GAP)
    ux, uy = np.cos(angle), np.sin(angle)
    first, second = (Shape(c, str(rng.choice(SHAPES)), 0.0, 0.0, float(rng.uniform(*RADIUS))) for c in colours[:2])
    apart = _contact(first, second, ux, uy) + gap
    low, high = [], []
    for u in (ux, uy):
        far = u * (apart + PUSHED[0])
        low.append(max(first.radius + 1, second.radius + 1 - far, second.radius + 1 - u * apart))
        high.append(SIZE - max(first.radius + 1, second.radius + 1 + far, second.radius + 1 + u * apart))
    if any(a > b for a, b in zip(low, high, strict=True)):
        return None
    x, y = (float(rng.uniform(a, b)) for a, b in zip(low, high, strict=True))
    return [replace(first, x=x, y=y), replace(second, x=float(x + ux * apart), y=float(y + uy * apart))]


def _sample_event(rng, scene, kind, fresh_colour):
    travels = kind in ("move", "push")  # these take longer, and end in time for the last latent frame, too
    timing = dict(start=int(rng.integers(2, 5 if travels else 6)))
    timing["length"] = int(rng.integers(6, 10) if travels else rng.integers(4, 8))
    if kind == "nothing":
        return Event(kind, **timing)
    if kind == "appear":
        radius = float(rng.uniform(*RADIUS))
        place = _free_place(rng, scene.objects, radius)
        return place and Event(kind, None, Shape(fresh_colour, str(rng.choice(SHAPES)), *place, radius), **timing)
    if kind == "push":
        return _sample_push(rng, scene, timing)
    target = int(rng.integers(len(scene.objects)))
    thing = scene.objects[target]
    if kind == "disappear":
        return Event(kind, target, **timing)
    if kind == "recolour":
        return Event(kind, target, replace(thing, colour=fresh_colour), **timing)
    direction = str(rng.choice(list(DIRECTIONS)))
    dx, dy = DIRECTIONS[direction]
    travel = float(rng.uniform(*TRAVEL))
    moved = replace(thing, x=thing.x + travel * dx, y=thing.y + travel * dy)
    if not _path_is_free(thing, moved, [o for o in scene.objects if o is not thing]):
        return None
    return Event(kind, target, moved, direction, **timing)


def _sample_push(rng, scene, timing):
    first, second = scene.objects[:2]
    apart = np.hypot(second.x - first.x, second.y - first.y)
    ux, uy = (second.x - first.x) / apart, (second.y - first.y) / apart
    gap = apart - _contact(first, second, ux, uy)
    pushed = float(rng.uniform(*PUSHED))
    ends = [
        replace(thing, x=float(thing.x + ux * way), y=float(thing.y + uy * way))
        for thing, way in ((first, gap + pushed), (second, pushed))
    ]
    bystanders = scene.objects[2:]
    if not all(_path_is_free(a, b, bystanders) for a, b in zip((first, second), ends, strict=True)):
        return None
    return Event("push", 0, ends[0], other=1, other_result=ends[1], **timing)


def _heavy_tailed(rng, *, share, median, sigma, most):
    """(x, y) of a random direction; its length is 0 with probability 1 - share, else log-normal, at most `most`."""
    length = min(most, median * float(np.exp(sigma * rng.standard_normal()))) * (rng.random() < share)
    angle = rng.uniform(0, 2 * np.pi)
    return float(length * np.cos(angle)), float(length * np.sin(angle))


def sample_ambient(rng: np.random.Generator, scene: Scene, event: Event) -> Ambient:
    """Draw ambient motion under which every object's circle stays in the picture and apart from the others (see `_inside`).

    Objects that the event moves do not drift. Where the draw does not fit, it is halved up to five times, then left out.
    """
    pan, drifts = _heavy_tailed(rng, **PAN), []
    for i in range(len(scene.objects)):
        drift = _heavy_tailed(rng, **DRIFT)
        drifts.append((0.0, 0.0) if event.kind in ("move", "push") and i in (event.target, event.other) else drift)
    for halvings in range(6):
        scale = 0.5**halvings
        ambient = Ambient(*((scale * pan[0], scale * pan[1]), tuple((scale * x, scale * y) for x, y in drifts)))
        if all(_fits(state(scene, event, ambient, f, executed=e)) for f in range(FRAMES) for e in (True, False)):
            return ambient
    return STILL


def _fits(things: list[Drawn]) -> bool:
    shapes = [t.shape for t in things]
    if not all(_inside(s.x, s.y, s.radius, margin=0.0) for s in shapes):
        return False
    apart = [(a, b) for i, a in enumerate(things) for b in things[:i] if not (a.pushes and b.pushes)]
    return all(
        np.hypot(a.shape.x - b.shape.x, a.shape.y - b.shape.y) >= 1.05 * (a.shape.radius + b.shape.radius)
        for a, b in apart
    )


# --- truth and rendering ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """An object as one frame shows it: where it is, its sRGB colour and its opacity. `pushes`: it pushes or is pushed."""

    shape: Shape
    colour: np.ndarray
    opacity: float
    pushes: bool = False


def state(
    scene: Scene, event: Event, ambient: Ambient, frame: float, *, executed: bool = True, frames: int = FRAMES
) -> list[Drawn]:
    """Every object at a frame, in the order of `scene.objects`; the one that appears comes last, from its start on."""
    progress = float(np.clip((frame - event.start) / event.length, 0, 1)) if executed else 0.0
    time = frame / max(1, frames - 1)
    drifts = ambient.drifts or ((0.0, 0.0),) * len(scene.objects)
    things = []
    for i, thing in enumerate(scene.objects):
        end, colour, opacity = thing, np.array(COLOURS[thing.colour], float), 1.0
        if i == event.target and event.kind == "disappear":
            opacity = 1 - progress
        elif i == event.target and event.kind == "recolour":
            colour = (1 - progress) * colour + progress * np.array(COLOURS[event.result.colour], float)
        elif i == event.target:
            end = event.result
        elif i == event.other:
            end = event.other_result
        share = progress
        if i == event.other:  # it stands until the first has reached it
            way = np.hypot(
                event.result.x - scene.objects[event.target].x, event.result.y - scene.objects[event.target].y
            )
            own = np.hypot(end.x - thing.x, end.y - thing.y)
            share = max(0.0, progress * way - (way - own)) / own
        x = thing.x + share * (end.x - thing.x) + time * (drifts[i][0] + ambient.pan[0])
        y = thing.y + share * (end.y - thing.y) + time * (drifts[i][1] + ambient.pan[1])
        pushes = event.kind == "push" and i in (event.target, event.other)
        things.append(Drawn(replace(thing, x=x, y=y), colour, opacity, pushes))
    if event.kind == "appear":
        new = replace(event.result, x=event.result.x + time * ambient.pan[0], y=event.result.y + time * ambient.pan[1])
        things.append(Drawn(new, np.array(COLOURS[new.colour], float), progress))
    return things


_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5


def _distance(thing: Shape, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Signed distance in pixels from a shape's border, negative inside, at offsets from its centre."""
    if thing.shape == "circle":
        return np.hypot(dx, dy) - thing.radius
    if thing.shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * thing.radius
    # An upright triangle: three half-planes around a centre one third up from its base.
    return np.maximum(dy - 0.72 * thing.radius, 0.8575 * np.abs(dx) - 0.5145 * dy - 0.66 * thing.radius)


def coverage(thing: Shape) -> np.ndarray:
    """Share of each pixel that the shape covers, (SIZE, SIZE) in [0, 1]."""
    return np.clip(0.5 - _distance(thing, _X - thing.x, _Y - thing.y), 0, 1)


def background(texture: int, pan: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A smooth, low-chroma texture, shifted by `pan` pixels: (SIZE, SIZE, 3) float in 0..255."""
    rng = np.random.default_rng(texture)
    tint = rng.uniform(95, 175) + rng.uniform(-9, 9, size=3)  # greyish: chroma stays below 15
    waves = np.zeros((SIZE, SIZE))
    for _ in range(4):
        fx, fy = rng.normal(0, 0.07, size=2)  # half cycles per pixel: periods of 10 pixels and more
        height, phase = rng.uniform(3, 9), rng.uniform(0, 2 * np.pi)
        waves += height * np.sin(np.pi * (fx * (_X - pan[0]) + fy * (_Y - pan[1])) + phase)
    return np.clip(tint + waves[..., None], 0, 255)


def render(
    scene: Scene, event: Event, ambient: Ambient = STILL, *, executed: bool = True, frames: int = FRAMES
) -> np.ndarray:
    """Draw the clip: uint8, (frames, SIZE, SIZE, 3). With `executed=False` the event is left out, not the ambient motion."""
    clip = np.empty((frames, SIZE, SIZE, 3), np.uint8)
    for f in range(frames):
        time = f / max(1, frames - 1)
        if f == 0 or ambient.pan != (0.0, 0.0):
            back = background(scene.texture, (time * ambient.pan[0], time * ambient.pan[1]))
        image = back
        for thing in state(scene, event, ambient, f, executed=executed, frames=frames):
            alpha = (thing.opacity * coverage(thing.shape))[..., None]
            image = (1 - alpha) * image + alpha * thing.colour
        clip[f] = np.rint(image).astype(np.uint8)
    return clip


def final_objects(scene: Scene, event: Event) -> tuple[Shape, ...]:
    """The objects after the event has happened, without ambient motion."""
    objects = [o for i, o in enumerate(scene.objects) if i not in (event.target, event.other)]
    return tuple(objects + [o for o in (event.result, event.other_result) if o])
