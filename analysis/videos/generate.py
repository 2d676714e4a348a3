"""Generate the videos of a sweep with the diffusers pipelines, in several processes, resuming where a run stopped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from concurrent.futures import Executor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import methods
from methods import blur_image, record, steer
from methods.core.record import Recording
from methods.registry import from_dict

from ..study.benchmark_samples import load_samples
from ..study.cells import Cell, expand
from ..study.files import write_atomically
from ..study.parameters import Backbone, Parameters
from ..study.progress import track
from ..study.results_layout import other_runs_folder, runs_folder
from ..study.video_files import load_reference, write_video
from ..study.workers import stopping, worker_pool
from .fast_convolution import convolve_directly
from .tuned_weights import load_delta

# glibc reads these when a process starts; without them it hands large tensors back to the system after every operation.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4294967296")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "4294967296")

METHODS = Path(methods.__file__).parent
SUFFIXES = (
    ".txt",
    ".csv.gz",
    ".mkv",
)  # files of a cell, in the order in which they are written: a video says it is done
MANIFEST = ("key", "status", "reason", "backbone", "method", "guidance_scale", "blur", "prompts", "seed", "sample",
            "prompt", "reference")  # fmt: skip


@lru_cache(maxsize=1)
def load_pipeline(backbone: Backbone):
    """The diffusers pipeline of a backbone, on the GPU if there is one; kept for the next cell of this process."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    pipeline_class = getattr(diffusers, backbone.pipeline)
    pipe = pipeline_class.from_pretrained(
        backbone.checkpoint,
        revision=backbone.revision,
        dtype=getattr(torch, backbone.dtype),
        use_safetensors=True,
    )
    if backbone.delta is not None:
        load_delta(pipe.transformer, Path(backbone.delta))
    if backbone.pipeline.startswith("CogVideoX"):  # the other autoencoder goes frame by frame, and gains little
        convolve_directly(pipe.vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def reference_image(path: Path, backbone: Backbone, sigma: float) -> Image.Image:
    """The reference, an image or a video's first frame, blurred by `sigma` pixels. Raises ValueError for another size
    than the backbone's."""
    image = load_reference(path)
    if image.size != (backbone.width, backbone.height):
        raise ValueError(
            f"{path} is {image.width}x{image.height}; the backbone wants {backbone.width}x{backbone.height}"
        )
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
    return Image.fromarray(blur_image(pixels, sigma).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def sample_video(cell: Cell, backbone: Backbone, image_path: Path) -> tuple[np.ndarray, Recording | None]:
    """One video, uint8 (T, H, W, 3), as the pipeline makes it, and what was recorded of its attention."""
    pipe = load_pipeline(backbone)
    generator = torch.Generator().manual_seed(cell.noise)
    inputs = {}
    if "ImageToVideo" in backbone.pipeline:
        inputs["image"] = reference_image(image_path, backbone, cell.blur)
    if backbone.pipeline.startswith("CogVideoX"):
        inputs["latents"] = initial_noise(pipe, backbone, generator)
    if backbone.max_sequence_length is not None:
        inputs["max_sequence_length"] = backbone.max_sequence_length
    methods = [from_dict(settings) for settings in json.loads(cell.steering or "[]")]
    recorder = record(pipe, **json.loads(cell.record)) if cell.record else nullcontext()
    with steer(pipe, *methods), recorder as recording, torch.inference_mode():
        frames = pipe(
            prompt=cell.prompt,
            negative_prompt=backbone.negative_prompt,
            height=backbone.height,
            width=backbone.width,
            num_frames=backbone.frames,
            num_inference_steps=backbone.steps,
            guidance_scale=cell.guidance_scale,
            generator=generator,
            output_type="np",
            **inputs,
        ).frames[0]
    if not np.isfinite(frames).all():
        raise FloatingPointError("the pipeline returned values that are not finite")
    return (frames * 255).round().clip(0, 255).astype(np.uint8), recording


def initial_noise(pipe, backbone: Backbone, generator: torch.Generator) -> torch.Tensor:
    """The noise (1, F, C, H, W) that a CogVideoX video starts from. Left to itself the image-to-video pipeline draws the
    reference's latent first, and would start from other noise than its text-to-video twin."""
    frames = (backbone.frames - 1) // pipe.vae_scale_factor_temporal + 1
    scale = pipe.vae_scale_factor_spatial
    size = (1, frames, pipe.transformer.config.out_channels, backbone.height // scale, backbone.width // scale)
    noise = torch.randn(size, generator=generator, dtype=pipe.transformer.dtype)
    return noise.to(pipe.device)


def write_recording(recording: Recording, path: Path) -> None:
    """A recording as compressed CSV, the same bytes for the same values."""
    table = recording.to_frame().drop(columns=["samples", "queries_per_frame"])
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    # Without a name and a time in the header, which would differ between two runs.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(text.encode())


def run_cell(cell: Cell, backbone: Backbone, image_path: Path, folder: Path) -> tuple[str, str]:
    """Make one video unless it is there; (status, reason). A failure is recorded, not raised, and tried again next run."""
    target = folder / f"{cell.key}.mkv"
    if target.exists():
        return "ok", ""
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", UserWarning)
            video, recording = sample_video(cell, backbone, image_path)
        for w in raised:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
        if said := [str(w.message) for w in raised if METHODS in Path(w.filename).parents]:
            write_atomically(folder / f"{cell.key}.txt", lambda path: path.write_text("; ".join(said)))
        if recording is not None:  # before the video, which says that the cell is done
            write_atomically(folder / f"{cell.key}.csv.gz", partial(write_recording, recording))
        write_video(target, video, backbone.fps)
        return "ok", ""
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _one_thread():
    torch.set_num_threads(1)


def default_executor(workers: int | None = None) -> AbstractContextManager[Executor]:
    """One process per GPU, or one single-threaded process per core (which beats fewer with more threads)."""
    gpus = torch.cuda.device_count()
    return stopping(worker_pool(workers or gpus or None, None if gpus else _one_thread))


def shard(cells: list[Cell], part: str | None) -> list[Cell]:
    """Every n-th cell for "i/n" (0 <= i < n), all of them for None. Raises ValueError for anything else."""
    if part is None:
        return cells
    try:
        i, n = map(int, part.split("/"))
    except ValueError:
        i, n = -1, 0
    if not 0 <= i < n:
        raise ValueError(f"--shard is {part!r}; it must be i/n with 0 <= i < n, such as 0/4")
    return cells[i::n]


def generate(parameters: Parameters, sweep: str, executor: Executor, *, part: str | None = None) -> int:
    """Make all videos of a sweep in its folder of runs/, remove those of an older grid, write the manifest; failures' count.

    Videos that exist are kept, so a killed run goes on, and a changed grid costs its new cells only.
    """
    cells = expand(parameters, sweep)
    backbone = parameters.backbones[parameters.sweeps[sweep].backbone]
    images = reference_files(parameters, sweep, cells)
    folder = runs_folder(parameters, sweep)
    folder.mkdir(parents=True, exist_ok=True)
    if part is None:  # it would say that the sweep is whole, also when this run is cut off
        (folder / "manifest.csv").unlink(missing_ok=True)
    for stray in folder.glob(".*.tmp.*"):
        stray.unlink()
    mine = shard(cells, part)
    _adopt(mine, other_runs_folder(parameters, sweep), folder)
    outcome: dict[str, tuple[str, str]] = {}
    todo = {c.key: c for c in mine if not (folder / f"{c.key}.mkv").exists()}
    jobs = {executor.submit(run_cell, c, backbone, images[k], folder): k for k, c in todo.items()}
    for job in track(as_completed(jobs), len(jobs), f"generate {sweep}"):
        outcome[jobs[job]] = job.result()
    if part is None:
        _write_manifest(folder, cells, outcome, images)
        _prune(folder, cells)
    return sum(status != "ok" for status, _ in outcome.values())


def _adopt(cells: Iterable[Cell], source: Path, folder: Path) -> None:
    """Take over the videos that another run of the sweep has made: equal keys are equal videos."""
    for cell in cells:
        for name in (f"{cell.key}{suffix}" for suffix in SUFFIXES):
            if (source / name).is_file() and not (folder / name).exists():
                write_atomically(folder / name, lambda path, name=name: shutil.copyfile(source / name, path))


def reference_files(parameters: Parameters, sweep: str, cells: Iterable[Cell]) -> dict[str, Path]:
    """Where each cell's reference image is, by the cell's key."""
    if (source := parameters.sweeps[sweep].reference) != "own":
        return {c.key: runs_folder(parameters, source) / f"{c.image}.mkv" for c in cells}
    folder = parameters.benchmark.folder
    files = {s["id"]: folder / s["image-path"] for s in load_samples(folder)}
    return {c.key: files[c.sample] for c in cells}


def _write_manifest(folder: Path, cells: Iterable[Cell], outcome: dict, images: dict[str, Path]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, MANIFEST, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        status, reason = outcome.get(cell.key, ("ok", ""))
        if status == "ok" and (note := folder / f"{cell.key}.txt").exists():  # what a method said about this video
            reason = note.read_text()
        row = asdict(cell) | {
            "key": cell.key,
            "status": status,
            "reason": reason,
            "reference": images[cell.key].as_posix(),
        }
        writer.writerow({k: row[k] for k in MANIFEST})
    write_atomically(folder / "manifest.csv", lambda path: path.write_text(text.getvalue()))


def _prune(folder: Path, cells: Iterable[Cell]) -> None:
    keep = {c.key for c in cells}
    for file in [*folder.glob("*.mkv"), *folder.glob("*.csv.gz"), *folder.glob("*.txt")]:
        if file.name.split(".")[0] not in keep:
            file.unlink()
