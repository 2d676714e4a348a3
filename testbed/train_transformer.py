"""Train the two transformers of a backbone: text-to-video first, then the image-to-video model tuned from it.

Each model has one cosine schedule over increasingly expensive phases: `image` (the final state as one frame, whole caption),
`pair` (first and last latent frame of a clip), `clip` (all five latent frames) and, for image-to-video only, `neglect`
(five frames; in the marked share of clips the described event does not happen).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .latents import load_all, tokenize
from .lineages import module_of
from .muon import muon_and_adamw
from .trainer import fit, rank_and_world, save_atomically

SNAPSHOTS = 6  # states of each model kept for the curve of samples seen against adherence
ALL, PAIR = [0, 1, 2, 3, 4], [0, 4]  # latent frames; those before the event starts and after it has ended


def draw_batch(phase: str, data: dict, images: dict | None, rng: np.random.Generator, size: int):
    """(clean latents, ids, lengths, latents of the reference or None, image tokens or None) of `size` samples."""
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
        clean = clean[:, :, PAIR]
    tokens = data["tokens"][rows].float() if "tokens" in data else None
    return clean, ids, lengths, condition, tokens


def train_transformer(
    folder: Path,
    *,
    lineage: str,
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
    """Train one model and write `<folder>/<name>.safetensors` (averaged weights).

    name: "t2v" (from nothing) or "i2v" (from the weights of the former). A text encoder that was trained before, in
    `<folder>/text.safetensors`, is taken as it is; else it is trained along.
    phases: steps per phase, in order. Captions are replaced by the empty one in a `text_dropout` share of the samples.
    """
    torch.manual_seed(seed)
    rank, world = rank_and_world()
    own = module_of(lineage)
    model = own.Denoiser(own.build_text_encoder(), own.build_transformer(image_to_video=False))
    if (folder / "text.safetensors").exists():
        model.text_encoder.load_state_dict(load_file(folder / "text.safetensors"))
        model.text_encoder.requires_grad_(False)
    if name == "i2v":
        model.load_state_dict(load_file(folder / "t2v.safetensors"))
        model.transformer = own.image_to_video_from(model.transformer)
    model.to(device)
    mean, std = own.statistics(json.loads((folder / "vae" / "config.json").read_text()))
    scale = dict(mean=mean, std=std)
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
        timestep = own.sample_timesteps(generator, batch)
        noise = torch.randn(clean.shape, generator=generator)
        noisy, target = own.diffuse(clean, noise, timestep)
        if name == "i2v":
            noisy = torch.cat([noisy, own.condition_channels(condition, PAIR if phase == "pair" else ALL)], dim=1)
        else:
            tokens = None
        mine = slice(rank, None, world)
        inputs = [x[mine].to(device) if x is not None else None for x in (noisy, timestep, ids, lengths, tokens)]
        return (model(*inputs) - target[mine].to(device)).square().mean()

    weights = fit(
        name,
        folder,
        model,
        loss,
        muon_and_adamw(model, muon_lr, adamw_lr),
        int(ends[-1]),
        ema_decay=ema,
        batch=batch,
        snapshots=SNAPSHOTS,
    )
    if rank == 0:
        save_atomically(weights, folder / f"{name}.safetensors")
