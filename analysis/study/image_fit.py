"""A photograph of any size as the picture that a backbone is given: upright, and fitted by the backbone's `fit`.

What was done is said in words, which are recorded with the video: nobody should have to guess what a model has seen.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from .backbone_settings import Backbone, Bucket
from .video_files import load_reference


def open_reference(path: Path) -> tuple[Image.Image, str]:
    """An image as RGB, turned upright where its EXIF orientation says so, or a video's first frame; and what was done, ""
    for nothing. Raises ValueError that names the file if it cannot be read."""
    if path.suffix == ".mkv":
        return load_reference(path), ""
    try:
        with Image.open(path) as stored:
            turn = stored.getexif().get(ExifTags.Base.Orientation, 1)
            image = ImageOps.exif_transpose(stored).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"the reference image {path} is missing") from None
        raise ValueError(f"the reference image {path} cannot be read: {error}") from None
    return image, f"turned upright (EXIF orientation {turn})" if turn not in (0, 1) else ""


def fitted_size(width: int, height: int, backbone: Backbone) -> tuple[int, int]:
    """(width, height) of the video that a backbone makes of an upright image of this size, in pixels. Raises ValueError if
    `fit` is exact and the image has another size, or if a bucket would have no pixels."""
    fit = backbone.fit
    if not isinstance(fit, Bucket):
        if fit == "exact" and (width, height) != (backbone.width, backbone.height):
            raise ValueError(
                f"{width}x{height}; the backbone wants {backbone.width}x{backbone.height} "
                "(`fit: crop`, `pad` or a bucket takes images of other sizes)"
            )
        return backbone.width, backbone.height
    aspect = width / height
    if fit.sizes is not None:  # the first of equally near ones
        return min(fit.sizes, key=lambda size: abs(math.log(size[0] / size[1] / aspect)))
    area, multiple = fit.area or backbone.width * backbone.height, fit.multiple
    # As the released Wan code and diffusers' example do it: the aspect at this area, each side rounded, then cut down.
    size = tuple(round(math.sqrt(area * a)) // multiple * multiple for a in (aspect, 1 / aspect))
    if 0 in size:
        raise ValueError(
            f"{width}x{height}, which has no size of {area} pixels in multiples of {multiple}: too long and thin"
        )
    return size


def fit_image(image: Image.Image, backbone: Backbone) -> tuple[Image.Image, str]:
    """The image at the size of the video, and what was done to it, "" for nothing. Raises ValueError, see `fitted_size`.

    crop and bucket cut the largest part of the wanted aspect out of the middle, pad puts the whole image into the middle of
    black; both resize with Lanczos' filter.
    """
    size = fitted_size(image.width, image.height, backbone)
    if image.size == size:
        return image, ""
    said = f"{image.width}x{image.height} to {size[0]}x{size[1]}"
    if backbone.fit == "pad":
        inside = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=(0, 0, 0)), (
            f"pad {said}: {inside.width}x{inside.height} in the middle, black around"
        )
    scale = min(image.width / size[0], image.height / size[1])
    across, down = size[0] * scale, size[1] * scale
    left, top = (image.width - across) / 2, (image.height - down) / 2
    name = "bucket" if isinstance(backbone.fit, Bucket) else "crop"
    fitted = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))
    return fitted, f"{name} {said}: the middle {round(across)}x{round(down)}"
