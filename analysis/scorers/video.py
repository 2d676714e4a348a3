"""A video of any origin: mp4, webm, mkv, gif, avi, or a folder of images; its frames, their times, and what is wrong with it.

Frames are as stored: no resampling, no resizing. The time base is explicit: the frames per second are those that the
manifest or the command states, else those of the file, else none.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import statistics
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

av.logging.set_level(av.logging.ERROR)  # it is off by default, and then nothing says that a frame is damaged
av.logging.set_skip_repeated(False)  # else the second file with the same damage in a process looks sound

# Status of a row of the table -> what it means.
STATUSES = {
    "ok": "there is a value",
    "undefined": "the metric has no value for this video; the reason says why",
    "missing": "there is no such file",
    "corrupt": "empty, not a video, or damaged: the reason is the decoder's",
    "too_short": "fewer frames than the metric needs",
    "varying_size": "its frames are of several sizes",
    "too_large": "decoded, it takes more memory than is allowed",
    "no_input": "the manifest does not say what the scorer needs, or the file it names cannot be used",
    "unavailable": "the scorer cannot run here",
    "failed": "the scorer ended with an error, ran out of time, or its process died",
}
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
LIMIT = 4.0  # GiB that a decoded video may take


class NotScored(Exception):
    """Why there is no value: `status` is one of STATUSES, `reason` a sentence."""

    def __init__(self, status: str, reason: str):
        if status not in STATUSES or status == "ok":
            raise ValueError(f"unknown status {status!r}; allowed are {', '.join(STATUSES)} without ok")
        super().__init__(status, reason)
        self.status, self.reason = status, " ".join(str(reason).split())


class Video:
    """A video file or a folder of images (in natural order of their names), read when it is first asked for.

    path: of the file or folder. stated: frames per second that count instead of the file's; None for the file's.
    limit: GiB that its frames may take. All properties raise NotScored, with "missing", "corrupt", "varying_size" or
    "too_large".
    """

    def __init__(self, path: Path, stated: float | None = None, limit: float = LIMIT):
        self.path, self.stated, self.limit = Path(path), stated, limit
        self._recalled: dict[Any, Any] = {}

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes; of a folder, of its images' names and bytes in order."""
        if self.path.is_dir():
            total = hashlib.sha256()
            for image in self._images:
                total.update(image.name.encode() + b"\0" + file_sha256(image).encode() + b"\n")
            return total.hexdigest()
        if not self.path.is_file():
            raise NotScored("missing", f"there is no file {self.path.name}")
        return file_sha256(self.path)

    @cached_property
    def _images(self) -> list[Path]:
        found = [p for p in self.path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
        if not found:
            raise NotScored("corrupt", f"the folder holds no image ({', '.join(sorted(IMAGES))})")
        return sorted(found, key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p.name)])

    @cached_property
    def _outcome(self) -> tuple[np.ndarray, np.ndarray | None, float | None] | NotScored:
        try:
            return self._decoded()
        except NotScored as reason:  # kept, too: a damaged file is not decoded again for each scorer
            return reason

    @property
    def _read(self) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        if isinstance(self._outcome, NotScored):
            raise NotScored(self._outcome.status, self._outcome.reason)
        return self._outcome

    def release(self) -> None:
        """Forget the frames and what was recalled; they are read again when they are asked for."""
        self.__dict__.pop("_outcome", None)
        self._recalled.clear()

    def _decoded(self) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        if self.path.is_dir():
            _check_numbered(self._images)
            return _stack(map(load_image, self._images), self.limit), None, None
        if not self.path.is_file():
            raise NotScored("missing", f"there is no file {self.path.name}")
        if self.path.stat().st_size == 0:
            raise NotScored("corrupt", "the file is empty")
        return _decode(self.path, self.limit)

    @property
    def frames(self) -> np.ndarray:
        """All frames, RGB, uint8 (T, H, W, 3), read-only. Turned upright where the file says that they are turned."""
        return self._read[0]

    @property
    def fps(self) -> float | None:
        """Frames per second: stated, else the file's (as OpenCV reads it), else None."""
        return self.stated or self._read[2]

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, (T,) in seconds from the first: by the stated rate, else by the file's time stamps.

        Raises NotScored "no_input" where neither is there.
        """
        stamps = self._read[1]
        if self.stated is None and stamps is not None:
            return stamps
        return np.arange(len(self.frames)) / self.known_fps()

    def known_fps(self) -> float:
        """`fps`; raises NotScored "no_input" where it is not known."""
        if self.fps is None:
            raise NotScored("no_input", "the frames per second are not known: state them in the manifest or with --fps")
        return self.fps

    def at_least(self, count: int) -> np.ndarray:
        """`frames`; raises NotScored "too_short" if there are fewer than `count`."""
        if len(self.frames) < count:
            raise NotScored("too_short", f"it has {len(self.frames)} frames, {count} are needed")
        return self.frames

    def every(self, rate: float) -> np.ndarray:
        """Indices of every max(1, round(fps / rate))-th frame (half to even): VBench's way to about `rate` a second."""
        return np.arange(0, len(self.frames), max(1, round(self.known_fps() / rate)))

    def resampled(self, rate: float) -> np.ndarray:
        """Indices of the frames that are shown at 0, 1 / rate, 2 / rate, ... seconds, up to the last frame's time."""
        times = self.times
        ticks = np.arange(0, times[-1] + 1e-6, 1 / rate)
        return np.searchsorted(times, ticks + 1e-6, side="right") - 1

    def recall(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first asked for under `key`: for what several scorers need of one video."""
        if key not in self._recalled:
            self._recalled[key] = make()
        return self._recalled[key]


def _check_numbered(images: list[Path]) -> None:
    """Raises NotScored "corrupt" where a frame is there in two files, or one of the numbers is lacking: without it the
    motion would be another."""
    for one, other in itertools.pairwise(images):
        if one.stem == other.stem:
            raise NotScored("corrupt", f"{one.name} and {other.name}: which of them is the frame?")
    parts = [re.split(r"(\d+)", p.stem) for p in images]
    changing = [i for i, values in enumerate(zip(*parts, strict=False)) if len(set(values)) > 1]
    if len(images) < 3 or len({len(p) for p in parts}) > 1 or len(changing) != 1 or changing[0] % 2 == 0:
        return  # named otherwise than by one number
    numbers = [int(p[changing[0]]) for p in parts]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    usual = max(1, statistics.mode(steps))
    for number, step in zip(numbers, steps, strict=False):
        if step > usual and step % usual == 0:
            raise NotScored("corrupt", f"after frame {number} comes {number + step}: {number + usual} is not there")


def load_image(path: Path) -> np.ndarray:
    """An image file, RGB, uint8 (H, W, 3), turned upright by its EXIF tag. Raises NotScored "corrupt"."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("I", "F"):
                raise ValueError(f"its pixels are of Pillow's mode {upright.mode}, whose range is not known")
            if upright.mode.startswith("I;16"):  # 16 bits of grey, which Pillow would cut at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise NotScored("corrupt", f"{path.name} is not a readable image: {error}") from None


def file_sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode(path: Path, limit: float) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    """(frames, time stamps, frames per second) of a video file."""
    to_rgb, stamps, said, hidden = av.video.reformatter.VideoReformatter(), [], [], 0

    def upright(frame):
        stamps.append(frame.time)
        image = to_rgb.reformat(frame, format="rgb24").to_ndarray()
        return np.rot90(image, frame.rotation // 90) if frame.rotation % 360 else image

    def shown(container, stream):
        nonlocal hidden
        for packet in container.demux(stream):
            hidden += packet.is_discard  # before the start of a clip that was cut without encoding it anew
            yield from packet.decode()

    try:
        with av.logging.Capture() as said, av.open(str(path)) as container:
            if not container.streams.video:
                raise NotScored("corrupt", "it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # what another thread says is not captured
            rate, listed = stream.guessed_rate or stream.average_rate, stream.frames
            frames = _stack(map(upright, shown(container, stream)), limit)
    except (av.error.FFmpegError, ValueError, IndexError, UnicodeDecodeError) as error:
        words = [getattr(error, "strerror", None) or str(error), *(text.strip() for _, _, text in said[:1])]
        raise NotScored("corrupt", f"not a readable video: {'; '.join(words)}") from None
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise NotScored("corrupt", "the file ends before its trailer")
    # A decoder notices a damaged frame, says so, and returns it as if it were sound.
    if errors := [text.strip() for level, _, text in said if level <= av.logging.ERROR]:
        raise NotScored("corrupt", f"it is damaged: {errors[0]}")
    if len(frames) < listed - hidden:
        raise NotScored("corrupt", f"{len(frames)} frames could be decoded, the file lists {listed - hidden}")
    known = None not in stamps and all(a < b for a, b in itertools.pairwise(stamps))
    return frames, np.array(stamps) - stamps[0] if known else None, float(rate) if rate else None


def _stack(images, limit: float) -> np.ndarray:
    frames, size = [], 0
    for image in images:
        if frames and image.shape != frames[0].shape:
            (h, w), (h0, w0) = image.shape[:2], frames[0].shape[:2]
            raise NotScored("varying_size", f"frame {len(frames)} is {w}x{h}, the first is {w0}x{h0}")
        size += image.nbytes
        if size > limit * 2**30:
            raise NotScored("too_large", f"its first {len(frames) + 1} frames take more than {limit:g} GiB")
        frames.append(image)
    if not frames:
        raise NotScored("corrupt", "no frame could be decoded")
    stacked = np.stack(frames)
    stacked.flags.writeable = False
    return stacked
