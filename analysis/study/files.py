"""Videos on disk: lossless, named by what made them, written to a temporary name and moved into place."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from pathlib import Path

import av
import numpy as np
import pandas as pd

av.logging.set_level(av.logging.ERROR)  # it is off by default, and then nothing says that a frame is damaged


def content_key(settings: dict) -> str:
    """A short hash of everything that determines a video; equal settings give equal keys on every machine."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary)` and move the file into place; two writers of one path cannot mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Write a table as CSV without its index; the same table gives the same bytes on every system."""
    write_atomically(path, lambda p: table.to_csv(p, index=False, float_format=float_format, lineterminator="\n"))


def write_video(path: Path, video: np.ndarray, fps: int) -> None:
    """Write uint8 (T, H, W, 3) as lossless FFV1; the same array gives the same bytes. Raises ValueError otherwise."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or len(video) == 0:
        raise ValueError(f"a video is uint8 (T, H, W, 3) with T > 0, not {video.dtype} {video.shape}")

    def write(temporary):
        with av.open(str(temporary), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(
                "ffv1", rate=fps, options={"level": "3", "flags": "+bitexact", "threads": "1"}
            )
            stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "bgr0"
            for frame in video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())

    write_atomically(path, write)


def read_video(path: Path, frames: int | None = None) -> np.ndarray:
    """Read a video as uint8 (T, H, W, 3). Raises ValueError naming the file when it is corrupt, also in a few bits, or
    does not have `frames` frames."""
    to_rgb = av.video.reformatter.VideoReformatter()  # one for all frames: setting one up takes longer than the rest
    try:
        with av.logging.Capture() as said, av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"  # what another thread says is not captured
            video = np.stack([to_rgb.reformat(f, format="rgb24").to_ndarray() for f in container.decode(video=0)])
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is not a readable video: {reason}") from None
    # The decoder notices a damaged frame by its checksum, says so, and returns it as if it were sound.
    if errors := [text.strip() for level, _, text in said if level <= av.logging.ERROR]:
        raise ValueError(f"{path} is damaged: {errors[0]}")
    if frames is not None and len(video) != frames:
        raise ValueError(f"{path} has {len(video)} frames, {frames} were expected")
    return video


def code_hash(files: list[Path]) -> str:
    """Hash of what Python files do: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for file in sorted(files):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(file.name.encode() + ast.unparse(tree).encode())
    return digest.hexdigest()[:20]


def folder_hash(folder: Path) -> str:
    """sha256 over the names and contents of a checkpoint's files, independent of where it lies."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in {".json", ".safetensors", ".txt", ".model"}:
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:20]
