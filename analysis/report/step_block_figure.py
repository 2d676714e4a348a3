"""Where in the network, and when in sampling, a recorded measure changes: block by step, all panels on one scale."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from . import labels


def relative_change(first: pd.DataFrame, second: pd.DataFrame, name: str) -> pd.DataFrame:
    """Change of a measure from `first` to `second`, in percent of `first`: index block, columns step. Both tables have a
    row per step and block."""
    a, b = (t.set_index(["step", "block"])[name] for t in (first, second))
    grid = (100 * (b / a - 1)).reset_index(name="change")
    return grid.assign(block=grid["block"].astype(int)).pivot(index="block", columns="step", values="change")


def step_block_figure(changes: dict[str, dict[str, pd.DataFrame]], counts: dict[str, int], title: str):
    """Figure of {backbone: {measure: `relative_change`}}: a row per backbone, red for more, blue for less. counts: the
    number of prompts of each backbone."""
    limit = max(grid.abs().to_numpy().max() for grids in changes.values() for grid in grids.values())
    most = max(map(len, changes.values()))
    size = (3.3 * most + 0.8, 2.9 * len(changes) + 0.3)
    figure, axes = plt.subplots(len(changes), most, figsize=size, squeeze=False)
    for line, (b, grids) in zip(axes, changes.items(), strict=True):
        for ax, (name, grid) in zip(line, grids.items(), strict=False):
            picture = ax.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
            ax.set(xlabel="denoising step", ylabel="block", xticks=grid.columns[::2], yticks=grid.index[::2])
            ax.set_title(name, fontsize=10)
            ax.grid(False)
        for ax in line[len(grids) :]:
            ax.set_axis_off()
        line[0].set_ylabel(f"{labels.backbone(b)}, n = {counts[b]}\nblock")
    figure.colorbar(picture, ax=axes, label="change (%)", shrink=0.8)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
