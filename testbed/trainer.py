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
    """Multiplier of the learning rate: linear warm-up, then a half cosine down to `floor`."""
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
    schedule: Callable[[int], float] | None = None,
    ema_decay: float = 0.0,
    batch: int = 1,
    snapshots: int = 0,
    checkpoint_every: float = 120.0,
) -> dict[str, torch.Tensor]:
    """Run `steps` optimiser steps and return the averaged weights (the plain ones if `ema_decay` is 0).

    `loss(step)` computes the loss of this process's share of the step's batch; gradients are averaged over processes.
    `schedule(step)` multiplies the learning rates, by default `warmup_cosine`.
    `<folder>/<stage>.state.safetensors` holds the state, rewritten atomically every `checkpoint_every` seconds;
    `<folder>/<stage>.log.csv` holds one line per 20 steps (step, samples seen, loss, seconds). `snapshots` times,
    evenly spaced, the averaged weights are kept as `<folder>/snapshots/<stage>-<samples seen>.safetensors`.
    """
    rank, world = rank_and_world()
    schedule = schedule or (lambda step: warmup_cosine(step, steps))
    state_file = folder / f"{stage}.state.safetensors"
    ema = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    base_lrs = [[g["lr"] for g in o.param_groups] for o in optimizers]
    first, spent = _load(state_file, model, optimizers, ema) if state_file.exists() else (0, 0.0)
    log = _Log(stage, folder / f"{stage}.log.csv", steps, batch, first, spent) if rank == 0 else None
    snapshot_steps = {round(steps * i / snapshots) for i in range(1, snapshots + 1)}
    saved = time.time()
    for step in range(first, steps):
        _set_learning_rates(optimizers, base_lrs, schedule(step))
        value = loss(step)
        value.backward()
        _step(optimizers, world)
        _update_ema(ema, model, min(ema_decay, (1 + step) / (10 + step)))
        if rank != 0:
            continue
        done, loss_now = step + 1, value.item()
        log.add(done, loss_now)
        if done in snapshot_steps:
            (folder / "snapshots").mkdir(exist_ok=True)
            save_atomically(ema, folder / "snapshots" / f"{stage}-{done * batch:07d}.safetensors")
        if time.time() - saved > checkpoint_every or done == steps:
            saved = time.time()
            _save(state_file, model, optimizers, ema, done, log.seconds())
    return ema


class _Log:
    """Mean loss per 20 steps in a CSV file, and on the terminal with the time left, at most every 10 seconds."""

    def __init__(self, stage: str, file: Path, steps: int, batch: int, first: int, spent: float):
        self.stage, self.file, self.steps, self.batch, self.first, self.spent = stage, file, steps, batch, first, spent
        self.began = self.printed = time.time()
        self.losses: list[float] = []
        if first == 0:
            file.write_text("step,samples,loss,seconds\n")

    def seconds(self) -> float:
        """Training time so far, that of earlier runs included."""
        return self.spent + time.time() - self.began

    def add(self, done: int, loss: float) -> None:
        """Note the loss of step number `done`."""
        self.losses.append(loss)
        if done % 20 and done != self.steps:
            return
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        with self.file.open("a") as f:
            f.write(f"{done},{done * self.batch},{mean:.5f},{self.seconds():.0f}\n")
        now = time.time()
        if now - self.printed > 10 or done == self.steps:
            left = (now - self.began) / (done - self.first) * (self.steps - done)
            print(f"{self.stage}: step {done}/{self.steps}  loss {mean:.4f}  {left / 60:.1f} min left", flush=True)
            self.printed = now


def _set_learning_rates(optimizers, base_lrs, multiplier):
    for optimizer, base in zip(optimizers, base_lrs, strict=True):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * multiplier


def _step(optimizers, world):
    parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    if world > 1:
        _average_gradients(parameters, world)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def _update_ema(ema, model, decay):
    for k, v in model.state_dict().items():
        ema[k].lerp_(v.float(), 1 - decay)


def _average_gradients(parameters, world):
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = flat[offset : offset + g.numel()].view_as(g)
        offset += g.numel()


def _save(path, model, optimizers, ema, step, seconds):
    tensors = {f"model/{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v.contiguous() for k, v in ema.items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{j}/{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
    save_atomically(tensors, path, {"step": str(step), "seconds": json.dumps(seconds)})


def _load(path, model, optimizers, ema):
    with safe_open(path, "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    model.load_state_dict({k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith("model/")})
    for k in ema:
        ema[k].copy_(tensors[f"average/{k}"])
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
