"""Train the video autoencoder: single frames first, then parts of clips, then whole clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .lineages import module_of
from .models import LATENT_CHANNELS
from .muon import muon_and_adamw
from .trainer import fit, rank_and_world, replace_folder
from .world import FRAMES, training_clip


def to_tensor(video: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> float (3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(video).permute(3, 0, 1, 2).float() / 127.5 - 1


def with_noise(latents: torch.Tensor, most: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents (B, C, F, H, W) plus Gaussian noise, in each clip of a standard deviation drawn from 0 to `most`."""
    strength = torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
    noise = strength * torch.randn(latents.shape, generator=generator)
    return latents + most * noise.to(latents.device)


def train_vae(folder: Path, *, lineage: str, seed: int, rounds: dict[str, dict], device="cpu"):
    """Train in `rounds`, each with `windows` (frames; 1 + 4 n), `steps` and `batch` per window and a learning rate `lr`;
    write `<folder>/vae/`, with latent statistics. The last round needs whole clips: late frames come out blurred without.

    The loss is the mean absolute error plus a weak pull of the latents towards a unit Gaussian. A round with `noise`
    decodes each clip with Gaussian noise of a random strength, up to that share of the latents' root mean square: what
    can be seen, such as a shape's outline, must then stand out of the noise that the transformer has to remove.
    """
    torch.manual_seed(seed)
    vae = module_of(lineage).build_vae().to(device)
    rank, world = rank_and_world()
    for name, r in rounds.items():
        ends, windows, batch = np.cumsum(r["steps"]), r["windows"], r["batch"]

        def loss(step, r=r, ends=ends, windows=windows, batch=batch):
            phase = int(np.searchsorted(ends, step, side="right"))
            window, size = windows[phase], batch[phase]
            clips = []
            for i in range(rank, size, world):
                clip = training_clip(step * max(batch) + i, seed=seed + 1).video()
                rng = np.random.default_rng([seed, step, i])
                # Half of the windows start at the first frame: the causal autoencoder treats that one apart.
                start = 0 if rng.random() < 0.5 else int(rng.integers(0, FRAMES - window + 1))
                clips.append(to_tensor(clip[start : start + window]))
            x = torch.stack(clips).to(device)
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step * world + rank))
            latents = posterior.mean + posterior.std * noise.to(device)
            if "noise" in r:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + step * world + rank)
                latents = with_noise(latents, r["noise"] * posterior.mean.square().mean().sqrt(), generator)
            y = vae.decode(latents).sample
            return (y - x).abs().mean() + 3e-4 * posterior.kl().mean() / posterior.mean[0].numel()

        optimizers = muon_and_adamw(vae, r["lr"], r["lr"])
        weights = fit(name, folder, vae, loss, optimizers, int(ends[-1]), ema_decay=0.99, batch=batch[0])
        vae.load_state_dict(weights)
    if rank == 0:
        module_of(lineage).set_statistics(vae, *latent_statistics(vae, seed))
        replace_folder(folder / "vae", vae.save_pretrained)


@torch.no_grad()
def latent_statistics(vae, seed: int, clips: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel, (16,), over training clips."""
    latents = []
    for i in range(0, clips, 16):
        x = torch.stack([to_tensor(training_clip(j, seed=seed + 2).video()) for j in range(i, i + 16)])
        latents.append(vae.encode(x.to(vae.device)).latent_dist.mode().cpu())
    z = torch.cat(latents).transpose(0, 1).reshape(LATENT_CHANNELS, -1)
    return z.mean(1), z.std(1)
