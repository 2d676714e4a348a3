"""What the autoencoder alone costs: true clips, encoded and decoded, scored by the oracle."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKLWan

from .benchmark import draw_benchmark
from .oracle import Oracle
from .train_vae import to_tensor
from .world import render


@lru_cache(maxsize=1)
def _autoencoder(folder: Path) -> AutoencoderKLWan:
    torch.set_num_threads(1)
    return AutoencoderKLWan.from_pretrained(folder, subfolder="vae").eval()


@torch.no_grad()
def round_trip(vae: AutoencoderKLWan, video: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) -> latents -> uint8 (T, H, W, 3)."""
    decoded = vae.decode(vae.encode(to_tensor(video)[None]).latent_dist.mode()).sample[0].clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def _one(sample, checkpoint: Path) -> list[dict]:
    record, scene, event = sample
    video = render(scene, event)
    decoded, oracle, pristine = round_trip(_autoencoder(checkpoint), video), Oracle(), Oracle()
    error = np.square(video.astype(float) - decoded).mean()
    return [
        {
            "sample": record["id"],
            "main_category": record["main-category"],
            "psnr": round(float(10 * np.log10(255**2 / error)), 1),
            "category": q["category"],
            "expected": q["expected_answer"],
            "right_before": int(pristine.answer(video, q["question"]).value == q["expected_answer"]),
            "right": int(oracle.answer(decoded, q["question"]).value == q["expected_answer"]),
        }
        for q in record["questions"]
    ]


def reconstruct(checkpoint: Path, seed: int, out: Path) -> pd.DataFrame:
    """One row per question of every benchmark sample; psnr in dB is the sample's. Written to `out` as CSV."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as executor:
        rows = [
            r
            for part in executor.map(partial(_one, checkpoint=checkpoint), draw_benchmark(seed), chunksize=8)
            for r in part
        ]
    table = pd.DataFrame(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_suffix(".tmp"), index=False, lineterminator="\n")
    os.replace(out.with_suffix(".tmp"), out)
    return table
