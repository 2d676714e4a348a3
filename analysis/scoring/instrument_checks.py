"""How far the measures are from the truth: true clips, encoded and decoded, of which the world knows what happens."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from testbed.benchmark import ambient_of, draw_benchmark
from testbed.world import Ambient, Event, Scene, render, state

from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.progress import track
from .autoencoder_limit import autoencoder, round_trip
from .objects import LEFT, last_quarter
from .score_video import measures


def truth(scene: Scene, event: Event, ambient: Ambient, frames: int, *, executed: bool = True) -> dict[str, float]:
    """What the measures should say of a clip: asked_px (pixels), onset (frame), returned, object_integrity, camera_px."""
    time = np.arange(frames)
    progress = np.clip((time - event.start) / event.length, 0, 1) * executed
    shown, away, end = progress >= 0.5, float("nan"), last_quarter(frames)  # half the object's area
    index = event.other if event.kind == "push" else event.target
    if event.kind in ("move", "push"):
        still = replace(ambient, pan=(0.0, 0.0))
        places = [state(scene, event, still, f, executed=executed, frames=frames)[index].shape for f in time]
        way = np.hypot([p.x - places[0].x for p in places], [p.y - places[0].y for p in places])
        shown, away = way >= LEFT, float(way[end].mean())
    return {
        "asked_px": away,
        "onset": int(np.argmax(shown)) if shown.any() else frames,
        "returned": 0,
        "object_integrity": 1.0,
        "camera_px": float(np.hypot(*ambient.pan) * (time / (frames - 1))[end].mean()),
    }


def check(record: dict, scene: Scene, event: Event, decode) -> list[dict]:
    """A row per measure of a sample's true clip and of the same clip without its event, both with ambient motion and through
    `decode` (uint8 video -> the same): sample, event, video ("true" or "no event"), measure, truth (nan where the world does
    not know it), measured."""
    rows, ambient = [], ambient_of(record, scene, event)
    reference = render(scene, event, executed=False, frames=1)[0]
    for name, executed in (("true", True), ("no event", False)):
        video = render(scene, event, ambient, executed=executed)
        known = truth(scene, event, ambient, len(video), executed=executed)
        found = measures(decode(video), reference, record["questions"])
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
