"""The testbed's pipelines with joint attention and random weights, saved as checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from analysis.study.parameters import Backbone
from next_testbed import hunyuan
from next_testbed.models import build_clip
from testbed import cogvideox
from testbed.models import SLOTS


def cogvideox_backbone(folder: Path, *, image_to_video: bool = True) -> Backbone:
    """Write a random checkpoint into `folder`; a backbone of 9 frames and two steps. Weights are spread so that attention
    is not uniform."""
    torch.manual_seed(0)
    transformer = cogvideox.build_transformer(image_to_video=image_to_video)
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
        elif "norm_q" in name or "norm_k" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
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
    transformer = hunyuan.build_transformer(image_to_video=True)
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
        elif "norm_q" in name or "norm_k" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
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
