"""The video and the file of settings beside it: refused before anything is computed, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

SUFFIXES = (".mp4", ".mov", ".mkv")  # of containers for H.264


def settings_path(output: Path) -> Path:
    """x.mp4 -> x.mp4.json: one per video, also beside an x.mov."""
    return output.with_name(output.name + ".json")


def check_output(output: Path) -> None:
    """Make the folder of a video and check that it can be written.

    Raises ValueError for another suffix, OSError for a folder that cannot be made or written and without an encoder.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(
            f"-o {output}: the suffix {output.suffix or '(none)'} is not one that is written; allowed are {', '.join(SUFFIXES)}"
        )
    if output.is_dir() or settings_path(output).is_dir():
        raise IsADirectoryError(f"-o {output} is a folder")
    try:
        import av
    except ImportError:
        raise OSError("writing a video needs PyAV: pip install av") from None
    if "libx264" not in av.codecs_available:
        raise OSError("this PyAV has no H.264 encoder (libx264); install the wheel from PyPI: pip install av")
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise OSError(f"-o {output}: its folder cannot be written ({error.strerror or error})") from None
    finally:
        for folder in made:  # deepest first; the folder is made again when there is a video
            if folder.is_dir():
                folder.rmdir()


def write_mp4(frames, path: Path, fps: float) -> None:
    """Write (T, H, W, 3) frames in [0, 1] as H.264; H and W must be even, as all models here make them."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in (frames * 255).round().clip(0, 255).astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_both(frames, output: Path, fps: float, settings: dict) -> None:
    """The video and its settings, each under another name first; neither is left if one fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = settings_path(output)
    video = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    text = beside.with_name(f".{output.stem}.{os.getpid()}.json")
    try:
        write_mp4(frames, video, fps)
        text.write_text(json.dumps(settings, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        os.replace(text, beside)
        os.replace(video, output)
    except BaseException:
        video.unlink(missing_ok=True)
        text.unlink(missing_ok=True)
        raise
