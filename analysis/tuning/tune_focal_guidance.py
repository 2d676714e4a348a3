"""Tune the semantic-weak blocks of a backbone with Focal Guidance on, beside a control: deltas, losses and a card.

Works on any Wan 2.1, CogVideoX or HunyuanVideo image-to-video backbone of params.yaml; for the last two it also trains the
projection of the anchors. It stands here and not in `testbed`, because a backbone, its pipeline and the methods' settings are known here.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from safetensors.torch import save_file

from methods import FocalGuidance
from methods.focal_anchors.projection import AnchorProjection, clip_hash, load_projection, sizes
from methods.registry import from_dict

from ..study.files import content_key, write_atomically, write_table
from ..study.parameters import Parameters
from ..study.results_layout import lineage_of
from ..study.video_key import weights_hash
from ..videos.generate import load_pipeline
from .encode_clips import Shards, Source, cache_name, encode_clips
from .training_loop import Tuning, tune, tuned_parameters, weak_blocks
from .tuned_families import MODULES, module_of


def section_of(parameters: Parameters, name: str) -> str:
    """Key of `testbed` in params.yaml with the settings for a backbone's lineage, such as `focal-wan`. Raises ValueError if
    there is none."""
    section = f"focal-{lineage_of(name)}"
    if section not in parameters.testbed:
        raise ValueError(f"no settings testbed.{section} in params.yaml for {name}")
    return section


def read_settings(parameters: Parameters, variants: list[str] | None = None, section: str = "focal-wan", **changed):
    """(number of the world's clips, {variant: method}, Tuning) of `testbed.<section>` in params.yaml.

    variants: NAME=METHOD each, instead of those there; changed: settings of the Tuning, None for those that stay. Raises
    ValueError for a setting that is unknown or missing, or out of its range.
    """
    given = dict(parameters.testbed[section])
    known = {"clips", "variants"} | {f.name for f in fields(Tuning)}
    if given.keys() != known:
        raise ValueError(f"testbed.{section} must have the keys {sorted(known)}; it has {sorted(given)}")
    clips, named = given.pop("clips"), given.pop("variants")
    if wrong := [v for v in variants or () if v.count("=") != 1]:
        raise ValueError(f"--variant is {wrong[0]!r}; it must be NAME=METHOD, such as control=none")
    if variants:
        named = dict(v.split("=") for v in variants)
    return clips, named, Tuning(**given | {k: v for k, v in changed.items() if v is not None})


def guidances(parameters: Parameters, variants: dict[str, str]) -> dict[str, FocalGuidance | None]:
    """Variant -> the guidance that its method of params.yaml is, None for a method without any.

    Raises ValueError unless there is at least one guidance, and all agree about keywords, anchors and weak blocks.
    """
    found: dict[str, FocalGuidance | None] = {}
    for variant, method in variants.items():
        if method not in parameters.methods:
            raise ValueError(f"variant {variant} is tuned with {method!r}, not one of {list(parameters.methods)}")
        used = [from_dict(settings) for settings in parameters.methods[method]]
        if len(used) > 1 or not all(isinstance(m, FocalGuidance) for m in used):
            raise ValueError(f"variant {variant}: methods.{method} must be one `focal`, or nothing")
        found[variant] = used[0] if used else None
    alike = {replace(g, text=0, latent=0, cache=0, cache_threshold=0, cache_from="previous", projection=None)
             for g in found.values() if g is not None}  # fmt: skip
    if len(alike) != 1:
        raise ValueError(
            f"the variants {list(variants)} must have a guidance, alike in all but strengths, cache and projection in "
            f"all: found {len(alike)} different ones"
        )
    return found


def tune_focal(
    parameters: Parameters,
    name: str,
    source: Source,
    variants: dict[str, str],
    tuning: Tuning,
    out: Path,
    work: Path,
    *,
    precision: str | None = None,
    checkpointing: bool = False,
) -> pd.DataFrame:
    """Write `<out>/<variant>.safetensors` for every variant, `<out>/losses.csv` and `<out>/README.md`; the losses. Where attention is
    joint also `<out>/<variant>-projection.safetensors` for every guidance: the file that its method names is not read.

    name: a backbone without a delta. What is encoded, and the state of the training, is kept in `work`, so that a killed
    run goes on. precision: that of the backbone unless given.
    """
    backbone = parameters.backbones.get(name)
    if backbone is None or backbone.delta is not None:
        raise ValueError(f"{name!r} is not a backbone without a delta; params.yaml has {list(parameters.backbones)}")
    if backbone.pipeline not in (tuned := [family.PIPELINE for family in MODULES.values()]):
        raise ValueError(f"backbone {name} is a {backbone.pipeline}; Focal Guidance tunes a {' or a '.join(tuned)}")
    found, weights, here = guidances(parameters, variants), weights_hash(name, backbone), PartialState()
    any_guidance = next(g for g in found.values() if g is not None)
    folder = work / cache_name(weights, any_guidance, source, backbone)
    pipe = load_pipeline(backbone)
    family = module_of(pipe.transformer)
    family.check_pipeline(pipe, backbone.frames)
    save_projection = partial(_save_projection, clip=any_guidance.clip, weights=weights)
    if any_guidance.projection is not None:
        start = folder / "projection-start.safetensors"
        if here.is_main_process:
            save_projection(start, new_projection(pipe.transformer, any_guidance.clip, tuning.seed))
        here.wait_for_everyone()
        found = {v: g if g is None else replace(g, projection=str(start)) for v, g in found.items()}
        any_guidance = next(g for g in found.values() if g is not None)
    weak, slots = weak_blocks(pipe.transformer, any_guidance), family.text_slots(pipe.transformer, backbone)
    encode_clips(
        pipe, any_guidance, source, folder, rank=here.process_index, world=here.num_processes, slots=slots, call=backbone.call
    )  # fmt: skip
    here.wait_for_everyone()
    others = [
        pipe.components[k] for k in ("vae", "text_encoder", "text_encoder_2", "image_encoder") if k in pipe.components
    ]
    for part in others:
        part.to("cpu")  # not needed while the transformer is tuned
    clips, losses, rows = Shards(folder, source.count, slots), [], []
    for variant, guidance in found.items():
        projection = None
        if guidance is not None and guidance.projection is not None:
            projection = load_projection(guidance.projection, pipe.transformer, guidance.clip)
        settings = content_key(asdict(tuning) | {"guidance": repr(guidance), "weak": sorted(weak)})
        tensors, history, seconds = tune(
            pipe, guidance, weak, clips, tuning, folder / f"{variant}-{settings}.state.safetensors", name=variant,
            precision=precision or ("no" if backbone.dtype == "float32" else "bf16"), checkpointing=checkpointing,
            projection=projection,
        )  # fmt: skip
        if here.is_main_process:
            save = partial(save_file, tensors, metadata={"weights": weights})
            write_atomically(out / f"{variant}.safetensors", save)
            if projection is not None:
                save_projection(out / f"{variant}-projection.safetensors", projection)
        losses.append(pd.DataFrame({"variant": variant, "step": range(1, len(history) + 1), "loss": history}))
        rows.append((variant, variants[variant], guidance, history, seconds))
    for part in others:
        part.to(pipe.transformer.device)
    table = pd.concat(losses, ignore_index=True)
    if here.is_main_process:
        write_table(table.round(5), out / "losses.csv")
        size = sum(p.numel() for p in tuned_parameters(pipe.transformer, weak).values())
        text = card(name, source, tuning, sorted(weak), size, rows, pipe.transformer)
        write_atomically(out / "README.md", lambda path: path.write_text(text))
    return table


def new_projection(transformer, clip: str, seed: int) -> AnchorProjection:
    """An untrained projection, which changes nothing; its first layer is drawn with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AnchorProjection(*sizes(transformer, clip))


def _save_projection(path: Path, projection: AnchorProjection, *, clip: str, weights: str) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in projection.state_dict().items()}
    notes = {"clip": clip_hash(clip), "weights": weights}
    write_atomically(path, partial(save_file, tensors, metadata=notes))


def card(name: str, source: Source, tuning: Tuning, weak: list[int], size: int, rows: list, transformer) -> str:
    """The model card: data, settings, losses and minutes. rows: (variant, method, guidance, losses, seconds)."""
    family = module_of(transformer)
    trained_too = [
        "Beside each file with guidance lies the projection of its anchors, which was trained along with it from one that",
        "gives zero; a method of params.yaml loads it with its key `projection`.",
    ]
    lines = [
        f"# Deltas of {name} for Focal Guidance",
        "",
        f"The {family.TUNED} of blocks {', '.join(map(str, weak))}, {size / 1e3:.0f} thousand parameters, tuned by",
        "`python -m analysis tune-focal`. All files saw the same clips, noise, times and order; the one without guidance is the",
        "control. A backbone of params.yaml loads a file with its key `delta`.",
        *(trained_too if any(guidance and guidance.projection for _, _, guidance, *_ in rows) else []),
        "",
        f"**Data.** {source.about}. The empty caption, without guidance, in "
        f"{100 * tuning.text_dropout:.0f} % of the draws.",
        "",
        f"**Training.** {tuning.steps} steps of {tuning.batch} clips, AdamW at {tuning.lr:g} (warm-up over {tuning.warmup}"
        " steps, half a cosine),",
        f"{family.OBJECTIVE}. A first pass without gradients fills the attention cache.",
        "",
        "| file | method | strengths | loss, first quarter | loss, last quarter | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for variant, method, guidance, history, seconds in rows:
        quarter = max(1, len(history) // 4)
        first, last = (sum(part) / len(part) for part in (history[:quarter], history[-quarter:]))
        strengths = (
            ", ".join(f"{k} {getattr(guidance, k):g}" for k in ("text", "latent", "cache")) if guidance else "none"
        )
        lines.append(
            f"| `{variant}.safetensors` | {method} | {strengths} | {first:.4f} | {last:.4f} | {seconds / 60:.1f} |"
        )
    end = (
        "Minutes are wall time and include other work on the machine. `losses.csv` has every loss. Licence: Apache-2.0."
    )
    return "\n".join([*lines, "", end, ""])
