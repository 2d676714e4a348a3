"""Encode training clips once, in shards that survive a kill, so that training never waits for the autoencoder."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch
from diffusers import AutoModel
from safetensors import safe_open
from transformers import CLIPModel

from .clips import training_clip
from .lineages import module_of
from .train_clip import clip_pixels
from .train_vae import to_tensor
from .trainer import rank_and_world, save_atomically
from .world import generator

SHARD = 256


def unexecuted_clips(first: int, count: int, seed: int, share: float) -> list[bool]:
    """For clips `first .. first + count`, whether their event is left out where neglect is trained."""
    return [generator("unexecuted", seed, first + i).random() < share for i in range(count)]


def encode_shard(lineage, vae, clip, first: int, seed: int, kind: str, unexecuted: float) -> dict[str, torch.Tensor]:
    """Latents of clips `first .. first + SHARD`, raw (not normalised), float16.

    kind "image": `latent` (N, 16, 1, 8, 8), the final state as a single frame.
    kind "video": `event` (N, 16, 5, 8, 8), the clip with its event; `condition`, what the pipeline encodes of the
    reference; `still`, the clip without its event, only for the clips marked in `neglected` (N,), in their order;
    `tokens` (N, 65, 64), the penultimate CLIP states of the reference, if there is a `clip`.
    kind "late": the same of clips whose event begins late, none of them without its event.
    """
    clips = [training_clip(first + i, seed=seed) for i in range(SHARD)]
    ids, lengths = lineage.tokenize([c.caption for c in clips])
    out = {"ids": ids.to(torch.int16), "lengths": lengths.to(torch.int16)}

    def encode(videos):
        z = [
            vae.encode(torch.stack(videos[i : i + 16]).to(vae.device)).latent_dist.mode()
            for i in range(0, len(videos), 16)
        ]
        return torch.cat(z).half().cpu()

    if kind == "late":
        clips = [c.late(generator("late", seed, first + i)) for i, c in enumerate(clips)]
    videos = [c.video() for c in clips]
    if kind == "image":
        return out | {"latent": encode([to_tensor(v[-1:]) for v in videos])}
    out["event"] = encode([to_tensor(v) for v in videos])
    out["condition"] = lineage.encode_references(encode, [to_tensor(v[:1]) for v in videos])
    neglected = unexecuted_clips(first, SHARD, seed, unexecuted)
    stills = [to_tensor(c.video(executed=False)) for c, n in zip(clips, neglected, strict=True) if n]
    out["still"] = encode(stills) if stills else out["event"][:0]
    out["neglected"] = torch.tensor(neglected).to(torch.uint8)
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
    _same_settings(folder, kind, {"clips": clips, "seed": seed, "unexecuted": unexecuted})
    vae, clip = AutoModel.from_pretrained(str(folder / "vae")).to(device), None
    if kind != "image" and (folder / "clip").exists():
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


def _same_settings(folder: Path, kind: str, settings: dict) -> None:
    """Note beside the shards what they are of. Raises ValueError where those that exist are of other settings or of another
    autoencoder."""
    note = folder / "latents" / f"{kind}.json"
    weights = (folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    settings = settings | {"autoencoder": hashlib.sha256(weights).hexdigest()[:16]}
    if note.exists() and json.loads(note.read_text()) != settings:
        raise ValueError(
            f"{note} says that the clips encoded there are others than {settings}: delete {kind}-*.safetensors and it"
        )
    note.write_text(json.dumps(settings))


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
