"""Figures and a table of what each word of a prompt is attended from (`attention/attended_words.py`)."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from testbed.world import COLOURS

from ..attention.keyword_anchors import object_mask
from . import labels
from .focal_figures import pointing_table
from .token_outlines import outline


def pointing(words: pd.DataFrame) -> pd.DataFrame:
    """Per backbone and kind of word: how well the attention that the first latent frame pays to the word points at its
    object: mean area under the curve with its 95 % interval over prompts; 0.5 is chance."""
    parts = [
        pointing_table(own).assign(backbone=labels.backbone(b)) for b, own in words.groupby("backbone", sort=False)
    ]
    table = pd.concat(parts)
    table["points at its object"] = [
        f"{r.auc:.2f} ({r.low:.2f} to {r.high:.2f})" for r in table.itertuples()
    ]  # area under the curve
    return table[["backbone", "kind", "points at its object", "words", "prompts"]]


def attended(maps: pd.DataFrame, backbone: str, images: Path):
    """Attention to each word over the latent frames, rows are words, one scale per word; maps: rows of one backbone
    (sample, word, frame, row, column, value), an object's colour before its shape. The object that a word names is outlined
    in the reference and in frame 0."""
    keys = list(dict.fromkeys(zip(maps["sample"], maps["word"], strict=True)))
    frames = sorted(maps["frame"].unique())
    size = (1.15 * (len(frames) + 1) + 2.4, 1.12 * len(keys) + 0.8)
    figure, axes = plt.subplots(len(keys), 1 + len(frames), figsize=size, squeeze=False)
    colour = ""
    for line, (sample, word) in zip(axes, keys, strict=True):
        own = maps[(maps["sample"] == sample) & (maps["word"] == word)]
        grids = [100 * own[own["frame"] == f].pivot(index="row", columns="column", values="value") for f in frames]
        picture, side = np.asarray(Image.open(images / f"{sample}.png").convert("RGB")), len(grids[0])
        high = max(g.to_numpy().max() for g in grids)
        line[0].imshow(picture, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
        for ax, grid in zip(line[1:], grids, strict=True):
            drawn = ax.imshow(grid, cmap="cividis", vmin=0, vmax=high)
        colour = word if word in COLOURS else colour  # a shape word is about the object of the colour before it
        for ax in line[:2]:
            outline(ax, object_mask(picture, colour, side))
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        line[0].set_ylabel(f'"{word}"', rotation=0, ha="right", va="center", fontsize=9)
        figure.colorbar(drawn, ax=line, label="% of attention", shrink=0.85)
    for ax, name in zip(axes[0], ["reference", *(f"latent frame {f}" for f in frames)], strict=True):
        ax.set_title(name, fontsize=8, fontweight="normal")
    title = f"{labels.backbone(backbone)}: how much each video token looks at a word"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure
