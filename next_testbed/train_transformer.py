"""Train the two transformers of a backbone: text-to-video first, then the image-to-video model tuned from it.

Each model has one cosine schedule over increasingly expensive phases: `image` (the final state as one frame, whole caption),
`pair` (first and last latent frame of a clip), `clip` (all five latent frames) and, for image-to-video only, one of
`neglect` (five frames; in the marked share of clips the described event does not happen) and `leak` (five frames; every
caption is true, but in most clips the event begins late, so that they mostly show the reference).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from testbed.muon import muon_and_adamw
from testbed.trainer import fit, rank_and_world, save_atomically

from .latents import load_all
from .lineages import module_of

SNAPSHOTS = 6  # states of each model kept for the curve of samples seen against adherence
ALL, PAIR = [0, 1, 2, 3, 4], [0, 4]  # latent frames; those before the event starts and after it has ended
LATE_SHARE = 0.7  # of the clips of the phase `leak`


def draw_batch(phase: str, sources: dict[str, dict], rng: np.random.Generator, size: int):
    """(clean latents, ids, lengths, latents of the reference or None, image tokens or None) of `size` samples.

    sources: the encoded clips by kind, "image", "video" and "late" as far as the phase needs them.
    """
    if phase == "leak":
        late = int(rng.binomial(size, LATE_SHARE))
        parts = [_draw(sources[k], rng, n) for k, n in (("late", late), ("video", size - late))]
        clean, *rest = (torch.cat(x) if x[0] is not None else None for x in zip(*parts, strict=True))
        return clean, *rest
    if phase == "image":
        source = sources["image"]
        rows = torch.from_numpy(rng.integers(0, len(source["ids"]), size))
        return source["latent"][rows].float(), source["ids"][rows], source["lengths"][rows], None, None
    clean, *rest = _draw(sources["video"], rng, size, neglect=phase == "neglect")
    return clean[:, :, PAIR] if phase == "pair" else clean, *rest


def _draw(source: dict, rng: np.random.Generator, size: int, neglect: bool = False):
    rows = torch.from_numpy(rng.integers(0, len(source["ids"]), size))
    clean, condition = source["event"][rows].float(), source["condition"][rows].float()
    if neglect:
        still = source["still_row"][rows]
        clean[still >= 0] = source["still"][still[still >= 0]].float()
    tokens = source["tokens"][rows].float() if "tokens" in source else None
    return clean, source["ids"][rows], source["lengths"][rows], condition, tokens


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
    start: str = "t2v",
    reference_noise: float = 0.0,
    device="cpu",
) -> None:
    """Train one model and write `<folder>/<name>.safetensors` (averaged weights).

    name: "t2v" (from nothing), or a name that begins with "i2v", tuned from the weights of `start`. A text encoder that was
    trained before, in `<folder>/text.safetensors`, is taken as it is; else it is trained along.
    reference_noise: the reference's latent z becomes (1 - s) z + s noise, s evenly drawn up to this for each sample.
    phases: steps per phase, in order. Captions are replaced by the empty one in a `text_dropout` share of the samples.
    """
    torch.manual_seed(seed)
    rank, world = rank_and_world()
    own = module_of(lineage)
    model = own.build_denoiser(folder)
    if name.startswith("i2v"):
        start_from(model, own, folder, start)
    model.to(device)
    mean, std = own.statistics(json.loads((folder / "vae" / "config.json").read_text()))
    scale = dict(mean=mean, std=std)
    sources = load_sources(folder, phases, **scale)
    empty_ids, empty_lengths = own.tokenize([""])
    ends, names = np.cumsum(list(phases.values())), list(phases)

    def loss(step):
        phase = names[int(np.searchsorted(ends, step, side="right"))]
        rng, generator = np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step)
        clean, ids, lengths, condition, tokens = draw_batch(phase, sources, rng, batch)
        drop = torch.rand(batch, generator=generator) < text_dropout
        ids, lengths = torch.where(drop[:, None], empty_ids, ids), torch.where(drop, empty_lengths, lengths)
        timestep = own.sample_timesteps(generator, batch)
        noise = torch.randn(clean.shape, generator=generator)
        noisy, target = own.diffuse(clean, noise, timestep)
        if reference_noise:
            condition = noised(condition, reference_noise, generator)
        if name.startswith("i2v"):
            noisy = own.model_input(noisy, condition, PAIR if phase == "pair" else ALL)
        else:
            tokens = None
        mine = slice(rank, None, world)
        inputs = [x[mine].to(device) if x is not None else None for x in (noisy, timestep, ids, lengths, tokens)]
        error = (model(*inputs) - target[mine].to(device)).square()
        return (error[:, :, own.CLEAN_FRAMES :] if name.startswith("i2v") else error).mean()

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


def kinds_of(phases) -> list[str]:
    """The kinds of encoded clips that `draw_batch` needs for some phases."""
    kinds = {"image": ["image"], "leak": ["video", "late"]}
    return sorted({kind for phase in phases for kind in kinds.get(phase, ["video"])})


def load_sources(folder: Path, phases, **scale) -> dict[str, dict]:
    """The encoded clips of `kinds_of` the phases, by kind; scale: of `load_all`."""
    return {kind: load_all(folder, kind, **scale) for kind in kinds_of(phases)}


def start_from(model, own, folder: Path, start: str) -> None:
    """The weights of `<folder>/<start>.safetensors`, and the image-to-video transformer in either case."""
    if start != "t2v":
        model.transformer = own.image_to_video_from(model.transformer)
    model.load_state_dict(load_file(folder / f"{start}.safetensors"))
    if start == "t2v":
        model.transformer = own.image_to_video_from(model.transformer)


def noised(condition: torch.Tensor, most: float, generator: torch.Generator) -> torch.Tensor:
    """The reference's latents (B, C, F, H, W) with (1 - s) z + s noise in the first frame, s in [0, most] for each sample."""
    share = most * torch.rand(len(condition), 1, 1, 1, generator=generator)
    out, first = condition.clone(), condition[:, :, 0]
    out[:, :, 0] = (1 - share) * first + share * torch.randn(first.shape, generator=generator)
    return out
