"""Qwen2.5-VL as a judge, on this machine.

The inputs are made here and not by the model's processor, which needs torchvision for videos and changed its sampling
of frames between versions: frames and sizes as in qwen-vl-utils 0.0.14 (`judge_protocol`), a bicubic resize with
antialiasing in uint8, CLIP's normalisation, and the model's patches. tests/test_judge.py compares the patches with
transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from . import judge_protocol as protocol
from .judge_protocol import Judge, Reply
from .scorer import Requires
from .video import NotScored, Video
from .weights import device_of, missing_model, model_digest, required_folder

if TYPE_CHECKING:
    import torch

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# The chat template of Qwen2.5-VL for one user's message with one video.
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{video}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)
PAD = "<|video_pad|>"


@dataclass(frozen=True)
class QwenJudge(Judge):
    """protocol: "log_odds" or "released". model: a folder, or a hub name that is in this machine's cache (at
    `revision`). dtype: bfloat16, as released, or float32. device: "auto", "cpu", "cuda", "cuda:1", or "map" to spread
    the model over all GPUs, as the released script does."""

    model: str = "Qwen/Qwen2.5-VL-32B-Instruct"
    revision: str = ""
    dtype: str = "bfloat16"
    device: str = "auto"

    name: ClassVar = "qwen_judge"
    version: ClassVar = "1"
    requires: ClassVar = Requires(
        {"transformers": "transformers", "torch": "torch"},
        weights="Qwen/Qwen2.5-VL-32B-Instruct for OmitI2V's protocol, two bytes a parameter; any Qwen2.5-VL loads",
        licence="the 7B model's weights are Apache-2.0; read the licence of the size that you use",
        install="hf download Qwen/Qwen2.5-VL-32B-Instruct",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"dtype {self.dtype!r}; allowed are bfloat16, float32")

    def available(self) -> str | None:
        return self.requires.missing() or missing_model(self.name, self.model, self.revision)

    def fingerprint(self) -> str:
        return model_digest(self.model, self.revision)

    @cached_property
    def loaded(self):
        """(model, tokenizer). Raises ValueError for a checkpoint of another class."""
        import torch
        from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

        folder = required_folder(self.name, self.model, self.revision)
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != "qwen2_5_vl":
            raise ValueError(f"{self.model} is a {kind}; {self.name} judges with Qwen2.5-VL")
        place = {"device_map": "auto"} if self.device == "map" else {}
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, self.dtype), local_files_only=True, use_safetensors=True, **place
        )
        model = model.eval() if place else model.eval().to(device_of(self.device))
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def listener(self, video: Video) -> Callable[[str], Reply]:
        model, tokenizer = self.loaded
        shown = protocol.sampled_frames(len(video.frames), video.known_fps())
        rate = len(shown) / len(video.frames) * video.known_fps()
        pixels, grid = patches(video.frames[shown], model.config.vision_config)
        if self.protocol == "released":
            rate = protocol.RELEASED_POSITION_FPS
        seconds = model.config.vision_config.temporal_patch_size / rate
        return lambda question: self._ask(question, pixels, grid, seconds)

    def _ask(self, question: str, pixels: torch.Tensor, grid: tuple[int, int, int], seconds: float) -> Reply:
        import torch

        model, tokenizer = self.loaded
        inputs = model_inputs(model, tokenizer, protocol.prompt(self.protocol, question), pixels, grid, seconds)
        with torch.inference_mode():
            if self.protocol == "log_odds":
                logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[0, -1].float()
                return read_logits(logits, *word_tokens(tokenizer))
            out = model.generate(
                **inputs, max_new_tokens=protocol.NEW_TOKENS, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None,
            )  # fmt: skip
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return Reply(protocol.read_as_released(text), words=protocol.read_by_words(text), text=text)


def patches(frames: np.ndarray, vision, max_pixels: int = protocol.MAX_PIXELS):
    """(patches float32 (N, channels * time * patch * patch), (grid of time, height, width)) of uint8 frames (T, H, W,
    3).

    vision: the model's vision_config, for its patch sizes. An odd last frame is shown twice.
    """
    import torch

    p, m, t = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    if p * m != protocol.GRID:
        raise ValueError(f"patches of {p} pixels merged by {m}: the protocol's frames are multiples of {protocol.GRID}")
    size = protocol.frame_size(*frames.shape[1:3], max_pixels)
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if video.shape[-2:] != size:
        video = torch.nn.functional.interpolate(video, size, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    video = (video.float() / 255 - mean) / std
    video = torch.cat([video, video[-1:].expand(-len(video) % t, -1, -1, -1)])
    count, channels, height, width = video.shape
    grid = (count // t, height // p, width // p)
    video = video.reshape(grid[0], t, channels, grid[1] // m, m, p, grid[2] // m, m, p)
    return video.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(grid[0] * grid[1] * grid[2], -1), grid


def model_inputs(model, tokenizer, text: str, pixels: torch.Tensor, grid: tuple[int, int, int], seconds: float) -> dict:
    """What the model's forward takes for one video and one text; `seconds` lie between two steps of the grid's time."""
    import torch

    count = grid[0] * grid[1] * grid[2] // model.config.vision_config.spatial_merge_size**2
    ids = tokenizer(CHAT.format(video=PAD * count, text=text), return_tensors="pt").input_ids
    found = int((ids == model.config.video_token_id).sum())
    if found != count:
        raise ValueError(f"the tokenizer made {found} of {count} places for the video; is it that of the model?")
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == model.config.video_token_id).int() * 2,  # 2: a video's
        "pixel_values_videos": pixels.to(model.dtype), "video_grid_thw": torch.tensor([grid]),
        "second_per_grid_ts": torch.tensor([seconds]),
    }  # fmt: skip
    return {name: value.to(model.device) for name, value in inputs.items()}


def word_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the single tokens that spell yes, and of those that spell no, in any case, with or without a space before.
    Raises ValueError if the tokenizer has none for one of them."""
    found = []
    for word in ("yes", "no"):
        ids = (tokenizer.encode(space + form, add_special_tokens=False) for space in ("", " ")
               for form in (word, word.capitalize(), word.upper()))  # fmt: skip
        found.append(sorted({i[0] for i in ids if len(i) == 1}))
        if not found[-1]:
            raise ValueError(f"the tokenizer has no single token for {word!r}; its log-odds cannot be read")
    return found[0], found[1]


def read_logits(logits: torch.Tensor, yes: list[int], no: list[int]) -> Reply:
    """The answer from the logits of the next token, (vocabulary,) float32."""
    import torch

    if not torch.isfinite(logits[yes + no]).all():
        raise NotScored("failed", "the model's logits of yes and no are not finite")
    for_yes, for_no, every = (torch.logsumexp(x, 0) for x in (logits[yes], logits[no], logits))
    odds = float(for_yes - for_no)
    mass = float(torch.exp(torch.logaddexp(for_yes, for_no) - every))
    return Reply("yes" if odds > 0 else "no" if odds < 0 else "unknown", odds, min(1.0, mass), text="even odds")
