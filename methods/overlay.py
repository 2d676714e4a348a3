"""Attention maps drawn over the frames of a video: a strip of pictures, or a GIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save_overlay(path: str | Path, frames, maps, *, strip: int = 6, largest: float | None = None) -> None:
    """Draw maps over frames in red and save them: `.gif` as an animation, `.png` and `.webp` as a strip of `strip` frames.

    frames: F pictures, as a pipeline gives them: PIL images, or an array (F, H, W, 3) of uint8 or of floats in [0, 1].
    maps: (f, h, w), values of at least 0, one per latent frame; the first is that of the first frame alone, the others are
    spread over the rest. largest: the value that is drawn in full red, else the largest of all maps.
    Raises ValueError for another shape, for values below 0 and for another ending of the name.
    """
    from PIL import Image

    path, pictures, maps = Path(path), _as_bytes(frames), np.asarray(maps, dtype=np.float64)
    if path.suffix not in (".gif", ".png", ".webp"):
        raise ValueError(f"{path.name}: an overlay is saved as .gif, .png or .webp")
    if maps.ndim != 3 or not 1 <= len(maps) <= len(pictures):
        raise ValueError(f"maps must be (latent frames, rows, columns) for {len(pictures)} frames, not {maps.shape}")
    if not (np.isfinite(maps).all() and (maps >= 0).all()):
        raise ValueError("maps must be finite and at least 0")
    largest = maps.max() if largest is None else largest
    heat = maps / largest if largest > 0 else maps
    drawn = [_draw(p, heat[latent_frame(i, len(pictures), len(maps))]) for i, p in enumerate(pictures)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(d) for d in drawn]
        first.save(path, save_all=True, append_images=rest, duration=125, loop=0)
        return
    chosen = np.linspace(0, len(drawn) - 1, min(strip, len(drawn))).round().astype(int)
    Image.fromarray(np.concatenate([drawn[i] for i in chosen], axis=1)).save(path)


def latent_frame(frame: int, frames: int, latent_frames: int) -> int:
    """The latent frame of a frame, as causal video autoencoders have it: the first frame is one of its own, and the others
    are shared out evenly."""
    if frame == 0 or latent_frames == 1:
        return 0
    return 1 + (frame - 1) * (latent_frames - 1) // max(1, frames - 1)


def _as_bytes(frames) -> np.ndarray:
    """(F, H, W, 3) uint8."""
    array = np.stack([np.asarray(f) for f in frames])
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"frames must be (F, H, W, 3), not {array.shape}")
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 1:
            raise ValueError("frames of floats must be in [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    return array


def _draw(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture with its heat (h, w) in [0, 1] over it, in red: at most 80 % of it is covered."""
    from PIL import Image

    height, width = picture.shape[:2]
    small = Image.fromarray(heat.clip(0, 1).astype(np.float32), mode="F")
    cover = 0.8 * np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)[..., None]
    return ((1 - cover) * picture + cover * np.array([255, 0, 0])).round().astype(np.uint8)
