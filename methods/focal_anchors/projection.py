"""The projection that takes Focal Guidance's anchors to a model without an image branch, such as CogVideoX and HunyuanVideo.

Wan 2.1 projects image tokens itself; a model with joint attention has no part that reads CLIP features. There a keyword's
anchor goes through this small module, which is trained together with the weak blocks, and then, like a text token, through
the value projection of each weak block.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from .keywords import load_clip

TRAIN = "train one with `python -m analysis tune-focal`, which writes <variant>-projection.safetensors"


class AnchorProjection(nn.Module):
    """(K, D) anchors in the space of CLIP's second-to-last layer -> (K, C), tokens of the transformer's width.

    The last layer starts at zero: an untrained projection gives exact zeros and changes nothing."""

    def __init__(self, clip_dim: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(clip_dim)
        self.enter = nn.Linear(clip_dim, width)
        self.leave = nn.Linear(width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, anchors: torch.Tensor) -> torch.Tensor:
        """Anchors (..., clip_dim) as video tokens of the transformer, (..., width)."""
        return self.leave(F.gelu(self.enter(self.norm(anchors))))


def sizes(transformer, clip_folder: str) -> tuple[int, int]:
    """(width of CLIP's patches, width of the transformer's tokens): input and output width of a projection."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    return load_clip(clip_folder)[0].config.vision_config.hidden_size, width


def clip_hash(clip_folder: str) -> str:
    """Identifies a CLIP model: a hash of its visual projection, which differs between any two trainings."""
    weight = load_clip(clip_folder)[0].visual_projection.weight.detach().float().cpu().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:20]


def load_projection(file: str, transformer, clip_folder: str) -> AnchorProjection:
    """The projection of a safetensors file, float32 on the CPU.

    Raises ValueError if the file is missing or holds something else, or if the projection was trained for patches or tokens
    of another width, or with another CLIP model (`clip` in its metadata).
    """
    if not Path(file).is_file():
        raise ValueError(f"FocalGuidance: no projection at {file}; {TRAIN}")
    with safe_open(file, "pt") as f:
        tensors, notes = {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}
    clip_dim, width = sizes(transformer, clip_folder)
    projection = AnchorProjection(clip_dim, width).requires_grad_(False).eval()
    wanted = {k: tuple(v.shape) for k, v in projection.state_dict().items()}
    if tensors.keys() != wanted.keys():
        raise ValueError(f"FocalGuidance: {file} holds no projection, which has the tensors {', '.join(wanted)}")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"FocalGuidance: {file} does not fit patches of {clip_dim} and tokens of {width} features: {name} is "
                f"{tuple(tensors[name].shape)}, not {shape}; {TRAIN}"
            )
    if notes.get("clip") != clip_hash(clip_folder):
        raise ValueError(f"FocalGuidance: {file} was trained with another CLIP model than {clip_folder}; {TRAIN}")
    projection.load_state_dict(tensors)
    return projection


@torch.no_grad()
def encode_reference(clip_folder: str, image: torch.Tensor) -> torch.Tensor:
    """(1 + h w, D), CLIP's second-to-last hidden states of a reference image (1, 3, H, W) in [-1, 1], class token first.

    The whole image is resized to CLIP's square and never cropped, because the patches must cover the whole frame. It is
    normalised as the folder's image processor says, or as in the published CLIP if the folder has none.
    """
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    clip, _ = load_clip(clip_folder)
    side = clip.config.vision_config.image_size
    whole = {"size": {"height": side, "width": side}, "do_resize": True, "do_center_crop": False}
    try:
        processor = CLIPImageProcessorPil.from_pretrained(clip_folder, **whole)
    except OSError:
        processor = CLIPImageProcessorPil(**whole)
    pixels = ((image[0].float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    inputs = processor(images=Image.fromarray(pixels), return_tensors="pt").to(clip.device, clip.dtype)
    return clip.vision_model(**inputs, output_hidden_states=True).hidden_states[-2][0]
