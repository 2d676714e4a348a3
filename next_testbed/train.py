"""Train a backbone of the testbed from nothing: autoencoder, latents, text-to-video, image-to-video, pipelines.

Each part writes one file when it is finished and is skipped when that file exists, so a killed run goes on where it was.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors.torch import load_file
from transformers import CLIPModel

from testbed import processes
from testbed.card import write_card
from testbed.trainer import replace_folder

from .latents import encode_all
from .lineages import module_of
from .train_clip import train_clip
from .train_few_steps import euler_sampler, train_few_steps
from .train_llava import train_llava
from .train_text import train_text
from .train_transformer import kinds_of, train_transformer
from .train_vae import train_vae


def train_all(lineage: str, params: dict, folder: Path, out: Path, workers: int | None = None) -> None:
    """Train "wan", "cogvideox" or "hunyuan" with `params` (the section `testbed` of params.yaml) in `folder`; pipelines in `out`.

    A lineage with a `clip` section gets a CLIP model too; one with a `text` or `llava` section gets its text encoder before
    its transformer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers, seed = workers or processes.default_processes(), params["seed"]
    data, own = params["data"], params[lineage]
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(function, seed=seed, **kwargs):
        processes.run(function, workers, folder, seed=seed, device=device, **kwargs)

    def part(finished: str, function, **kwargs):
        if not (folder / finished).exists():
            run(function, **kwargs)

    part("vae/config.json", train_vae, lineage=lineage, **own["vae"])
    if "clip" in own:
        part("clip/config.json", train_clip, **own["clip"])
    if "llava" in own:
        part("text.safetensors", train_llava, **own["llava"])
    if "text" in own:
        part("text.safetensors", train_text, lineage=lineage, **own["text"])
    trained_in = set().union(*(phases_of(own[name]) for name in image_to_video_models(own)))
    clips = {
        "image": dict(clips=data["images"], seed=seed + 3),  # images and videos are different clips
        "video": dict(clips=data["videos"], unexecuted=data["unexecuted"] if "neglect" in trained_in else 0.0),
        "late": dict(clips=data["late"], seed=seed + 6),
    }
    missing = [name for name in ("t2v", *image_to_video_models(own)) if not (folder / f"{name}.safetensors").exists()]
    for kind in kinds_of(set().union(*(phases_of(own[name]) for name in missing))):
        run(encode_all, lineage=lineage, kind=kind, **clips[kind])
    for name in missing:
        train = train_few_steps if "sampler_steps" in own[name] else train_transformer
        run(train, lineage=lineage, name=name, **own[name])
    assemble(lineage, own, folder, out)
    write_card(lineage, params, folder, out)


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
    replace_folder(target, pipe.save_pretrained)
