"""Tiny random transformers of every registered family, with inputs whose grid has three different sides."""

from __future__ import annotations

import torch

from methods.families import FAMILIES as REGISTERED

GRID = (3, 2, 4)  # latent frames, rows and columns of tokens
WORDS = 5  # valid text tokens

FAMILIES = {name: tiny for family in REGISTERED.values() for name, tiny in family.tiny.items()}
IMAGE_TO_VIDEO = [name for name, tiny in FAMILIES.items() if tiny.image_to_video]


def make(name, dtype=torch.float32, batch=1, grid=GRID, words=WORDS):
    """(transformer in eval mode, inputs of one forward) of a family, seeded; weights spread so that attention is sharp."""
    model, inputs = FAMILIES[name].make(batch, grid, words)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if p.ndim >= 2:
            p.data = torch.randn(p.shape, generator=generator) * (2.0 / p.shape[1]) ** 0.5 * 0.7
    keep = {"encoder_attention_mask", "encoder_attention_mask_2"}
    if name != "hunyuan-1.5":  # whose pipeline rounds the time to the model's dtype
        keep.add("timestep")
    inputs = {
        k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() and k not in keep else v
        for k, v in inputs.items()
    }
    model = model.to(dtype).eval()
    if name.startswith("kandinsky"):  # computes its time in float32; `from_pretrained` keeps these parts so
        for part, module in model.named_modules():
            if part.rpartition(".")[2] in model._keep_in_fp32_modules:
                module.float()
    return model, inputs


@torch.no_grad()
def forward(model, inputs):
    out = model(**inputs, return_dict=False)
    return out[0] if isinstance(out, tuple) else out


def is_joint(name):
    return FAMILIES[name].sites == ("joint",)


def sites_of(name):
    return list(FAMILIES[name].sites)


def options(name):
    """What `steer` must be told about a transformer without its pipeline; calls at one time are videos of their own."""
    return {"branches": ("cond",)} | FAMILIES[name].options


def expected_keys(name, site, grid=GRID, words=WORDS, batch=1):
    """The group of every key of the last sample, one string per token, in the order in which the models lay them out."""
    return FAMILIES[name].keys(site, grid, words, batch)
