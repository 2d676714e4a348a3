"""Pre-train the text encoder of the CogVideoX-type backbone, on captions alone; both its models then keep it as it is.

A real CogVideoX comes with a T5 that has read far more than video captions. With one that was trained along, the
transformer hardly used the word for an appearing shape's form: swapping it changed the predicted latents by about 5 % of
the true difference at the end of the text-to-video training, against 12 to 18 % with this one (at a signal-to-noise ratio
of 0.05 to 0.2). The colour's word was used either way.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .latents import tokenize
from .lineages import module_of
from .models import TEXT_DIM, build_tokenizer
from .trainer import fit, rank_and_world, save_atomically
from .world import COLOURS, DIRECTIONS, EVENTS, SHAPES, Clip, training_clip

IGNORED = -100  # the label of a question without an answer; cross_entropy leaves it out
QUESTIONS = {"kind": EVENTS, "colour": tuple(COLOURS), "shape": SHAPES, "direction": tuple(DIRECTIONS)}


def answers(clip: Clip) -> list[int]:
    """What happens in a clip, one index per entry of QUESTIONS: the event, colour and shape as they are at its end (of
    a disappearing object as they were), direction. IGNORED where there is none."""
    event = clip.event
    thing = event.result or (clip.scene.objects[event.target] if event.target is not None else None)
    values = [event.kind, thing and thing.colour, thing and thing.shape, event.direction]
    return [
        IGNORED if v is None else list(options).index(v) for v, options in zip(values, QUESTIONS.values(), strict=True)
    ]


class Reader(nn.Module):
    """A text encoder with linear heads on every token's state: the words beside it, and the answers for its caption."""

    def __init__(self, encoder):
        super().__init__()
        words = len(build_tokenizer())
        self.encoder = encoder
        self.before, self.behind = nn.Linear(TEXT_DIM, words), nn.Linear(TEXT_DIM, words)
        self.happens = nn.ModuleDict({name: nn.Linear(TEXT_DIM, len(o)) for name, o in QUESTIONS.items()})

    def loss(self, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ids (B, SLOTS), lengths (B,), labels (B, 4) -> sum of the heads' cross-entropies."""
        states = self.encoder(ids).last_hidden_state  # (B, SLOTS, TEXT_DIM)
        inner = torch.arange(1, ids.shape[1] - 1, device=ids.device) < lengths[:, None] - 1  # has a word on either side
        middle = states[:, 1:-1][inner]
        total = F.cross_entropy(self.before(middle), ids[:, :-2][inner])
        total = total + F.cross_entropy(self.behind(middle), ids[:, 2:][inner])
        for head, label in zip(self.happens.values(), labels.T, strict=True):
            if (label != IGNORED).any():  # a mean over nothing is not a number
                every = label[:, None].expand(-1, ids.shape[1])
                total = total + F.cross_entropy(head(states).flatten(0, 1), every.flatten(), ignore_index=IGNORED)
        return total


def train_text(folder: Path, *, lineage: str, seed: int, steps: int, batch: int, lr: float, device="cpu") -> None:
    """Train with AdamW on captions of the training clips; write the encoder to `<folder>/text.safetensors`."""
    torch.manual_seed(seed)
    reader = Reader(module_of(lineage).build_text_encoder()).to(device)
    rank, world = rank_and_world()

    def loss(step):
        clips = [training_clip(step * batch + i, seed=seed + 5) for i in range(rank, batch, world)]
        ids, lengths = tokenize([c.caption for c in clips])
        return reader.loss(ids.to(device), lengths.to(device), torch.tensor([answers(c) for c in clips]).to(device))

    optimizers = [torch.optim.AdamW(reader.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    weights = fit("text", folder, reader, loss, optimizers, steps, ema_decay=0.99, batch=batch)
    if rank == 0:
        encoder = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
        save_atomically(encoder, folder / "text.safetensors")
