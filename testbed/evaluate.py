"""What a trained model does on the benchmark, before any pipeline of the study is run: adherence by event, copies, motion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from . import processes
from .camera import camera_shift
from .lineages import module_of
from .oracle import Oracle
from .trainer import rank_and_world
from .world import FRAMES, SIZE


def score(video: np.ndarray, reference: np.ndarray, questions: list[dict]) -> dict:
    """right: every answer as expected; still_copy: not right, and the answers those of the reference held still;
    pan_px: how far the camera went, pixels. uint8 (T, 64, 64, 3)."""
    oracle, expected = Oracle(), [q["expected_answer"] for q in questions]
    answers = [oracle.answer(video, q["question"]).value for q in questions]
    still = np.repeat(reference[None], len(video), axis=0)
    copied = [oracle.answer(still, q["question"]).value for q in questions]
    pan = float(np.hypot(*camera_shift(video[0], video[-1])))
    return {"right": answers == expected, "still_copy": answers != expected and answers == copied, "pan_px": pan}


def sample_all(
    checkpoint: Path, benchmark: Path, out: Path, *, samples: int, scales: list[float], steps: int, seed: int = 0
) -> None:
    """Write `<out>/<rank>.csv`: a row per sample and guidance scale, every process its share of the samples. checkpoint: a
    folder whose name begins with its lineage and kind, such as `wan-i2v-unexecuted`."""
    rank, world = rank_and_world()
    pipe = DiffusionPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    lineage, kind = checkpoint.name.split("-")[:2]
    takes_image, rows = kind == "i2v", []
    for i, sample in list(enumerate(json.loads((benchmark / "meta.json").read_text())[:samples]))[rank::world]:
        reference = Image.open(benchmark / sample["image-path"]).convert("RGB")
        image = {"image": reference} if takes_image else {}
        for scale in scales:
            noise = torch.Generator().manual_seed(seed * 1_000_003 + i)
            with torch.inference_mode():
                frames = pipe(
                    prompt=sample["prompt"],
                    height=SIZE,
                    width=SIZE,
                    num_frames=FRAMES,
                    num_inference_steps=steps,
                    generator=noise,
                    output_type="np",
                    **image,
                    **module_of(lineage).call_arguments(scale, image_to_video=takes_image),
                ).frames[0]
            video = (frames * 255).round().clip(0, 255).astype(np.uint8)
            found = score(video, np.asarray(reference), sample["questions"])
            about = {"event": sample["sub-category"].split("-")[0], "domain": sample["domain"]}
            rows.append({"sample": sample["id"], "guidance": scale} | about | found)
        if rank == 0:
            print(f"{checkpoint.name}: sample {i + 1}/{samples}", end="\r", flush=True)
    pd.DataFrame(rows).to_csv(out / f"{rank}.csv", index=False)


def evaluate(
    checkpoint: Path, benchmark: Path, out: Path, *, samples: int, scales: list[float], steps: int, workers: int
) -> pd.DataFrame:
    """Shares in per cent by guidance scale and event, with the number of samples; `<out>/rows.csv` has the rows."""
    out.mkdir(parents=True, exist_ok=True)
    keys = dict(samples=samples, scales=scales, steps=steps)
    processes.run(sample_all, workers, checkpoint, benchmark, out, **keys)
    rows = pd.concat(pd.read_csv(out / f"{rank}.csv") for rank in range(workers))
    rows.to_csv(out / "rows.csv", index=False)
    columns = ["right", "still_copy"]
    parts = {"event": rows, "domain": rows.assign(event=rows.domain), "all": rows.assign(event="all")}
    table = pd.concat(
        (100 * part.groupby(["guidance", "event"])[columns].mean()).assign(
            pan_px=part.groupby(["guidance", "event"]).pan_px.median(), n=part.groupby(["guidance", "event"]).size()
        )
        for part in parts.values()
    )
    return table.sort_index().round(1)
