"""Attention maps: what each video token looks at, drawn over the frames, for a few videos of a recorded sweep."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from methods.core.attention_call import AttentionCall
from methods.core.attention_statistics import statistics
from methods.core.steer import attach

from ..study.cells import Cell, expand
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters
from ..videos.generate import load_pipeline, reference_files, sample_video
from ..videos.study_videos import each_video

# map -> the sites, one in each family, and the token group that gets the mass. In joint attention "text" holds padding too.
MAPS = {"words": (("text", "joint"), "text"), "reference": (("self", "joint"), "reference")}


@dataclass
class MapObserver:
    """Adds up, per map, the attention mass of every video query, over heads, blocks and steps of the conditional branch."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # map -> (L,)
    calls: dict[str, int] = field(default_factory=dict)
    grid: tuple[int, int, int] = (0, 0, 0)

    def check(self, model) -> None:
        """Nothing to refuse."""

    def active(self, model, context, block, site) -> bool:
        """In the calls that a map is made of."""
        return context.branch != "uncond" and any(site in sites for sites, _ in MAPS.values())

    @torch.no_grad()
    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Add one attention call."""
        self.grid = call.layout.grid
        rows = torch.arange(call.query.shape[2], device=call.query.device)[call.queries.video]
        found = statistics(call, rows, entropy=False, frames=False)["rows"]
        for name, (sites, group) in MAPS.items():
            if call.site in sites and ("mass", group) in found:
                mass = found["mass", group][call.conditional()].mean((0, 1)).double().cpu()
                self.sums[name] = self.sums.get(name, 0) + mass
                self.calls[name] = self.calls.get(name, 0) + 1


def _watch(cell: Cell, image: Path, backbone: Backbone) -> pd.DataFrame:
    observer = MapObserver()
    with attach(load_pipeline(backbone), [observer]):
        sample_video(replace(cell, record=""), backbone, image)
    frames, rows, columns = (x.ravel() for x in np.indices(observer.grid))
    maps = {name: (observer.sums[name] / observer.calls[name]).numpy() for name in observer.sums}
    place = {"frame": frames, "row": rows, "column": columns}
    return pd.DataFrame({"sample": cell.sample, "method": cell.method, "blur": cell.blur} | place | maps)


def attention_maps(parameters: Parameters, sweep: str, executor: Executor, *, samples: int, out: Path) -> pd.DataFrame:
    """Write `out` (CSV): for the first `samples` samples of a sweep under each of its settings, the mean attention mass
    (over heads, blocks, steps) that each video token pays to the words of the prompt, within text attention, and to the
    reference frame, within self-attention; both within joint attention where there is no other."""
    cells = expand(parameters, sweep)
    first = list(dict.fromkeys(c.sample for c in cells))[:samples]
    cells = [c for c in cells if c.sample in first]
    images = reference_files(parameters, sweep, cells)
    backbone = parameters.backbones[parameters.sweeps[sweep].backbone]
    watched = each_video(_watch, [(c, images[c.key]) for c in cells], executor, f"maps {sweep}", backbone=backbone)
    table = pd.concat(found for _, found in watched)
    write_table(table, out, "%.4g")
    return table
