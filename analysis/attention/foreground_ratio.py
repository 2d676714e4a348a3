"""Which blocks look at the foreground: AlignVid's calibration (section 5.2, F.2) of `AlignVid(blocks="calibrated")`.

A mask of the foreground is laid over the attention that each video token receives. The paper gets it by PCA of the latent
noise estimate and SAM 2; here 2-means stands in where SAM 2's weights are not at hand, and the pixels of the finished
video tell how good that is. The prompts are 50, as in the paper, and none of the benchmark's: a list must not be chosen on
what it is judged by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from methods.families import Layout, describe, inputs_by_name, layout_of
from testbed.benchmark import write_benchmark

from ..study.cells import Cell
from ..study.files import write_table
from ..study.parameters import Backbone, Benchmark, Parameters
from ..study.video_key import canonical
from ..videos.generate import load_pipeline, sample_video
from ..videos.study_videos import study_videos
from .calibrated_blocks import calibrate, is_testbed
from .foreground_masks import inner_points, load_sam2, sam2_mask, two_means
from .latent_estimates import estimates, noisy_and_prediction

MASKS = ("pixels", "noise", "velocity", "clean")  # where a mask comes from; the last three by PCA, at every step
DRAWN = 2  # samples whose masks and attention are kept to be looked at
DEFINITIONS = ("mass", "tokens", "per token")
SEED = 11  # of the prompts that are measured
CHROMA = 30.0  # CIELAB; the world's backgrounds stay below 15


def pixel_mask(video: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Foreground by colour, bool (F' H' W',), of a uint8 video (T, H, W, 3) whose latents have the token grid (F', H', W').

    Latent frame 0 is the first frame, each other one the next (T - 1) / (F' - 1). A token is foreground if at least half
    of its pixels have a CIELAB chroma above 30. Raises ValueError if the grid does not fit the video.
    """
    (frames, height, width), (t, h, w) = grid, video.shape[:3]
    if h % height or w % width or (t - 1) % max(1, frames - 1) or (frames == 1 < t):
        raise ValueError(f"a token grid of {grid} does not divide a video of {video.shape[:3]}")
    lab = np.stack([cv2.cvtColor(f.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for f in video])
    share = (
        (np.linalg.norm(lab[..., 1:], axis=-1) > CHROMA).reshape(t, height, h // height, width, w // width).mean((2, 4))
    )
    edges = [0, *np.linspace(1, t, frames).astype(int)]
    return (np.stack([share[a:b].mean(0) for a, b in pairwise(edges)]) >= 0.5).ravel()


def pca_mask(latent: np.ndarray, patch: tuple[int, int, int] = (1, 1, 1), segmenter: str | None = None) -> np.ndarray:
    """Foreground by PCA over channels, bool (F' H' W',), of a latent (C, F, H, W) (F.2 of the paper).

    The three leading components over all tokens are the pseudo-RGB. Each frame is segmented on its own, by 2-means, or by
    the SAM 2 model named `segmenter` with the points that 2-means proposes (analysis.attention.foreground_masks).
    """
    c, f, h, w = latent.shape
    a, b, d = patch
    points = latent.reshape(c, f // a, a, h // b, b, w // d, d).mean((2, 4, 6)).reshape(c, -1).T.astype(float)
    points -= points.mean(0)
    axes = np.linalg.svd(points, full_matrices=False)[2][:3]
    colours = (points @ axes.T).astype(np.float32).reshape(f // a, h // b, w // d, len(axes))
    proposed = [two_means(frame) for frame in colours]
    if segmenter is None:
        return np.concatenate([mask.ravel() for mask in proposed])
    low, high = colours.min((0, 1, 2)), colours.max((0, 1, 2))
    pictures = (255 * (colours - low) / np.maximum(high - low, 1e-12)).round().astype(np.uint8)
    model = load_sam2(segmenter)
    found = [sam2_mask(model, image, inner_points(mask)) for image, mask in zip(pictures, proposed, strict=True)]
    return np.concatenate([mask.ravel() for mask in found])


def agreement(mask: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Intersection over union and balanced accuracy (chance: 0.5) of bool masks (..., L); nan where undefined."""
    with np.errstate(invalid="ignore"):
        hit, miss = (mask & truth).sum(-1) / truth.sum(-1), (mask & ~truth).sum(-1) / (~truth).sum(-1)
        union = (mask & truth).sum(-1) / (mask | truth).sum(-1)
    return {"iou": union, "balanced accuracy": (hit + 1 - miss) / 2}


def foreground_ratios(received: np.ndarray, mask: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Ratio per definition, each (..., blocks), of the attention received (..., blocks, L) under bool masks (..., L), whose
    L tokens are of `frames` latent frames.

    tokens: F.2, the definition in use. Share of foreground among high-attention tokens, nan if there are none; by chance,
    the foreground's share of the tokens. The paper gives no threshold; here a token is high if it lies above the mean plus
    one standard deviation of its own frame, as F.2 groups the tokens "into T segments, each corresponding to a video
    frame". Over the whole video the reference frame, which receives most, would set the threshold for all.
    mass: section 5.2, share of the attention that foreground tokens receive; by chance, as above.
    per token: not in the paper. a / (a + b) with a, b the mean attention received by a foreground and by a background
    token; by chance 0.5 whatever the foreground's size, nan for an empty or full mask.

    Attention *received* is the column mean of the attention among video tokens. Eq. 47 as printed takes the row mean, what
    a token spends on video tokens: the same for all in Wan's self-attention; in joint attention it is what the text leaves
    over, which differs between tokens and finds no foreground (no block's share is above the area by much, none above 0.5).
    """
    inside = mask[..., None, :]
    on, off = ((received * part).sum(-1) for part in (inside, ~inside))
    by_frame = received.reshape(*received.shape[:-1], frames, -1)
    high = by_frame > by_frame.mean(-1, keepdims=True) + by_frame.std(-1, keepdims=True)
    high = high.reshape(received.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = on / inside.sum(-1), off / (~inside).sum(-1)
        return {"mass": on / (on + off), "tokens": (high & inside).sum(-1) / high.sum(-1), "per token": a / (a + b)}


class Step(NamedTuple):
    """What the transformer got and gave at one denoising step: noisy latent and prediction, each (C, F, H, W)."""

    noisy: torch.Tensor
    prediction: torch.Tensor
    layout: Layout


@dataclass(frozen=True)
class Measured:
    """Of one video: masks by name, each (steps, L) bool; received (steps, blocks, L) float, sums to 1 over the L tokens of
    `frames` latent frames."""

    masks: dict[str, np.ndarray]
    received: np.ndarray
    frames: int


@contextmanager
def _observed_steps(transformer) -> Iterator[list[Step]]:
    """A list that grows by one Step per forward of the transformer, while the context is open."""
    steps = []

    def observe(module, args, kwargs, output) -> None:
        inputs = inputs_by_name(module, args, kwargs)
        noisy, prediction = noisy_and_prediction(module, inputs, output[0])
        steps.append(Step(noisy.cpu(), prediction.cpu(), layout_of(module, inputs)))

    handle = transformer.register_forward_hook(observe, with_kwargs=True)
    try:
        yield steps
    finally:
        handle.remove()


def measure(cell: Cell, image_path: Path, backbone: Backbone, segmenter: str | None = None) -> Measured:
    """Make the video of a cell without guidance, and measure its masks and the attention its tokens receive.

    Attention received is that of video queries: in self-attention, or in joint attention, where the part that goes to
    text is left out and the rest scaled to sum to 1.
    """
    pipe = load_pipeline(backbone)
    model = describe(pipe.transformer)
    site = "joint" if "joint" in model.sites else "self"
    cell = replace(cell, record=canonical({"entropy": False, "groups": False, "received": True}))
    with _observed_steps(pipe.transformer) as steps:
        video, recording = sample_video(cell, backbone, image_path)
    layout = steps[0].layout
    video_tokens = layout.sequences["joint" if site == "joint" else "video"].video

    def received_at(step: int, block: str) -> np.ndarray:
        return recording.attention_received(step, block, branch="cond", site=site)[video_tokens].numpy()

    received = np.array([[received_at(i, b.name) for b in model.blocks] for i in range(len(steps))], float)
    received /= received.sum(-1, keepdims=True)
    masks = {name: [] for name in MASKS} | {"pixels": [pixel_mask(video, layout.grid)] * len(steps)}
    for i, (noisy, prediction, _) in enumerate(steps):
        patch = tuple(n // g for n, g in zip(prediction.shape[1:], layout.grid, strict=True))
        for name, latent in estimates(pipe.scheduler, i, noisy, prediction).items():
            masks[name].append(pca_mask(latent.numpy(), patch, segmenter))
    return Measured({k: np.stack(m) for k, m in masks.items()}, received, layout.grid[0])


def foreground(
    parameters: Parameters,
    backbone: str,
    executor: Executor,
    *,
    samples: int,
    out: Path,
    seed: int = SEED,
    segmenter: str | None = None,
) -> pd.DataFrame:
    """Measure `samples` prompts; writes four tables into the folder `out`.

    The prompts and references of a testbed model are drawn from the world with `seed`, which is not the benchmark's; of
    another model they are the first of the benchmark's folder.

    ratios.csv, also returned: sample, mask, definition, block, ratio (mean over the steps where it is defined), area (the
    mask's share of the tokens). agreement.csv: sample, step, mask, measure, value; each PCA mask against the pixels' mask.
    Of the benchmark's first DRAWN samples, masks.csv: sample, mask, step, token, value (0 or 1), at the first and the last
    step; and received.csv: sample, block, token, value; the attention received, mean over steps, as a multiple of a
    uniform one, in the blocks with the highest, the middle and the lowest ratio. Raises ValueError for the benchmark's seed.
    """
    watch = partial(study_videos, watch=measure, executor=executor, label="foreground", segmenter=segmenter)
    drawn = list(watch(parameters, backbone, min(samples, DRAWN)).items())
    with own_prompts(parameters, backbone, seed) as asked:
        measured = watch(asked, backbone, samples)
    ratios = pd.concat([_ratios(sample, m) for sample, m in measured.items()], ignore_index=True)
    falling = np.argsort(-calibrate(ratios).ratio, kind="stable").tolist()
    blocks = [falling[0], falling[len(falling) // 2], falling[-1]]
    tables = {
        "ratios": ratios,
        "agreement": pd.concat([_agreements(sample, m) for sample, m in measured.items()]),
        "masks": pd.concat([_masks(sample, m) for sample, m in drawn]),
        "received": pd.concat([_received(sample, m, blocks) for sample, m in drawn]),
    }
    for name, table in tables.items():
        write_table(table.round(4), out / f"{name}.csv")
    return ratios


@contextmanager
def own_prompts(parameters: Parameters, backbone: str, seed: int) -> Iterator[Parameters]:
    """Parameters whose benchmark has other samples of the world, drawn with `seed`, while the context is open; the same
    parameters for a model that is not the testbed's."""
    if not is_testbed(parameters.backbones[backbone]):
        yield parameters
        return
    if seed == parameters.benchmark.seed:
        raise ValueError(f"seed {seed} is the benchmark's: a calibration needs prompts that it is not judged by")
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(Path(folder), seed)
        yield parameters.model_copy(update={"benchmark": Benchmark(folder=Path(folder), seed=seed)})


def _ratios(sample: str, measured: Measured) -> pd.DataFrame:
    rows = []
    for name, mask in measured.masks.items():
        for definition, ratio in foreground_ratios(measured.received, mask, measured.frames).items():
            mean = pd.DataFrame(ratio).mean()  # leaves out steps without a value
            rows += [(sample, name, definition, b, r, mask.mean()) for b, r in mean.items()]
    return pd.DataFrame(rows, columns=["sample", "mask", "definition", "block", "ratio", "area"])


def _agreements(sample: str, measured: Measured) -> pd.DataFrame:
    rows = [
        (sample, step, name, kind, value)
        for name in MASKS[1:]
        for kind, values in agreement(measured.masks[name], measured.masks["pixels"]).items()
        for step, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["sample", "step", "mask", "measure", "value"])


def _masks(sample: str, measured: Measured) -> pd.DataFrame:
    ends = (0, len(measured.received) - 1)
    rows = [
        (sample, name, step, token, int(inside))
        for name, mask in measured.masks.items()
        for step in ends
        for token, inside in enumerate(mask[step])
    ]
    return pd.DataFrame(rows, columns=["sample", "mask", "step", "token", "value"])


def _received(sample: str, measured: Measured, blocks: list[int]) -> pd.DataFrame:
    tokens = measured.received.shape[2]
    rows = [
        (sample, block, token, tokens * value)
        for block in blocks
        for token, value in enumerate(measured.received[:, block].mean(0))
    ]
    return pd.DataFrame(rows, columns=["sample", "block", "token", "value"])
