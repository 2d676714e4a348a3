"""Pre-train the LLaVA of the HunyuanVideo-type backbone: what the image shows and what the caption says will happen.

A real LLaVA has learnt both from far more. Here linear heads on the states that the pipeline reads ask two things: of each
image token, the colour and form of the object that covers its patch; of the caption's last word, the event, as in
train_text.py. Attention is causal, so image tokens know the image alone, and words know the image and the words before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel

from .clips import Clip, training_clip
from .hunyuan import IMAGE_TOKENS, Denoiser, build_text_encoder, build_transformer, tokenize
from .models import TEXT_DIM, vision_half
from .train_clip import clip_pixels
from .train_text import IGNORED, QUESTIONS, answers
from .trainer import fit, rank_and_world, save_atomically
from .world import COLOURS, SHAPES, SIZE, coverage

PATCH = SIZE // 8


def patches(clip: Clip) -> torch.Tensor:
    """What covers half or more of each patch of the reference, (64, 2): colour and shape, 0 for background."""
    found = np.zeros((64, 2), np.int64)
    for thing in clip.scene.objects:
        share = coverage(thing).reshape(8, PATCH, 8, PATCH).mean((1, 3)).ravel()
        found[share >= 0.5] = 1 + list(COLOURS).index(thing.colour), 1 + SHAPES.index(thing.shape)
    return torch.from_numpy(found)


class Reader(nn.Module):
    """The LLaVA with linear heads on the states that the pipeline reads."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.seen = nn.ModuleList(nn.Linear(TEXT_DIM, 1 + len(options)) for options in (COLOURS, SHAPES))
        self.happens = nn.ModuleList(nn.Linear(TEXT_DIM, len(options)) for options in QUESTIONS.values())

    def loss(self, ids, lengths, tokens, covered, labels) -> torch.Tensor:
        """ids, lengths of `tokenize`, tokens (B, 65, 64), covered (B, 64, 2), labels (B, 6) -> sum of cross-entropies, of
        captions with and without their image."""
        states, _ = self.denoiser.read(ids, lengths, tokens, kept=1)
        total = sum(
            F.cross_entropy(head(states[:, :IMAGE_TOKENS]).flatten(0, 1), covered[..., i].flatten())
            for i, head in enumerate(self.seen)
        )
        alone, _ = self.denoiser.read(ids, lengths)
        for words in (states[:, IMAGE_TOKENS:], alone):
            position = torch.arange(words.shape[1], device=ids.device)[None]
            last = words[
                position.expand(len(ids), -1) == lengths[:, None] - 1
            ]  # the caption's last word has read it all
            for head, label in zip(self.happens, labels.T, strict=True):
                if (label != IGNORED).any():  # a mean over nothing is not a number
                    total = total + F.cross_entropy(head(last), label, ignore_index=IGNORED)
        return total


def train_llava(folder: Path, *, seed: int, steps: int, batch: int, lr: float, device="cpu") -> None:
    """Train with AdamW on training clips' references and captions; the CLIP model in `<folder>/clip` is its eye, frozen.
    Writes the LLaVA to `<folder>/text.safetensors`."""
    torch.manual_seed(seed)
    clip = CLIPModel.from_pretrained(folder / "clip").eval().to(device)
    llava = build_text_encoder()
    llava.model.vision_tower.load_state_dict(vision_half(clip).state_dict())
    llava.model.vision_tower.requires_grad_(False)
    reader = Reader(Denoiser(llava, build_transformer(image_to_video=False).requires_grad_(False), clip)).to(device)
    rank, world = rank_and_world()

    def loss(step):
        clips = [training_clip(step * batch + i, seed=seed + 5) for i in range(rank, batch, world)]
        ids, lengths = (x.to(device) for x in tokenize([c.caption for c in clips]))
        pixels = torch.stack([clip_pixels(c.video(frames=1)[0]) for c in clips]).to(device)
        with torch.no_grad():
            tokens = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
        covered = torch.stack([patches(c) for c in clips]).to(device)
        return reader.loss(ids, lengths, tokens, covered, torch.tensor([answers(c) for c in clips]).to(device))

    trained = [p for p in reader.parameters() if p.requires_grad]
    optimizers = [torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    weights = fit("llava", folder, reader, loss, optimizers, steps, ema_decay=0.99, batch=batch)
    if rank == 0:
        prefix = "denoiser.text_encoder."
        encoder = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        save_atomically(encoder, folder / "text.safetensors")
