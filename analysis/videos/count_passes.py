"""How many passes of the transformer a video takes under a setting: counted while one is made, not worked out."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import pandas as pd

from methods.families import attention_modules

from ..study.backbone_settings import Backbone
from ..study.cells import Cell, expand
from ..study.files import write_table
from ..study.parameters import Parameters
from .generate import reference_files
from .load_backbone import load_pipeline
from .sample_video import sample_video
from .study_videos import each_video

SETTING = ["method", "guidance_scale", "blur"]


def passes_of(cell: Cell, image: Path, backbone: Backbone) -> float:
    """Passes of one sample through the transformer while the video of `cell` is made.

    Both branches of guidance in one batch are two passes. A pass from which blocks are left out counts in part: by the share
    of its attention modules that were run.
    """
    transformer, counted = load_pipeline(backbone).transformer, [0.0]
    modules = [module for _, _, module in attention_modules(transformer)]

    def ran(module, args, kwargs, output):
        first = output[0] if isinstance(output, tuple) else output
        counted[0] += first.shape[0] / len(modules)

    handles = [module.register_forward_hook(ran, with_kwargs=True) for module in modules]
    try:
        sample_video(cell, backbone, image)
    finally:
        for handle in handles:
            handle.remove()
    return round(counted[0], 2)


def count_passes(parameters: Parameters, sweeps: list[str], executor: Executor, out: Path) -> pd.DataFrame:
    """A row per setting of `sweeps` (of one backbone) with the passes of its first video, written to `out`. Raises ValueError
    for a setting that the backbone refuses."""
    cells = {}
    for sweep in sweeps:
        found = expand(parameters, sweep)
        images = reference_files(parameters, sweep, found)
        for cell in found:
            cells.setdefault((cell.method, cell.guidance_scale, cell.blur), (cell, images[cell.key]))
    backbone = parameters.backbones[parameters.sweeps[sweeps[0]].backbone]
    counted = each_video(passes_of, list(cells.values()), executor, f"passes {out.stem}", backbone=backbone)
    rows = [
        dict(zip(SETTING, setting, strict=True)) | {"passes": n} for setting, (_, n) in zip(cells, counted, strict=True)
    ]
    table = pd.DataFrame(rows)
    write_table(table, out)
    return table
