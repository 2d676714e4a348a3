"""Tiny random models of the classes that learned scorers load, saved as on the hub; and videos for them."""

from __future__ import annotations

import string

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    ViTConfig,
    ViTModel,
)

from analysis.scorers.video import Video
from analysis.study.video_files import write_video

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


def tiny_qwen(folder, seed=0):
    """A Qwen2.5-VL of two layers whose tokenizer knows bytes, "yes" and "no"."""
    letters = [*(c for c in map(chr, range(33, 127))), "Ġ", "Ċ", "ye", "yes", "no"]
    tokenizer = Qwen2Tokenizer(
        vocab={w: i for i, w in enumerate(SPECIAL + letters)}, merges=[("y", "e"), ("ye", "s"), ("n", "o")],
        eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:],
    )  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]},
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32, patch_size=14,
            spatial_merge_size=2, temporal_patch_size=2, window_size=56, fullatt_block_indexes=[1], tokens_per_second=2,
        ),
        video_token_id=SPECIAL.index("<|video_pad|>"), vision_start_token_id=SPECIAL.index("<|vision_start|>"),
        vision_end_token_id=SPECIAL.index("<|vision_end|>"), image_token_id=len(tokenizer) - 1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # the random head says almost the same of everything
        model.lm_head.weight.mul_(40)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = SPECIAL.index("<|im_end|>"), 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_vit(folder, seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=224, patch_size=16
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


def tiny_clip(folder, projection=24, seed=0):
    vocab = ["<|startoftext|>", "<|endoftext|>"] + [c + end for c in string.ascii_lowercase for end in ("", "</w>")]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(vocab)}, merges=[], model_max_length=77)
    size = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPConfig(
        text_config=dict(vocab_size=len(vocab), bos_token_id=0, eos_token_id=1, pad_token_id=1, **size),
        vision_config=dict(image_size=224, patch_size=32, **size), projection_dim=projection,
    )  # fmt: skip
    torch.manual_seed(seed)
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def moving(frames=9, height=48, width=64, seed=0, step=3):
    """A texture that moves `step` pixels a frame to the right, uint8 (T, H, W, 3)."""
    texture = np.random.default_rng(seed).integers(0, 256, (height, width + frames * step, 3), dtype=np.uint8)
    return np.stack([texture[:, (frames - t) * step : (frames - t) * step + width] for t in range(frames)])


def video_of(folder, frames, fps=8, name="clip.mkv"):
    write_video(folder / name, frames, fps)
    return Video(folder / name)
