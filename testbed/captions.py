"""What the world's captions say: the grammar, and every word of it."""

from __future__ import annotations

import numpy as np

from .world import COLOURS, DIRECTIONS, SHAPES, Event, Scene

SCENE_PHRASES = ("{things}.", "there is {things}.", "we see {things}.")
EVENT_PHRASES = {
    "appear": ("a {new} appears.", "a {new} shows up.", "then a {new} comes in."),
    "disappear": ("the {old} disappears.", "the {old} vanishes.", "then the {old} goes away."),
    "recolour": ("the {old} turns {colour}.", "the {old} becomes {colour}.", "then the {old} changes to {colour}."),
    "move": ("the {old} moves {direction}.", "the {old} slides {direction}.", "then the {old} travels {direction}."),
    "push": ("the {old} pushes the {other}.", "the {old} hits the {other}.", "the {old} shoves the {other}."),
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
        other=scene.objects[event.other].name if event.other is not None else "",
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
