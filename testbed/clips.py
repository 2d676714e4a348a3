"""The clips that the models are trained on, each known by its index and a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .captions import caption
from .world import FRAMES, Ambient, Event, Scene, generator, held_out, render, sample_ambient, sample_scene

KINDS = {"appear": 0.22, "disappear": 0.17, "recolour": 0.17, "move": 0.19, "push": 0.19, "nothing": 0.06}
LATE = (9, 15)  # first frame of an event that the clip ends on


@dataclass(frozen=True)
class Clip:
    """A drawn clip with everything that is known about it."""

    scene: Scene
    event: Event
    ambient: Ambient
    caption: str

    def video(self, *, executed: bool = True, frames: int = FRAMES) -> np.ndarray:
        """The clip, (frames, SIZE, SIZE, 3) uint8; a single frame is the reference."""
        return render(self.scene, self.event, self.ambient, executed=executed, frames=frames)

    def late(self, rng: np.random.Generator) -> Clip:
        """The same clip cut so that its event begins late, and mostly is not over at the end."""
        return replace(self, event=replace(self.event, start=int(rng.integers(*LATE))))


def training_clip(index: int, *, seed: int) -> Clip:
    """The `index`-th training clip. Held-out combinations never occur."""
    rng = generator("train", seed, index)
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    scene, event = sample_scene(rng, kind, allow=lambda *combination: not held_out(*combination))
    text = caption(scene, event, rng)
    return Clip(scene, event, sample_ambient(rng, scene, event), text)
