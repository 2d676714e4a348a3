"""Parts that are trained before the transformers and then kept as they are."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn


def take_text_encoder(model: nn.Module, folder: Path) -> nn.Module:
    """Give `model.text_encoder` the weights in `<folder>/text.safetensors` and freeze it, where there are any."""
    if (file := folder / "text.safetensors").exists():
        model.text_encoder.load_state_dict(load_file(file))
        model.text_encoder.requires_grad_(False)
    return model
