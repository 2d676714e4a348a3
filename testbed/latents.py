"""Encode training clips once, in shards that survive a kill, so that training never waits for the autoencoder."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors import safe_open
from transformers import CLIPModel

from .lineages import module_of
from .models import SLOTS, build_tokenizer
from .train_clip import clip_pixels
from .train_vae import to_tensor
from .trainer import rank_and_world, save_atomically
from .world import FRAMES, render, training_clip

SHARD = 256


def tokenize(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids (N, SLOTS), lengths (N,)) of captions, padded with 0."""
    out = build_tokenizer()(captions, padding="max_length", max_length=SLOTS, return_tensors="pt")
    return out.input_ids, out.attention_mask.sum(1)


def encode_shard(lineage, vae, clip, first: int, seed: int, kind: str, unexecuted: float) -> dict[str, torch.Tensor]:
    """Latents of clips `first .. first + SHARD`, raw (not normalised), float16.

    kind "image": `latent` (N, 16, 1, 8, 8), the final state as a single frame.
    kind "video": `event` (N, 16, 5, 8, 8), the clip with its event; `condition`, what the pipeline encodes of the
    reference; `still`, the reference held for all frames, only for the clips marked in `neglected` (N,), in their order;
    `tokens` (N, 65, 64), the penultimate CLIP states of the reference, if there is a `clip`.
    """
    clips = [training_clip(first + i, seed=seed, unexecuted=unexecuted) for i in range(SHARD)]
    ids, lengths = tokenize([c.caption for c in clips])
    out = {"ids": ids.to(torch.int16), "lengths": lengths.to(torch.int16)}

    def encode(videos):
        z = [
            vae.encode(torch.stack(videos[i : i + 16]).to(vae.device)).latent_dist.mode()
            for i in range(0, len(videos), 16)
        ]
        return torch.cat(z).half().cpu()

    videos = [render(c.scene, c.event) for c in clips]
    if kind == "image":
        return out | {"latent": encode([to_tensor(v[-1:]) for v in videos])}
    references = [to_tensor(v[:1]) for v in videos]
    neglected = torch.tensor([not c.executed for c in clips])
    out["event"] = encode([to_tensor(v) for v in videos])
    out["condition"] = lineage.encode_references(encode, references)
    stills = [r.expand(-1, FRAMES, -1, -1) for r, n in zip(references, neglected, strict=True) if n]
    out["still"] = encode(stills) if stills else out["event"][:0]
    out["neglected"] = neglected.to(torch.uint8)
    if clip is not None:
        pixels = torch.stack([clip_pixels(v[0]) for v in videos]).to(clip.device)
        out["tokens"] = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2].half().cpu()
    return out


@torch.no_grad()
def encode_all(
    folder: Path, *, lineage: str, kind: str, clips: int, seed: int, unexecuted: float = 0.0, device="cpu"
) -> None:
    """Write `<folder>/latents/<kind>-<k>.safetensors`; shards that exist are kept, processes share the rest.

    The references' CLIP states are written too if there is a CLIP model in `<folder>/clip`.
    """
    rank, world = rank_and_world()
    target = folder / "latents"
    target.mkdir(exist_ok=True)
    vae, clip = AutoModel.from_pretrained(str(folder / "vae")).to(device), None
    if kind == "video" and (folder / "clip").exists():
        clip = CLIPModel.from_pretrained(folder / "clip").to(device).eval()
    files = [target / f"{kind}-{k:04d}.safetensors" for k in range(-(-clips // SHARD))]
    mine = [f for f in files[rank::world] if not f.exists()]
    began = time.time()
    for done, file in enumerate(mine):
        save_atomically(
            encode_shard(module_of(lineage), vae, clip, files.index(file) * SHARD, seed, kind, unexecuted), file
        )
        if rank == 0:
            left = (time.time() - began) / (done + 1) * (len(mine) - done - 1)
            print(f"encode {kind}: {done + 1}/{len(mine)} shards of this process  {left / 60:.1f} min left", flush=True)


def load_all(folder: Path, kind: str, *, mean, std) -> dict[str, torch.Tensor]:
    """All shards of a kind, concatenated; latents normalised with `mean` and `std` (16,), float16.

    `still_row` (N,) gives for each clip the row of its still video, -1 where the event is executed.
    """
    shards = []
    for file in sorted((folder / "latents").glob(f"{kind}-*.safetensors")):
        with safe_open(file, "pt") as f:
            shards.append({k: f.get_tensor(k) for k in f.keys()})
    if not shards:
        raise FileNotFoundError(f"no {kind} latents in {folder / 'latents'}: run the encode stage first")
    data = {k: torch.cat([s[k] for s in shards]) for k in shards[0]}
    mean, std = mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
    for k in {"latent", "event", "condition", "still"} & data.keys():
        data[k] = ((data[k].float() - mean) / std).half()
    if "neglected" in data:
        neglected = data["neglected"].bool()
        data["still_row"] = torch.where(neglected, neglected.cumsum(0) - 1, -1)
    data["ids"], data["lengths"] = data["ids"].long(), data["lengths"].long()
    return data
