"""How far the measures are from the truth: true clips, encoded and decoded, of which the world knows what happens."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from testbed.benchmark import draw_benchmark
from testbed.world import Event, Scene, render

from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.progress import track
from .autoencoder_limit import autoencoder, round_trip
from .fidelity import fidelity
from .objects import LEFT, object_measures
from .score_video import motion


def truth(scene: Scene, event: Event, frames: int) -> dict[str, float]:
    """What the measures should say of a clip in which the event happens: asked_px (pixels), onset (frame), returned,
    object_integrity."""
    progress = np.clip((np.arange(frames) - event.start) / event.length, 0, 1)
    travel = float("nan")
    needed = 0.5  # of the way until it counts as shown: half the object's area, or so many pixels
    if event.kind == "move":
        before = scene.objects[event.target]
        travel = float(np.hypot(event.result.x - before.x, event.result.y - before.y))
        needed = LEFT / travel
    return {"asked_px": travel, "onset": int(np.argmax(progress >= needed)), "returned": 0, "object_integrity": 1.0}


def check(record: dict, scene: Scene, event: Event, decode) -> list[dict]:
    """A row per measure of a sample's true clip and of its still copy, both through `decode` (uint8 video -> the same):
    sample, event, video ("true" or "still copy"), measure, truth (nan where the world does not know it), measured."""
    rows, reference = [], render(scene, event, executed=False, frames=1)[0]
    for name, executed in (("true", True), ("still copy", False)):
        video = render(scene, event, executed=executed)
        known = truth(scene, event, len(video))
        if not executed:
            known |= {"asked_px": 0.0 * known["asked_px"], "onset": len(video)}
        decoded = decode(video)
        found = (
            object_measures(decoded, reference, record["questions"]) | motion(decoded) | fidelity(decoded, reference)
        )
        told = {"sample": record["id"], "event": event.kind, "video": name}
        rows += [told | {"measure": m, "truth": known.get(m, np.nan), "measured": v} for m, v in found.items()]
    return rows


def _one(sample, checkpoint: str) -> list[dict]:
    return check(*sample, partial(round_trip, autoencoder(checkpoint)))


def check_instruments(
    parameters: Parameters, backbone: str, executor: Executor, out: Path, samples: int
) -> pd.DataFrame:
    """`summary` of the benchmark's first `samples` through a backbone's autoencoder, written to `out` as CSV."""
    drawn = draw_benchmark(parameters.benchmark.seed)[:samples]
    one = partial(_one, checkpoint=parameters.backbones[backbone].checkpoint)
    parts = track(executor.map(one, drawn, chunksize=4), len(drawn), "instruments")
    table = summary(pd.DataFrame([row for part in parts for row in part]))
    write_table(table.round(4), out)
    return table


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per event, video and measure: n, the mean truth, the mean measured, the mean absolute error and the 95 % quantile of
    the absolute error (nan where the truth is not known)."""
    rows = rows.assign(error=(rows["measured"] - rows["truth"]).abs())
    by = rows.groupby(["measure", "event", "video"], sort=False)
    return by.agg(
        n=("measured", "count"), truth=("truth", "mean"), measured=("measured", "mean"), mean_error=("error", "mean"),
        error_95=("error", lambda e: e.quantile(0.95)),
    ).reset_index()  # fmt: skip
