"""Deltas: a few tuned tensors of a transformer in a safetensors file, put over those of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file


@torch.no_grad()
def load_delta(transformer: torch.nn.Module, file: Path) -> Callable[[], None]:
    """Put the tensors of `file` in the place of the transformer's of the same names; returns what undoes it.

    Raises ValueError if there is no such file, or if a name or a shape does not fit; then nothing is changed.
    """
    if not Path(file).is_file():
        raise ValueError(f"no delta at {file}; tune one with `python -m analysis tune-focal`")
    tensors, own = load_file(file), dict(transformer.named_parameters())
    if not tensors:
        raise ValueError(f"{file} holds no tensors")
    for name, value in tensors.items():
        if name not in own:
            raise ValueError(f"{file} does not fit: the {type(transformer).__name__} has no tensor {name}")
        if value.shape != own[name].shape:
            raise ValueError(
                f"{file} does not fit: {name} is {tuple(value.shape)}, the model's {tuple(own[name].shape)}"
            )
    before = {name: own[name].detach().clone() for name in tensors}
    put(own, tensors)
    return lambda: put(own, before)


@torch.no_grad()
def put(parameters: dict[str, torch.nn.Parameter], tensors: dict[str, torch.Tensor]) -> None:
    """Copy `tensors` into the parameters of the same names, in the parameters' dtype and on their device."""
    for name, value in tensors.items():
        parameters[name].copy_(value)
