"""One cell in a worker: its video and its record, or the reason why there is none. Whatever goes wrong is the cell's."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import torch

import methods
from methods.core.record import Recording

from ..study.backbone_settings import Backbone
from ..study.cells import Cell
from ..study.files import host_name, write_atomically
from ..study.video_files import read_video, write_video
from .load_backbone import load_pipeline, memory_advice
from .records import Record, read_record, sha256_of, state_of, write_record
from .sample_video import Reference, needs_image, open_fitted, sample_fitted

METHODS = Path(methods.__file__).parent
_one_at_a_time = threading.Lock()  # a process has one pipeline, to which a cell's methods are attached


def run_cell(
    cell: Cell, backbone: Backbone, image_path: Path, folder: Path, root: Path | None = None
) -> tuple[str, str]:
    """Make one video unless it is there and sound; (status, reason), status ok or failed. Nothing is raised: a failure is
    recorded beside where the video would be, and tried again in the next run.

    root: the folder that all relative paths start from, for a worker that was started elsewhere.
    """
    if root is not None and not root.is_dir():
        return "failed", f"{host_name()} has no folder {root}: workers need the files of this run at the same place"
    target = folder / f"{cell.key}.mkv"
    with _one_at_a_time, contextlib.chdir(root or Path()):
        attempt = getattr(read_record(target), "attempt", 0) + 1
        try:
            if target.exists() and _is_sound(cell, target, backbone, image_path):
                return "ok", ""
            target.unlink(missing_ok=True)  # a damaged one, which a failure must not leave to be taken for a sound one
            _make(cell, backbone, image_path, target, attempt)
            return "ok", ""
        except Exception as error:
            reason = _said(error, backbone)
        gc.collect()  # the error held what was on the GPU
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        with contextlib.suppress(OSError):  # of a full disk, which is what the reason says then
            write_record(target, Record("failed", reason, attempt, **_machine()))
        return "failed", reason


def _is_sound(cell: Cell, target: Path, backbone: Backbone, image_path: Path) -> bool:
    """Whether a video is what was written, by its checksum; one without, of an older version or a worker that was killed
    before it wrote one, is read and gets a record."""
    state = state_of(cell, target.parent, deep=True)
    if state.state != "ok" or (state.record is not None and state.record.sha256):
        return state.state == "ok"
    try:
        frames, height, width, _ = read_video(target, backbone.frames).shape
    except ValueError:
        return False
    reference = open_fitted(image_path, backbone) if needs_image(backbone) else None
    own = _store_reference(target.parent, cell, reference)
    write_record(target, Record("ok", frames=frames, height=height, width=width, **own, **_of_file(target)))
    return True


def _make(cell: Cell, backbone: Backbone, image_path: Path, target: Path, attempt: int) -> None:
    reference = open_fitted(image_path, backbone) if needs_image(backbone) else None  # before a model is loaded for it
    load_pipeline(backbone)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        video, recording = sample_fitted(cell, backbone, reference)
    seconds = round(time.perf_counter() - began, 3)
    for w in raised:
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    if said := [str(w.message) for w in raised if METHODS in Path(w.filename).parents]:
        write_atomically(target.with_suffix(".txt"), lambda path: path.write_text("; ".join(said)))
    if recording is not None:  # before the video, which says that the cell is done
        write_atomically(target.with_suffix(".csv.gz"), partial(write_recording, recording))
    own = _store_reference(target.parent, cell, reference)
    write_video(target, video, backbone.fps)
    frames, height, width, _ = video.shape
    write_record(target, Record("ok", "", attempt, seconds, _peak_gib(), frames, height, width, **own, **_of_file(target),
                                **_machine()))  # fmt: skip


def write_recording(recording: Recording, path: Path) -> None:
    """A recording as compressed CSV, the same bytes for the same values."""
    table = recording.to_frame().drop(columns=["samples", "queries_per_frame"])
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    # Without a name and a time in the header, which would differ between two runs.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(text.encode())


def _store_reference(folder: Path, cell: Cell, reference: Reference | None) -> dict[str, str]:
    """Keep a reference that was turned or fitted beside the videos, before it is blurred: it is what they are scored
    against."""
    if reference is None or not reference.fit:
        return {}
    name = f"references/{cell.image}-{reference.image.width}x{reference.image.height}-{reference.fit.split()[0]}.png"
    if not (folder / name).exists():
        write_atomically(folder / name, lambda path: reference.image.save(path, format="PNG"))
    return {"fit": reference.fit, "reference": name}


def _of_file(target: Path) -> dict:
    return {"bytes": target.stat().st_size, "sha256": sha256_of(target)}


def _peak_gib() -> float | None:
    if torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if os.uname().sysname != "Darwin" else 2**30), 3)  # kilobytes; bytes on macOS


def _machine() -> dict[str, str]:
    import platform

    import diffusers

    on_gpu = torch.cuda.is_available()
    device = (
        torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    return {"device": device, "host": host_name(), "torch": torch.__version__, "diffusers": diffusers.__version__}


def _said(error: Exception, backbone: Backbone) -> str:
    """An error in one line; where memory ran out, with what would need less of it."""
    text = " ".join(str(error).split())
    short = f"{type(error).__name__}: {text[:300]}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return f"out of memory ({short[:120]}); what needs less, per backbone: {memory_advice(backbone)}"
    return short
