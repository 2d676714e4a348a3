"""AlignVid's list of calibrated blocks, from the foreground ratios that analysis.attention.foreground_ratio measured (section 5.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from methods.families import family_of_pipeline

from ..study.files import write_atomically
from ..study.parameters import Backbone, Parameters
from ..study.significance import RESAMPLES

PRESET = Path("methods/calibrated_blocks.json")
# AlignVid's F.2: the share of foreground among high-attention tokens. Its mask is by PCA of "the latent noise estimate", which
# may be read in three ways; the clean video that follows from it gives the masks that agree best with the known foreground.
DEFINITION, MASK, TAU = "tokens", "clean", 0.5


@dataclass(frozen=True)
class Calibration:
    """`ratio` (blocks,): mean over prompts; `picked` (blocks,) bool: above the threshold; `resampled` (n, blocks) bool:
    the picks of bootstrap resamples of the prompts."""

    ratio: np.ndarray
    picked: np.ndarray
    resampled: np.ndarray

    @property
    def blocks(self) -> list[int]:
        """Positions of the picked blocks."""
        return np.flatnonzero(self.picked).tolist()

    def stability(self) -> tuple[float, float, float]:
        """(mean, low, high) Jaccard overlap of the resamples' lists with this one, 95 % of the resamples."""
        overlap = jaccard(self.resampled, self.picked)
        return float(overlap.mean()), *_middle(overlap)

    def in_first_half(self) -> tuple[float, float, float]:
        """(share of the picked blocks that lie in the first half, low, high); nan for an empty list."""
        half = self.picked.size // 2
        with np.errstate(invalid="ignore"):
            share, value = (p[..., :half].sum(-1) / p.sum(-1) for p in (self.resampled, self.picked))
        return float(value), *_middle(share[~np.isnan(share)])


def _middle(values: np.ndarray) -> tuple[float, float]:
    return tuple(np.quantile(values, [0.025, 0.975]).tolist()) if len(values) else (np.nan, np.nan)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of bool lists of blocks (..., blocks): common over all picked; 1 if both are empty."""
    union = (a | b).sum(-1)
    return np.where(union == 0, 1.0, (a & b).sum(-1) / np.maximum(union, 1))


def calibrate(
    scores: pd.DataFrame, definition: str = DEFINITION, threshold: float = TAU, mask: str = MASK
) -> Calibration:
    """The blocks whose ratio, averaged over steps and prompts, is above `threshold` (r > tau in section 5.2).

    scores: columns sample, mask, definition, block, ratio. The bootstrap resamples prompts. Raises ValueError when a
    prompt has no value for a block: nothing may be dropped.
    """
    chosen = scores[(scores["mask"] == mask) & (scores["definition"] == definition)]
    values = chosen.pivot(index="sample", columns="block", values="ratio").to_numpy()
    if values.size == 0 or np.isnan(values).any():
        raise ValueError(f"mask {mask!r}, definition {definition!r}: {np.isnan(values).sum()} values are missing")
    counts = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    mean = values.mean(0)
    return Calibration(mean, mean > threshold, counts @ values / len(values) > threshold)


def is_testbed(backbone: Backbone) -> bool:
    """Whether a backbone is one of the embedded models, whose world is known."""
    return Path(backbone.checkpoint).parts[:1] == ("testbed",)


def write_preset(
    parameters: Parameters, backbones: list[str], folder: Path, path: Path = PRESET, *,
    definition: str = DEFINITION, mask: str = MASK,
) -> dict[str, list[int]]:  # fmt: skip
    """{backbone: its calibrated blocks}, from `<folder>/<lineage>/ratios.csv`.

    Written into the JSON at `path`, which keeps the lists of other families and numbers of blocks. Raises ValueError for a
    backbone that was not measured, and for the pixels' mask of one that does not show the testbed's world.
    """
    known = {(e["family"], e["count"]): e for e in (json.loads(path.read_text()) if path.is_file() else [])}
    found = {}
    for name in backbones:
        table = folder / name.split("-")[0] / "ratios.csv"
        if name not in parameters.backbones or not table.is_file():
            raise ValueError(f"no {table}: run `python -m analysis foreground --backbone {name}` first")
        if mask == "pixels" and not is_testbed(parameters.backbones[name]):
            raise ValueError(
                f"mask 'pixels' takes whatever is coloured for the foreground, which is so in the testbed's world alone: "
                f"calibrate {name} by 'clean' or 'velocity', measured with a --segmenter"
            )
        scores = pd.read_csv(table)
        result = calibrate(scores, definition, mask=mask)
        family = family_of_pipeline(parameters.backbones[name].pipeline)
        prompts = scores["sample"].nunique()
        source = f"foreground ratio above {TAU}, {definition}, mask {mask}, {name}, {prompts} prompts"
        entry = {"family": family, "count": len(result.picked), "blocks": result.blocks, "source": source}
        known[family, len(result.picked)] = entry
        found[name] = result.blocks
    text = json.dumps([known[key] for key in sorted(known)], indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda p: p.write_text(text))
    return found
