"""Videos on disk: lossless, the same bytes for the same frames, and damage is noticed when they are read."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from .files import write_atomically

av.logging.set_level(av.logging.ERROR)  # it is off by default, and then nothing says that a frame is damaged
av.logging.set_skip_repeated(False)  # else the second file with the same damage in a process looks sound


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


def load_reference(path: Path) -> Image.Image:
    """An image, or the first frame of a video."""
    return Image.fromarray(read_video(path)[0]) if path.suffix == ".mkv" else Image.open(path).convert("RGB")
