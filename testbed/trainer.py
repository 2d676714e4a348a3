"""A small, resumable training loop shared by all stages: seeded, checkpointed, on one GPU or several CPU processes.

Every step draws its batch from a seed of its own and each process takes its share of it, so a run that was killed and
resumed sees the same samples and noise as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def warmup_cosine(step: int, steps: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a half cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    stage: str,
    folder: Path,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    *,
    factor: Callable[[int], float] | None = None,
    ema: float = 0.0,
    batch: int = 1,
    snapshots: int = 0,
    checkpoint_every: float = 120.0,
) -> dict[str, torch.Tensor]:
    """Run `steps` optimiser steps and return the averaged weights (the plain ones if `ema` is 0).

    `loss(step)` computes the loss of this process's share of the step's batch; gradients are averaged over processes.
    `<folder>/<stage>.state.safetensors` holds the state, rewritten atomically every `checkpoint_every` seconds;
    `<folder>/<stage>.log.csv` holds one line per 20 steps (step, samples seen, loss, seconds). `snapshots` times,
    evenly spaced, the averaged weights are kept as `<folder>/snapshots/<stage>-<samples seen>.safetensors`.
    """
    rank, world = rank_and_world()
    factor = factor or (lambda step: warmup_cosine(step, steps))
    state_file, log_file = folder / f"{stage}.state.safetensors", folder / f"{stage}.log.csv"
    average = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    bases = [[g["lr"] for g in o.param_groups] for o in optimizers]
    first, spent = _load(state_file, model, optimizers, average) if state_file.exists() else (0, 0.0)
    if first == 0 and rank == 0:
        log_file.write_text("step,samples,loss,seconds\n")
    parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    kept = {round(steps * i / snapshots) for i in range(1, snapshots + 1)}
    began = saved = printed = time.time()
    running: list[float] = []
    for step in range(first, steps):
        for optimizer, base in zip(optimizers, bases, strict=True):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor(step)
        value = loss(step)
        value.backward()
        if world > 1:
            _average_gradients(parameters, world)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in model.state_dict().items():
                average[k].lerp_(v.float(), 1 - decay)
        running.append(value.item())
        now = time.time()
        if rank == 0 and ((step + 1) % 20 == 0 or step + 1 == steps):
            mean, seconds = sum(running) / len(running), spent + now - began
            with log_file.open("a") as f:
                f.write(f"{step + 1},{(step + 1) * batch},{mean:.5f},{seconds:.0f}\n")
            running.clear()
            if now - printed > 10 or step + 1 == steps:
                left = (now - began) / (step + 1 - first) * (steps - step - 1)
                print(f"{stage}: step {step + 1}/{steps}  loss {mean:.4f}  {left / 60:.1f} min left", flush=True)
                printed = now
        if rank == 0 and step + 1 in kept:
            (folder / "snapshots").mkdir(exist_ok=True)
            save_atomically(average, folder / "snapshots" / f"{stage}-{(step + 1) * batch:07d}.safetensors")
        if rank == 0 and (now - saved > checkpoint_every or step + 1 == steps):
            _save(state_file, model, optimizers, average, step + 1, spent + now - began)
            saved = now
    return average


def _average_gradients(parameters, world):
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = flat[offset : offset + g.numel()].view_as(g)
        offset += g.numel()


def _save(path, model, optimizers, average, step, seconds):
    tensors = {f"model/{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v.contiguous() for k, v in average.items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{j}/{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
    save_atomically(tensors, path, {"step": str(step), "seconds": json.dumps(seconds)})


def _load(path, model, optimizers, average):
    with safe_open(path, "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    model.load_state_dict({k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith("model/")})
    for k in average:
        average[k].copy_(tensors[f"average/{k}"])
    for i, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        state["state"] = {}
        for k, v in tensors.items():
            if k.startswith(f"optimizer/{i}/"):
                _, _, j, name = k.split("/")
                state["state"].setdefault(int(j), {})[name] = v
        optimizer.load_state_dict(state)
    return int(meta["step"]), float(meta["seconds"])


def save_atomically(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name and move it into place."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().clone() for k, v in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


def replace_folder(target: Path, save: Callable[[Path], object]) -> None:
    """Let `save(folder)` fill a temporary folder, then put it in the place of `target`: no half folder is ever seen."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
