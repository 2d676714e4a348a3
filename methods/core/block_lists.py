"""In which transformer blocks a method acts: lists by name, published ones and measured ones."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from ..families import FRAMEPACK, WAN, Block, Model

# AlignVid's table 10 (with the values of the released code; for FramePack only single-stream blocks), and Focal Guidance's
# weak blocks.
PUBLISHED_BLOCKS = {
    "wan2.1-i2v-14b": [*range(0, 1), *range(2, 8), *range(10, 21), *range(25, 33), 37, 38],
    "wan2.1-i2v-14b-weak": [*range(11, 27)],
    "hunyuanvideo-i2v-13b-weak": [f"single.{i}" for i in range(17, 33)],
    "framepack": [f"single.{i}" for i in [0, 2, *range(4, 8), *range(10, 22), 23, 25, 26, 27, 31, 33]],
    "framepack-f1": [f"single.{i}" for i in [*range(8), *range(12, 17), 18, 19, 20, 23, 25, 29, 32, *range(36, 40)]],
}

# Lists measured as in AlignVid's section 5.2, by family and number of blocks.
CALIBRATED = Path(__file__).parents[1] / "calibrated_blocks.json"


def choose_blocks(model: Model, which) -> frozenset[int]:
    """Positions of the blocks of `model` that `which` names.

    which: "all", "first_half", a key of PUBLISHED_BLOCKS, "calibrated" (the backbone's published list, or else the one in
    calibrated_blocks.json) or a list of positions or names. Raises ValueError for a block that does not exist or a
    backbone without a list.
    """
    if which == "calibrated":
        which = _calibrated_list(model)
    return _positions(model.blocks, which)


def _calibrated_list(model: Model) -> str | tuple[int, ...]:
    """The calibrated blocks of a model, or the name of its published list."""
    count = len(model.blocks)
    if model.family == FRAMEPACK:
        raise ValueError('FramePack and FramePack-F1 are one architecture: say blocks="framepack" or "framepack-f1"')
    if model.family == WAN and count == 40 and _is_wan21_image_to_video(model.transformer.config):
        return "wan2.1-i2v-14b"
    found = _measured_lists().get((model.family, count))
    if found is None:
        published = " AlignVid's list for Wan with 40 blocks is of Wan 2.1 I2V 14B, which this is not;"
        raise ValueError(
            f"there is no calibrated list for this {model.family} with {count} blocks;"
            f"{published if model.family == WAN and count == 40 else ''} give a list, or measure one with "
            f"`python -m analysis foreground` and add it to {CALIBRATED.name} with `python -m analysis calibrate`"
        )
    return found


def _is_wan21_image_to_video(config) -> bool:
    """Whether a Wan of 40 blocks is Wan 2.1 I2V: Wan 2.2 and text-to-video take no image tokens, and FLF2V, which does,
    has a position embedding for those of two images."""
    return (
        config.image_dim is not None and config.in_channels > config.out_channels and config.pos_embed_seq_len is None
    )


@lru_cache
def _positions(blocks: tuple[Block, ...], which: str | tuple[int | str, ...]) -> frozenset[int]:
    if which == "all":
        return frozenset(b.index for b in blocks)
    if which == "first_half":
        return frozenset(b.index for b in blocks[: len(blocks) // 2])
    if isinstance(which, str):
        if which not in PUBLISHED_BLOCKS:
            raise ValueError(
                f"blocks {which!r}: allowed are all, first_half, calibrated, {', '.join(PUBLISHED_BLOCKS)} or a list"
            )
        which = PUBLISHED_BLOCKS[which]
    positions = {b.index: b.index for b in blocks} | {b.name: b.index for b in blocks}
    missing = [w for w in which if w not in positions]
    if missing:
        raise ValueError(f"no block {missing[0]!r}: the model has {blocks[0].name} to {blocks[-1].name}")
    return frozenset(positions[w] for w in which)


@lru_cache
def _measured_lists() -> dict[tuple[str, int], tuple[int, ...]]:
    """Measured lists of positions by (family, number of blocks); none if the file is missing."""
    entries = json.loads(CALIBRATED.read_text()) if CALIBRATED.is_file() else []
    return {(e["family"], e["count"]): tuple(e["blocks"]) for e in entries}
