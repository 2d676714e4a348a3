"""Train the small CLIP model contrastively: a frame against the sentence that says what it shows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from .models import build_clip, build_clip_tokenizer
from .trainer import fit, rank_and_world, replace_folder
from .world import final_objects, generator, scene_caption, training_clip

# The normalisation of CLIPImageProcessor, which prepares the reference image in the pipeline.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def clip_pixels(frame) -> torch.Tensor:
    """uint8 (64, 64, 3) -> normalised float (3, 64, 64), as CLIPImageProcessor does at this size."""
    return (torch.from_numpy(frame).permute(2, 0, 1).float() / 255 - MEAN) / STD


def frame_and_sentence(index: int, seed: int) -> tuple[torch.Tensor, str]:
    """The first or the last frame of a training clip with a caption of exactly what it shows."""
    clip, rng = training_clip(index, seed=seed), generator("clip", seed, index)
    last = rng.random() < 0.5
    objects = final_objects(clip.scene, clip.event) if last else clip.scene.objects
    return clip_pixels(clip.video()[-1 if last else 0]), scene_caption(objects, rng)


def train_clip(folder: Path, *, seed: int, steps: int, batch: int, lr: float, device="cpu") -> None:
    """Train with the symmetric contrastive loss over the batch; write `<folder>/clip/` and its tokenizer."""
    torch.manual_seed(seed)
    model, tokenizer = build_clip().to(device), build_clip_tokenizer()
    rank, world = rank_and_world()

    def loss(step):
        pairs = [frame_and_sentence(step * batch + i, seed + 4) for i in range(rank, batch, world)]
        text = tokenizer([s for _, s in pairs], padding="max_length", return_tensors="pt").to(device)
        out = model(pixel_values=torch.stack([p for p, _ in pairs]).to(device), **text)
        logits, target = out.logits_per_text, torch.arange(len(pairs), device=device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    optimizers = [torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
    weights = fit("clip", folder, model, loss, optimizers, steps, ema_decay=0.99, batch=batch)
    if rank == 0:
        model.load_state_dict(weights)
        replace_folder(
            folder / "clip", lambda target: (model.save_pretrained(target), tokenizer.save_pretrained(target))
        )
