"""What the autoencoder alone costs: true clips, encoded and decoded, scored by the oracle."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoModel

from testbed.benchmark import draw_benchmark
from testbed.oracle import Oracle
from testbed.train_vae import to_tensor
from testbed.world import render

from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.progress import track
from ..videos.fast_convolution import convolve_directly
from .fidelity import psnr


@lru_cache(maxsize=1)
def autoencoder(checkpoint: str):
    """The autoencoder of a checkpoint, in the form that generation uses."""
    vae = AutoModel.from_pretrained(checkpoint, subfolder="vae").eval()
    convolve_directly(vae)
    return vae


@torch.no_grad()
def round_trip(vae, video: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) -> latents -> uint8 (T, H, W, 3)."""
    decoded = vae.decode(vae.encode(to_tensor(video)[None]).latent_dist.mode()).sample[0].clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def _one(sample, checkpoint: str) -> list[dict]:
    record, scene, event = sample
    video = render(scene, event)
    decoded, oracle, pristine = round_trip(autoencoder(checkpoint), video), Oracle(), Oracle()
    return [
        {
            "sample": record["id"],
            "main_category": record["main-category"],
            "psnr": round(psnr(video, decoded), 1),
            "category": q["category"],
            "expected": q["expected_answer"],
            "right_before": int(pristine.answer(video, q["question"]).value == q["expected_answer"]),
            "right": int(oracle.answer(decoded, q["question"]).value == q["expected_answer"]),
        }
        for q in record["questions"]
    ]


def reconstruct(parameters: Parameters, backbone: str, executor: Executor, out: Path, samples: int) -> pd.DataFrame:
    """One row per question of the benchmark's first `samples`; psnr in dB is the sample's. Written to `out` as CSV."""
    samples = draw_benchmark(parameters.benchmark.seed)[:samples]
    one = partial(_one, checkpoint=parameters.backbones[backbone].checkpoint)
    parts = track(executor.map(one, samples, chunksize=8), len(samples), "reconstruct")
    table = pd.DataFrame([row for part in parts for row in part])
    write_table(table, out)
    return table
