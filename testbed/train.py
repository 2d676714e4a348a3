"""Train a lineage of the testbed from nothing: autoencoder, CLIP and text encoder where it has its own, latents, text-to-video,
image-to-video models, pipelines.

Each part writes one file when it is finished and is skipped when that file exists, so a killed run goes on where it was.
"""

from __future__ import annotations

import filecmp
import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from . import processes
from .card import write_card
from .latents import encode_all
from .lineages import WITH_CLIP, module_of
from .train_clip import train_clip
from .train_few_steps import euler_sampler, train_few_steps
from .train_llava import train_llava
from .train_text import train_text
from .train_transformer import train_transformer
from .train_vae import train_vae
from .trainer import replace_folder


def train_all(lineage: str, params: dict, folder: Path, out: Path, workers: int | None = None) -> None:
    """Train "wan", "cogvideox" or "hunyuan" with `params` (the section `testbed` of params.yaml) in `folder`; pipelines in `out`.

    A lineage with a `text` or `llava` section gets its text encoder before its transformer. The CLIP model, which several share,
    is trained in the folder above.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers, seed = workers or processes.default_processes(), params["seed"]
    data, own = params["data"], params[lineage]
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def part(finished: str | list[str], function, seed=seed, **kwargs):
        files = [finished] if isinstance(finished, str) else finished
        if not all((folder / file).exists() for file in files):
            processes.run(function, workers, folder, seed=seed, device=device, **kwargs)

    part("vae/config.json", train_vae, lineage=lineage, **own["vae"])
    if lineage in WITH_CLIP:
        take_clip(folder, partial(processes.run, train_clip, workers, seed=seed, device=device, **params["clip"]))
    if "llava" in own:
        part("text.safetensors", train_llava, **own["llava"])
    if "text" in own:
        part("text.safetensors", train_text, lineage=lineage, **own["text"])
    images = dict(kind="image", clips=data["images"], seed=seed + 3)  # images and videos are different clips
    part("t2v.safetensors", encode_all, lineage=lineage, **images)
    trained_in = set().union(*(phases_of(own[name]) for name in image_to_video_models(own)))
    part(
        [f"{name}.safetensors" for name in ("t2v", *image_to_video_models(own))],
        encode_all,
        lineage=lineage,
        kind="video",
        clips=data["videos"],
        unexecuted=data["unexecuted"] if "neglect" in trained_in else 0.0,
    )
    part("t2v.safetensors", train_transformer, lineage=lineage, name="t2v", **own["t2v"])
    for name in image_to_video_models(own):
        if "leak" in phases_of(own[name]):
            part(f"{name}.safetensors", encode_all, lineage=lineage, kind="late", clips=data["late"], seed=seed + 6)
        train = train_few_steps if "sampler_steps" in own[name] else train_transformer
        part(f"{name}.safetensors", train, lineage=lineage, name=name, **own[name])
    assemble(lineage, own, folder, out)
    write_card(lineage, params, folder, out)


def take_clip(folder: Path, train) -> None:
    """Have the CLIP model, which lineages share, in `<folder>/clip`: as it is there, or from the folder above, where
    `train(folder)` makes it if no lineage has. Raises ValueError if both folders have one and they differ."""
    own, shared = folder, folder.parent
    if not any((f / "clip/config.json").exists() for f in (own, shared)):
        train(shared)
    here, there = (own, shared) if (own / "clip/config.json").exists() else (shared, own)
    if (there / "clip/config.json").exists():
        if not filecmp.cmp(here / "clip/model.safetensors", there / "clip/model.safetensors", shallow=False):
            raise ValueError(
                f"{own / 'clip'} and {shared / 'clip'} are different CLIP models, and lineages share one: delete what was trained "
                "with the wrong one"
            )
        return
    shutil.copytree(here / "clip", there / "clip")
    shutil.copy(here / "clip.log.csv", there / "clip.log.csv")


def phases_of(about: dict) -> set[str]:
    """The phases that a model is trained in, by its section of the parameters: `phases` with their steps, or one `phase`."""
    return set(about.get("phases", {})) | ({about["phase"]} if "phase" in about else set())


def image_to_video_models(own: dict) -> list[str]:
    """The names of a lineage's image-to-video models, which are the sections of its parameters that begin so."""
    return [name for name in own if name.startswith("i2v")]


def assemble(lineage: str, own: dict, folder: Path, out: Path) -> None:
    """Put the trained parts together as a diffusers folder per model, `<out>/<lineage>-<name>`; `own`: their parameters."""
    for name in ("t2v", *image_to_video_models(own)):
        weights, sampler = folder / f"{name}.safetensors", None
        if "sampler_steps" in own[name]:  # it has learnt to jump as Euler's method does
            sampler = euler_sampler(own[name]["shift"])
        assemble_one(
            lineage, folder, weights, out / f"{lineage}-{name}", image_to_video=name != "t2v", scheduler=sampler
        )
    if (folder / "clip").exists():
        shutil.copytree(folder / "clip", out / "clip", dirs_exist_ok=True)  # with its text half
        halve_files(out / "clip")


def assemble_one(
    lineage: str, folder: Path, weights: Path, target: Path, *, image_to_video: bool, scheduler=None
) -> None:
    """One diffusers folder from the transformer's `weights` and the autoencoder and CLIP in `folder`; its scheduler is the
    lineage's, or `scheduler`."""
    own = module_of(lineage)
    vae = AutoModel.from_pretrained(str(folder / "vae")).eval()
    clip = CLIPModel.from_pretrained(folder / "clip").eval() if (folder / "clip").exists() else None
    model = own.build_denoiser(folder)
    if image_to_video:
        model.transformer = own.image_to_video_from(model.transformer)
    model.load_state_dict(load_file(weights))
    build = own.image_to_video_pipeline if image_to_video else own.text_to_video_pipeline
    pipe = build(vae, model.text_encoder.eval(), model.transformer.eval(), clip)
    if scheduler is not None:
        pipe.register_modules(scheduler=scheduler)

    def save(to: Path) -> None:
        pipe.save_pretrained(to)
        halve_files(to)

    replace_folder(target, save)


def halve_files(folder: Path) -> None:
    """Store the weights in `folder` in half precision; their configurations still ask for float32, in which models are loaded."""
    for file in folder.rglob("*.safetensors"):
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
