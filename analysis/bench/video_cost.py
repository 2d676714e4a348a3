"""Where the time of one video goes on this machine, for a backbone of params.yaml."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
import torch

from ..study.benchmark_samples import load_samples
from ..study.cells import expand
from ..study.parameters import Parameters
from ..videos.generate import load_pipeline, sample_video


class _Stopwatch:
    """Adds up the time spent in a module's method; restores the method when it leaves."""

    def __init__(self, owner, method: str):
        self.owner, self.method, self.seconds, self.calls = owner, method, 0.0, 0

    def __enter__(self):
        original = getattr(self.owner, self.method)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            out = original(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds, self.calls = self.seconds + time.perf_counter() - began, self.calls + 1
            return out

        setattr(self.owner, self.method, timed)
        return self

    def __exit__(self, *error):
        delattr(self.owner, self.method)  # the instance attribute; the class's method is seen again


def bench(parameters: Parameters, name: str, repeats: int = 3) -> pd.DataFrame:
    """Milliseconds of each part of one unguided sample, the median of `repeats` videos after a warm-up,
    and its share of the whole. Single-threaded on a CPU, as `generate` runs."""
    sweep = next((k for k, v in parameters.sweeps.items() if v.backbone == name), None)
    if sweep is None:
        raise ValueError(f"no sweep of params.yaml uses backbone {name!r}, so there is no sample to time")
    backbone = parameters.backbones[name]
    cell = replace(expand(parameters, sweep)[0], guidance_scale=1.0)
    sample = next(s for s in load_samples(parameters.benchmark.folder) if s["id"] == cell.sample)
    torch.set_num_threads(1)
    pipe = load_pipeline(backbone)
    rows = []
    for _ in range(repeats + 1):
        parts = {
            "text encoder": _Stopwatch(pipe.text_encoder, "forward"),
            "autoencoder, encode": _Stopwatch(pipe.vae, "encode"),
            "transformer": _Stopwatch(pipe.transformer, "forward"),
            "autoencoder, decode": _Stopwatch(pipe.vae, "decode"),
        }
        began = time.perf_counter()
        with ExitStack() as watches:
            for watch in parts.values():
                watches.enter_context(watch)
            sample_video(cell, backbone, parameters.benchmark.folder / sample["image-path"])
        row = {k: 1000 * w.seconds for k, w in parts.items()} | {"whole video": 1000 * (time.perf_counter() - began)}
        rows.append(row | {"one denoising step": row["transformer"] / max(1, parts["transformer"].calls)})
    median = pd.DataFrame(rows[1:]).median()
    return pd.DataFrame({"ms": median.round(1), "share": (median / median["whole video"]).round(3)})
