"""Train the whole testbed from nothing: autoencoder, CLIP, latents, text-to-video, image-to-video, pipelines.

Each part writes one file when it is finished and is skipped when that file exists, so a killed run goes on where it was.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModel

from . import processes
from .card import write_card
from .latents import encode_all
from .models import (
    build_text_encoder,
    build_transformer,
    image_to_video_from,
    image_to_video_pipeline,
    text_to_video_pipeline,
)
from .train_clip import train_clip
from .train_transformer import Denoiser, train_transformer
from .train_vae import train_vae
from .trainer import replace_folder


def train_all(params: dict, folder: Path, out: Path, workers: int | None = None) -> None:
    """Run every part with `params` (the section `testbed` of params.yaml) in `folder`; write pipelines to `out`."""
    folder.mkdir(parents=True, exist_ok=True)
    workers, seed = workers or processes.default_processes(), params["seed"]
    common = dict(seed=seed, device="cuda" if torch.cuda.is_available() else "cpu")
    data = params["data"]

    def part(finished: str, function, **kwargs):
        if not (folder / finished).exists():
            processes.run(function, workers, folder, **kwargs, **common)

    part("vae/config.json", train_vae, **params["vae"])
    part("clip/config.json", train_clip, **params["clip"])
    common["seed"] = seed + 3  # images and videos are different clips
    part("t2v.safetensors", encode_all, kind="image", clips=data["images"])
    common["seed"] = seed
    part("i2v.safetensors", encode_all, kind="video", clips=data["videos"], unexecuted=data["unexecuted"])
    part("t2v.safetensors", train_transformer, name="t2v", **params["t2v"])
    part("i2v.safetensors", train_transformer, name="i2v", **params["i2v"])
    assemble(folder, out)
    write_card(params, folder, out)


def assemble(folder: Path, out: Path) -> None:
    """Put the trained parts together as two diffusers folders, `<out>/wan-t2v` and `<out>/wan-i2v`."""
    for name in ("t2v", "i2v"):
        assemble_one(folder, folder / f"{name}.safetensors", out / f"wan-{name}", image_to_video=name == "i2v")
    shutil.copytree(folder / "clip", out / "clip", dirs_exist_ok=True)  # with its text half


def assemble_one(folder: Path, weights: Path, target: Path, *, image_to_video: bool) -> None:
    """One diffusers folder from the transformer's `weights` and the autoencoder and CLIP in `folder`."""
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    transformer = build_transformer(image_to_video=False)
    if image_to_video:
        transformer = image_to_video_from(transformer)
    model = Denoiser(build_text_encoder(), transformer)
    model.load_state_dict(load_file(weights))
    parts = vae.eval(), model.text_encoder.eval(), model.transformer.eval()
    if not image_to_video:
        return replace_folder(target, text_to_video_pipeline(*parts).save_pretrained)
    clip = CLIPModel.from_pretrained(folder / "clip")
    vision = CLIPVisionModel(clip.config.vision_config)
    vision.load_state_dict({k.removeprefix("vision_model."): v for k, v in clip.vision_model.state_dict().items()})
    replace_folder(target, image_to_video_pipeline(*parts, vision.eval()).save_pretrained)
