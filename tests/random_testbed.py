"""The testbed's pipelines with joint attention and random weights, saved as checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.study.parameters import Backbone
from analysis.tuning.encode_clips import Source, from_world
from analysis.tuning.tune_focal_guidance import new_projection
from methods import FocalGuidance
from methods.focal_anchors.projection import AnchorProjection, clip_hash, sizes
from next_testbed import hunyuan
from next_testbed.models import build_clip
from testbed import cogvideox
from testbed.models import SLOTS

CLIP = "testbed/checkpoints/clip"


def spread(transformer: torch.nn.Module) -> torch.nn.Module:
    """The transformer with random weights under which attention is not uniform."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
        elif "norm_q" in name or "norm_k" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return transformer


def spread_biases_too(transformer: torch.nn.Module) -> torch.nn.Module:
    """As `spread`, but norms stay as they are, and what is zero does not stay so."""
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
        elif parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    return transformer


def picture(size: int = 64) -> Image.Image:
    """A reference with a yellow square and a purple one."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[36:56, 6:26] = (240, 220, 40)
    pixels[8:28, 38:58] = (180, 50, 190)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)


def projections(folder: Path, transformer: torch.nn.Module) -> tuple[dict[str, str], AnchorProjection]:
    """Files of a random projection of anchors ("trained") and of one that was not trained ("zero"), and the former."""
    size = sizes(transformer, CLIP)
    torch.manual_seed(1)
    trained, zero = AnchorProjection(*size), AnchorProjection(*size)
    for p in trained.parameters():
        p.data += torch.randn(p.shape) * 0.3
    files = {name: str(folder / f"{name}.safetensors") for name in ("trained", "zero")}
    for name, module in (("trained", trained), ("zero", zero)):
        save_file(module.state_dict(), files[name], metadata={"clip": clip_hash(CLIP)})
    return files, trained


def untrained_guidance(folder: Path, transformer: torch.nn.Module, weak: tuple[int, ...]) -> FocalGuidance:
    """Guidance with an untrained projection, written into `folder`."""
    file = folder / "projection.safetensors"
    save_file(new_projection(transformer, CLIP, 0).state_dict(), file, metadata={"clip": clip_hash(CLIP)})
    return FocalGuidance(
        CLIP, weak=weak, select=-0.25, text=1.0, latent=0.3, cache=1.0, cache_threshold=-1.0, projection=str(file)
    )


def small_clips(count: int = 3) -> Source:
    """Clips of the world with every other frame: 9."""
    world = from_world(count, 5)
    return replace(world, read=lambda i: (world.read(i)[0][::2], world.read(i)[1]))


def cogvideox_backbone(folder: Path, *, image_to_video: bool = True) -> Backbone:
    """Write a random checkpoint into `folder`; a backbone of 9 frames and two steps."""
    torch.manual_seed(0)
    transformer = spread(cogvideox.build_transformer(image_to_video=image_to_video))
    assemble = cogvideox.image_to_video_pipeline if image_to_video else cogvideox.text_to_video_pipeline
    assemble(cogvideox.build_vae(), cogvideox.build_text_encoder(), transformer).save_pretrained(folder)
    kind = "ImageToVideo" if image_to_video else ""
    return Backbone(
        checkpoint=str(folder), pipeline=f"CogVideoX{kind}Pipeline", dtype="float32", height=64, width=64, frames=9,
        fps=8, steps=2, negative_prompt="", max_sequence_length=SLOTS,
    )  # fmt: skip


def hunyuan_backbone(folder: Path) -> Backbone:
    """Write a random HunyuanVideo-type image-to-video checkpoint into `folder`; a backbone of 9 frames and two steps."""
    torch.manual_seed(0)
    transformer = spread(hunyuan.build_transformer(image_to_video=True))
    parts = hunyuan.build_vae().eval(), hunyuan.build_text_encoder().eval(), transformer.eval(), build_clip().eval()
    hunyuan.image_to_video_pipeline(*parts).save_pretrained(folder)
    call = hunyuan.call_arguments(1.0, image_to_video=True)
    return Backbone(
        checkpoint=str(folder), pipeline="HunyuanVideoImageToVideoPipeline", dtype="float32", height=64, width=64, frames=9,
        fps=8, steps=2, negative_prompt="", max_sequence_length=call["max_sequence_length"],
        call={"prompt_template": call["prompt_template"]},
    )  # fmt: skip


def query_and_key(attention, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(query, key), each (heads, tokens, size) float64, of a CogVideoX attention module called with `inputs` for one
    sample, written out: text first, layer norm per head, rotary positions on the video tokens alone."""
    text, video = inputs["encoder_hidden_states"][0].double(), inputs["hidden_states"][0].double()
    cos, sin = (x.double() for x in inputs["image_rotary_emb"])
    turn = torch.complex(cos, sin)[:, ::2]  # one angle per pair of neighbours
    out = []
    for linear, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
        x = torch.cat([text, video]) @ linear.weight.double().T
        x = x if linear.bias is None else x + linear.bias.double()
        x = x.unflatten(1, (attention.heads, -1)).transpose(0, 1)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        x = x * norm.weight.double() + norm.bias.double()
        pairs = torch.view_as_complex(x[:, len(text) :].unflatten(2, (-1, 2)).contiguous()) * turn
        x[:, len(text) :] = torch.view_as_real(pairs).flatten(2)
        out.append(x.detach())
    return out[0], out[1]
