"""Train the two Wan transformers: text-to-video first, then the image-to-video model tuned from it.

Each model has one cosine schedule over phases that grow dearer: `image` (the final state as one frame, whole caption),
`pair` (first and last latent frame of a clip), `clip` (all five latent frames) and, for image-to-video only, `neglect`
(five frames; in the marked share of clips the described event does not happen). The flow-matching target is
noise - data, at x_t = (1 - t) data + t noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import nn

from .folding import folded_padding
from .latents import SLOTS, load_all, tokenize
from .models import build_text_encoder, build_transformer, image_to_video_from
from .muon import muon_and_adamw
from .trainer import fit, rank_and_world, save_atomically, warmup_cosine

SNAPSHOTS = 6  # states of each model kept for the curve of samples seen against adherence
PAIR = [0, 4]  # latent frames before the event starts and after it has ended


class Denoiser(nn.Module):
    """The parts that are trained together: text encoder and transformer."""

    def __init__(self, text_encoder, transformer):
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer

    def forward(self, latents, timestep, ids, lengths, image_tokens=None):
        """latents (B, C, F, 8, 8), timestep (B,) in 0..1000, ids (B, SLOTS), image_tokens (B, 65, 64) -> velocity."""
        mask = torch.arange(SLOTS, device=ids.device)[None] < lengths[:, None]
        text = self.text_encoder(ids, mask.long()).last_hidden_state * mask[..., None]
        with folded_padding(self.transformer, lengths, SLOTS):
            return self.transformer(
                latents, timestep, text, encoder_hidden_states_image=image_tokens, return_dict=False
            )[0]


def sample_times(generator: torch.Generator, count: int, shift: float = 2.0) -> torch.Tensor:
    """Logit-normal times in (0, 1), shifted towards noise as the sampler's flow shift does."""
    t = torch.sigmoid(torch.randn(count, generator=generator) * 1.1)
    return shift * t / (1 + (shift - 1) * t)


def condition_channels(condition: torch.Tensor) -> torch.Tensor:
    """(B, 16, F, 8, 8) latents of the reference -> (B, 20, F, 8, 8): 4 mask channels (1 in frame 0) in front."""
    mask = torch.zeros_like(condition[:, :4])
    mask[:, :, 0] = 1
    return torch.cat([mask, condition], dim=1)


def draw_batch(phase: str, data: dict, images: dict | None, rng: np.random.Generator, size: int):
    """(clean latents, ids, lengths, condition or None, image tokens or None) of `size` samples of a phase."""
    source = images if phase == "image" else data
    rows = torch.from_numpy(rng.integers(0, len(source["ids"]), size))
    ids, lengths = source["ids"][rows], source["lengths"][rows]
    if phase == "image":
        return source["latent"][rows].float(), ids, lengths, None, None
    clean, condition = data["event"][rows].float(), data["condition"][rows].float()
    if phase == "neglect":
        still = data["still_row"][rows]
        clean[still >= 0] = data["still"][still[still >= 0]].float()
    if phase == "pair":
        clean, condition = clean[:, :, PAIR], condition[:, :, PAIR]
    return clean, ids, lengths, condition, data["tokens"][rows].float()


def train_transformer(
    folder: Path,
    *,
    name: str,
    phases: dict[str, int],
    batch: int,
    muon_lr: float,
    adamw_lr: float,
    ema: float,
    seed: int,
    text_dropout: float = 0.1,
    device="cpu",
) -> None:
    """Train "t2v" from nothing or "i2v" from the trained t2v; write `<folder>/<name>.safetensors` (averaged weights).

    phases: steps per phase, in order. Captions are replaced by the empty one in a `text_dropout` share of the samples.
    """
    torch.manual_seed(seed)
    rank, world = rank_and_world()
    model = Denoiser(build_text_encoder(), build_transformer(image_to_video=False))
    if name == "i2v":
        model.load_state_dict(load_file(folder / "t2v.safetensors"))
        model.transformer = image_to_video_from(model.transformer)
    model.to(device)
    vae = AutoencoderKLWan.load_config(folder / "vae")
    scale = dict(mean=vae["latents_mean"], std=vae["latents_std"])
    images = load_all(folder, "image", **scale) if "image" in phases else None
    data = load_all(folder, "video", **scale) if phases.keys() - {"image"} else None
    empty_ids, empty_lengths = tokenize([""])
    ends, names = np.cumsum(list(phases.values())), list(phases)

    def loss(step):
        phase = names[int(np.searchsorted(ends, step, side="right"))]
        rng, generator = np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step)
        clean, ids, lengths, condition, tokens = draw_batch(phase, data, images, rng, batch)
        drop = torch.rand(batch, generator=generator) < text_dropout
        ids, lengths = torch.where(drop[:, None], empty_ids, ids), torch.where(drop, empty_lengths, lengths)
        t = sample_times(generator, batch)
        noise = torch.randn(clean.shape, generator=generator)
        tt = t.view(-1, 1, 1, 1, 1)
        noisy, target = (1 - tt) * clean + tt * noise, noise - clean
        if name == "i2v":
            noisy = torch.cat([noisy, condition_channels(condition)], dim=1)
        else:
            tokens = None
        mine = slice(rank, None, world)
        inputs = [x[mine].to(device) if x is not None else None for x in (noisy, t * 1000, ids, lengths, tokens)]
        return (model(*inputs) - target[mine].to(device)).square().mean()

    weights = fit(
        name,
        folder,
        model,
        loss,
        muon_and_adamw(model, muon_lr, adamw_lr),
        int(ends[-1]),
        factor=lambda step: warmup_cosine(step, int(ends[-1])),
        ema=ema,
        batch=batch,
        snapshots=SNAPSHOTS,
    )
    if rank == 0:
        save_atomically(weights, folder / f"{name}.safetensors")
