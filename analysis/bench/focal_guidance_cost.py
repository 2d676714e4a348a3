"""What Focal Guidance costs: time of a denoising step of a backbone with each part on, and its operations from shapes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import pandas as pd
import torch
from PIL import Image

from methods import FocalGuidance, steer
from methods.registry import from_dict

from ..study.benchmark_samples import load_samples
from ..study.parameters import Parameters
from ..videos.generate import load_pipeline
from .attention_cost import machine_name, seconds, summarise_times, there_and_back, this_device, write_table

PLAIN, ANCHORS = "plain", "keywords and anchors, once a video"


@dataclass(frozen=True)
class Shapes:
    """Sizes of a Wan 2.1 image-to-video forward: latent frames, and rows and columns of tokens in each; widths; tokens."""

    frames: int
    rows: int
    columns: int
    width: int
    ffn: int
    layers: int
    text_dim: int
    image_dim: int
    freq_dim: int = 256
    in_channels: int = 36
    out_channels: int = 16
    patch: int = 4  # latent pixels in a token
    text: int = 512
    image: int = 257

    @property
    def tokens(self) -> int:
        return self.frames * self.rows * self.columns


# Wan 2.1 14B at 480p (832 x 480), 81 frames: 32,760 tokens.
WAN_14B = Shapes(frames=21, rows=30, columns=52, width=5120, ffn=13824, layers=40, text_dim=4096, image_dim=1280)


def forward_operations(s: Shapes) -> int:
    """Floating-point operations of one forward of one video: those of its matrix products, 2 per multiply-add."""
    n, c, keys = s.tokens, s.width, s.text + s.image
    self_attention = 4 * n * c * c + 2 * n * n * c
    cross_attention = 2 * n * c * c + 2 * keys * c * c + 2 * n * keys * c
    blocks = s.layers * (self_attention + cross_attention + 2 * n * c * s.ffn)
    conditions = s.text * c * (s.text_dim + c) + s.image * s.image_dim * (s.image_dim + c) + c * (s.freq_dim + 7 * c)
    ends = n * s.patch * c * (s.in_channels + s.out_channels)
    return 2 * (blocks + conditions + ends)


def focal_operations(s: Shapes, keywords: int, weak: int, *, text: bool, latent: bool, cache: bool) -> int:
    """Floating-point operations that Focal Guidance adds to a forward, of its matrix products, 2 per multiply-add.

    V_k^vis (Eq. 7) goes through the image embedder and a value projection: in each of the `weak` blocks once for the
    binding (text) and once for the injections. latent (Eq. 9) takes the keywords' maps from the patches to the tokens of
    the first frame and spreads V_k^vis over them, cache (Eq. 13) over those of all frames; for that
    the other blocks project the keywords and compare them with all tokens (Eq. 10).
    """
    n, c, k = s.tokens, s.width, keywords
    visual = k * (s.image_dim * s.image_dim + s.image_dim * c + c * c)
    added = weak * visual * (text + (latent or cache))
    side = round((s.image - 1) ** 0.5)
    placing = s.rows * side * side + s.rows * side * s.columns
    added += weak * latent * k * (s.rows * s.columns * c + placing)
    added += cache * (weak * n * k * c + (s.layers - weak) * (k * c * c + n * k * c))
    return 2 * added


def step_inputs(pipe, image: Image.Image, prompt: str, frames: int) -> dict:
    """Inputs of the transformer for a video of that many frames: random latents, the reference and the prompt encoded by
    the pipeline, which notes them for the guidance."""
    width, height = image.size
    device = pipe.transformer.device
    text = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    tokens = pipe.encode_image(image, device)
    pixels = pipe.video_processor.preprocess(image, height=height, width=width).to(device, torch.float32)
    draw = torch.Generator().manual_seed(0)
    noise, condition = pipe.prepare_latents(
        pixels, 1, pipe.vae.config.z_dim, height, width, frames, torch.float32, device, draw
    )
    hidden = torch.cat([noise, condition], 1).to(pipe.transformer.dtype)
    return {"hidden_states": hidden, "encoder_hidden_states": text, "encoder_hidden_states_image": tokens}


def bench_focal(
    parameters: Parameters, name: str = "wan-i2v", method: str = "focal-full", repeats: int = 15
) -> pd.DataFrame:
    """A row per part of `methods.<method>`: milliseconds of one denoising step of backbone `name` without
    classifier-free guidance (the second one: the first has no cache), and its ratio to the plain step with quartiles,
    over `repeats` interleaved rounds. The last row is what is done once a video. Written to results/bench/focal-<device>.csv.
    """
    device, backbone = this_device(), parameters.backbones[name]
    full = next(m for m in map(from_dict, parameters.methods[method]) if isinstance(m, FocalGuidance))
    off = replace(full, text=0.0, latent=0.0, cache=0.0)
    settings = {
        PLAIN: None,
        "strengths 0": off,
        "text-value binding": replace(off, text=full.text),
        "latent injection": replace(off, latent=full.latent),
        "attention cache": replace(off, cache=full.cache),
        "all parts": full,
    }
    torch.set_num_threads(1)  # as videos are made
    pipe, folder = load_pipeline(backbone), parameters.benchmark.folder
    sample = load_samples(folder)[0]
    image = Image.open(folder / sample["image-path"]).convert("RGB")
    times = {key: [] for key in [*settings, ANCHORS]}
    for turn in range(repeats + 1):
        for key, guidance in there_and_back(settings, turn):
            with nullcontext() if guidance is None else steer(pipe, guidance), torch.inference_mode():
                inputs = step_inputs(pipe, image, sample["prompt"], backbone.frames)
                if guidance is full:
                    times[ANCHORS].append(seconds(lambda: full.anchors(pipe), device))
                for time in (900.0, 800.0):
                    with pipe.transformer.cache_context("cond"):
                        step = inputs | {"timestep": torch.tensor([time], device=pipe.transformer.device)}
                        spent = seconds(lambda step=step: pipe.transformer(**step), device)
                times[key].append(spent)
    head = {"device": machine_name(device), "threads": 1, "backbone": name}
    rows = [head | {"setting": key} | summarise_times(times, key, PLAIN) for key in times]
    return write_table(rows, f"focal-{device}")


def shares(s: Shapes, weak: int, keywords: list[int]) -> pd.DataFrame:
    """Added operations in percent of a forward's, a row per part, a column per number of keywords."""
    parts = {
        "text-value binding": dict(text=True, latent=False, cache=False),
        "latent injection": dict(text=False, latent=True, cache=False),
        "attention cache": dict(text=False, latent=False, cache=True),
        "all parts": dict(text=True, latent=True, cache=True),
    }
    table = {
        f"{k} keywords": {
            part: 100 * focal_operations(s, k, weak, **on) / forward_operations(s) for part, on in parts.items()
        }
        for k in keywords
    }
    return pd.DataFrame(table)


def cost_sentence(s: Shapes) -> str:
    """How much one forward pass is, which the shares are of."""
    return f"One forward pass at {s.tokens:,} tokens: {forward_operations(s) / 1e12:.0f} TFLOP."
