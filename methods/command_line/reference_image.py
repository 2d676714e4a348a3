"""The reference image as the pipeline gets it: upright, and of the size of the video by a stated policy, never stretched."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

FITS = ("exact", "crop", "pad")


def open_image(given: str) -> Image.Image:
    """An image file as RGB, turned as its EXIF orientation says.

    Raises FileNotFoundError for a file that is not there, ValueError for an address and for what is no image.
    """
    if "://" in given:
        raise ValueError(f"--image {given} is an address; download the file first, so that the settings can name it")
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"no reference image at {given}")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"--image {given} cannot be read as an image: {error}") from None


def fit_image(image: Image.Image, width: int, height: int, policy: str) -> Image.Image:
    """The image at the size of the video.

    policy: "crop" keeps the shape of things, fills the frame and cuts the centre out; "pad" keeps all of the image and adds
    black bars; "exact" takes an image of just that size. Raises ValueError for an image of another size under "exact".
    """
    if image.size == (width, height):
        return image
    if policy == "exact":
        raise ValueError(
            f"--fit exact: the image is {image.width} x {image.height} and the video {width} x {height}; "
            "give --fit crop or --fit pad, an image of that size, or another --height and --width"
        )
    if policy == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color=(0, 0, 0))


def said_of_fit(size: tuple[int, int], width: int, height: int, policy: str) -> str:
    """What a policy does to an image of this size, in words."""
    if size == (width, height):
        return f"{width} x {height}, the size of the video"
    cover = max(width / size[0], height / size[1])
    if policy == "crop":
        kept = round(100 * (width / cover) * (height / cover) / (size[0] * size[1]))
        done = f"scaled and cropped at its centre to {width} x {height}, which keeps {kept} % of it"
    else:
        done = f"scaled and padded with black to {width} x {height}"
    return f"{size[0]} x {size[1]}, {done} (--fit {policy})"


def image_hash(path: str) -> str:
    """SHA-256 of the file."""
    return f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
