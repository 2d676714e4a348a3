"""Muon: momentum whose matrices are orthogonalised before the step (Jordan et al., 2024), in float32.

`torch.optim.Muon` runs its Newton-Schulz iteration in bfloat16, which is ten times slower than float32 on a CPU without
bfloat16 instructions, and takes two-dimensional parameters only; this one takes convolution kernels too.
"""

from __future__ import annotations

import torch
from torch import nn


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Move all singular values of an (m, n) matrix close to 1 by a quintic Newton-Schulz iteration."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum. A kernel (out, in, ...) is treated as the matrix (out, in * ...).

    Updates are scaled by 0.2 sqrt(max(m, n)), so that their root mean square matches AdamW's and the same learning
    rates serve both (Liu et al., 2025).
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p.grad))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                p.add_(update.view_as(p), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def muon_and_adamw(model: nn.Module, muon_lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the matrices and kernels inside blocks and layers, AdamW on embeddings, heads, biases and norms;
    frozen parameters are left out."""
    inner, rest = [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        hidden = any(word in name for word in ("block", "conv", "sample", "layers"))
        (inner if hidden and p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 8 else rest).append(p)
    return [Muon(inner, muon_lr), torch.optim.AdamW(rest, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0)]
