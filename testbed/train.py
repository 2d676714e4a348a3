"""Train a backbone of the testbed from nothing: autoencoder, latents, text-to-video, image-to-video, pipelines.

Each part writes one file when it is finished and is skipped when that file exists, so a killed run goes on where it was.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModel

from . import processes
from .card import write_card
from .latents import encode_all
from .lineages import module_of
from .train_clip import train_clip
from .train_text import train_text
from .train_transformer import train_transformer
from .train_vae import train_vae
from .trainer import replace_folder


def train_all(lineage: str, params: dict, folder: Path, out: Path, workers: int | None = None) -> None:
    """Train "wan" or "cogvideox" with `params` (the section `testbed` of params.yaml) in `folder`; pipelines in `out`.

    A lineage with a `clip` section gets a CLIP model too, whose vision half is the pipeline's image encoder; one with a
    `text` section gets its text encoder before its transformer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers, seed = workers or processes.default_processes(), params["seed"]
    data, own = params["data"], params[lineage]
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def part(finished: str, function, seed=seed, **kwargs):
        if not (folder / finished).exists():
            processes.run(function, workers, folder, seed=seed, device=device, **kwargs)

    part("vae/config.json", train_vae, lineage=lineage, **own["vae"])
    if "clip" in own:
        part("clip/config.json", train_clip, **own["clip"])
    if "text" in own:
        part("text.safetensors", train_text, lineage=lineage, **own["text"])
    images = dict(kind="image", clips=data["images"], seed=seed + 3)  # images and videos are different clips
    part("t2v.safetensors", encode_all, lineage=lineage, **images)
    videos = dict(kind="video", clips=data["videos"], unexecuted=data["unexecuted"])
    part("i2v.safetensors", encode_all, lineage=lineage, **videos)
    part("t2v.safetensors", train_transformer, lineage=lineage, name="t2v", **own["t2v"])
    part("i2v.safetensors", train_transformer, lineage=lineage, name="i2v", **own["i2v"])
    assemble(lineage, folder, out)
    write_card(lineage, params, folder, out)


def assemble(lineage: str, folder: Path, out: Path) -> None:
    """Put the trained parts together as two diffusers folders, `<out>/<lineage>-t2v` and `<out>/<lineage>-i2v`."""
    for name in ("t2v", "i2v"):
        weights = folder / f"{name}.safetensors"
        target = out / f"{lineage}-{name}"
        assemble_one(lineage, folder, weights, target, image_to_video=name == "i2v")
    if (folder / "clip").exists():
        shutil.copytree(folder / "clip", out / "clip", dirs_exist_ok=True)  # with its text half


def assemble_one(lineage: str, folder: Path, weights: Path, target: Path, *, image_to_video: bool) -> None:
    """One diffusers folder from the transformer's `weights` and the autoencoder and CLIP in `folder`."""
    own = module_of(lineage)
    vae = AutoModel.from_pretrained(str(folder / "vae"))
    transformer = own.build_transformer(image_to_video=False)
    if image_to_video:
        transformer = own.image_to_video_from(transformer)
    model = own.Denoiser(own.build_text_encoder(), transformer)
    model.load_state_dict(load_file(weights))
    parts = vae.eval(), model.text_encoder.eval(), model.transformer.eval()
    if not image_to_video:
        return replace_folder(target, own.text_to_video_pipeline(*parts).save_pretrained)
    vision = None
    if (folder / "clip").exists():
        clip = CLIPModel.from_pretrained(folder / "clip")
        vision = CLIPVisionModel(clip.config.vision_config).eval()
        vision.load_state_dict({k.removeprefix("vision_model."): v for k, v in clip.vision_model.state_dict().items()})
    replace_folder(target, own.image_to_video_pipeline(*parts, vision).save_pretrained)
