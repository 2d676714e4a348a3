"""Whether a reference can be read whole, and how large it is the right way up."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image, ImageOps

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif")
TURNED = 5, 6, 7, 8  # values of EXIF's orientation that exchange width and height
ORIENTATION = 0x0112


def first_frame(path: Path) -> Image.Image:
    """The reference that a file holds, RGB, upright: an image turned as its EXIF says, or the first frame of a video. Raises
    ValueError that says why there is none."""
    try:
        if path.suffix.lower() in VIDEOS:
            return _of_video(path)
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read: {_reason(error)}") from None


def _of_video(path: Path) -> Image.Image:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no picture")
        for frame in container.decode(video=0):
            return frame.to_image().convert("RGB")
    raise ValueError("it has no frame")


def upright_size(path: Path) -> tuple[tuple[int, int], bool]:
    """((width, height) the right way up, whether EXIF turns it), after the whole image has been decoded. Raises ValueError
    that says why it cannot be."""
    if path.suffix.lower() in VIDEOS:
        return first_frame(path).size, False
    try:
        with Image.open(path) as image:
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read: {_reason(error)}") from None
    return ((height, width) if orientation in TURNED else (width, height)), orientation not in (0, 1)


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is no image"
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
