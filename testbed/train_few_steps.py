"""Distil an image-to-video model to four steps without guidance.

Each of the sampler's steps is learnt by itself: the student, given the latents at the step's noise, is to jump where the
guided teacher gets to in `substeps` smaller Euler steps (progressive distillation, Salimans and Ho 2022, on the segments of
the final sampler, with guidance distilled along, Meng et al. 2023). The student's sampler is plain Euler, which jumps so.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from .lineages import module_of
from .muon import muon_and_adamw
from .train_transformer import ALL, draw_batch, load_sources, start_from
from .trainer import fit, rank_and_world, save_atomically


def euler_sampler(shift: float) -> DPMSolverMultistepScheduler:
    """The student's sampler: a solver of first order, which for flow matching is Euler's method. (diffusers' own Euler
    scheduler ends four steps at noise 0.009 and 0, and so makes three.)"""
    return DPMSolverMultistepScheduler(
        solver_order=1, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def sampler_levels(steps: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(noise levels (steps + 1,) from 1 down to 0, the times (steps,) that the model is told at all but the last)."""
    scheduler = euler_sampler(shift)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas, scheduler.timesteps.float()


@torch.no_grad()
def guided_jump(velocity, x: torch.Tensor, high: torch.Tensor, low: torch.Tensor, scale: float, substeps: int):
    """The velocity (B, ...) that takes x from noise `high` to `low` (B,) in one step to where guided Euler steps get to.

    velocity(x, sigma) -> (with the caption, without it). The levels between are evenly spaced.
    """
    end, width = x, ((high - low) / substeps).view(-1, *[1] * (x.dim() - 1))
    for i in range(substeps):
        conditional, unconditional = velocity(end, high + (low - high) * i / substeps)
        end = end - width * (unconditional + scale * (conditional - unconditional))
    return (x - end) / (substeps * width)


def train_few_steps(
    folder: Path,
    *,
    lineage: str,
    name: str,
    teacher: str,
    phase: str,
    steps: int,
    sampler_steps: int,
    shift: float,
    guidance: float,
    substeps: int,
    batch: int,
    muon_lr: float,
    adamw_lr: float,
    ema: float,
    seed: int,
    device="cpu",
) -> None:
    """Write `<folder>/<name>.safetensors`, the student of `<folder>/<teacher>.safetensors`.

    steps: of the optimiser; sampler_steps: of the student's sampler, at the flow's `shift`. phase: whose clips the student sees,
    the one that the teacher saw last.
    """
    torch.manual_seed(seed)
    rank, world = rank_and_world()
    own = module_of(lineage)
    student = own.build_denoiser(folder)
    start_from(student, own, folder, teacher)
    student.to(device)
    frozen = copy.deepcopy(student).requires_grad_(False).eval()
    mean, std = own.statistics(json.loads((folder / "vae" / "config.json").read_text()))
    sources = load_sources(folder, [phase], mean=mean, std=std)
    empty_ids, empty_lengths = own.tokenize([""])
    sigmas, times = sampler_levels(sampler_steps, shift)

    def loss(step):
        rng, generator = np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step)
        clean, ids, lengths, condition, tokens = draw_batch(phase, sources, rng, batch)
        segment = torch.randint(sampler_steps, (batch,), generator=generator)
        high, low, time = sigmas[segment], sigmas[segment + 1], times[segment]
        noisy, _ = own.diffuse(clean, torch.randn(clean.shape, generator=generator), 1000 * high)
        mine = slice(rank, None, world)
        noisy, ids, lengths, condition, tokens, high, low, time = (
            x[mine].to(device) if x is not None else None
            for x in (noisy, ids, lengths, condition, tokens, high, low, time)
        )
        captions = [(ids, lengths), (empty_ids.expand_as(ids), empty_lengths.expand_as(lengths))]

        def velocity(x, sigma):
            inputs = own.model_input(x, condition, ALL)
            return [frozen(inputs, 1000 * sigma, *caption, tokens) for caption in captions]

        target = guided_jump(velocity, noisy, high, low, guidance, substeps)
        own_jump = student(own.model_input(noisy, condition, ALL), time, ids, lengths, tokens)
        return (own_jump - target).square().mean()

    optimizers = muon_and_adamw(student, muon_lr, adamw_lr)
    weights = fit(name, folder, student, loss, optimizers, steps, ema_decay=ema, batch=batch)
    if rank == 0:
        save_atomically(weights, folder / f"{name}.safetensors")
