"""Two crops of an image, 16:9 and 1:1, one inside the other, that keep the subject in view.

VBench-I2V crops portrait images to 1:1 and then to 16:9 inside, landscape ones to 16:9 and then to 1:1. Focal Guidance says the
reverse (section B), which keeps less of the image, but for landscape ones below 4:3. A crop is the largest one whose sides are whole multiples of the ratio.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .reference_images import first_frame

RATIOS = {"16-9": (16, 9), "1-1": (1, 1)}
ORDERS = ("paper", "vbench")
Box = tuple[int, int, int, int]  # left, top, right, bottom


def first_ratio(width: int, height: int, order: str) -> str:
    """The ratio of the outer crop. A square image counts as landscape. Raises ValueError for an unknown order."""
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; it is one of {', '.join(ORDERS)}")
    portrait = height > width
    return "16-9" if portrait == (order == "paper") else "1-1"


def largest(outer: Box, ratio: str, subject: tuple[float, float, float, float]) -> Box:
    """The largest crop of a ratio inside `outer`, as near as it may be to the centre of the subject (x, y, width, height)."""
    across, down = RATIOS[ratio]
    left, top, right, bottom = outer
    unit = min((right - left) // across, (bottom - top) // down)
    if unit < 1:
        raise ValueError(f"{right - left}x{bottom - top} is too small for a crop of {ratio}")
    width, height = unit * across, unit * down
    x, y, w, h = subject
    left = int(min(max(round(x + w / 2 - width / 2), left), right - width))
    top = int(min(max(round(y + h / 2 - height / 2), top), bottom - height))
    return left, top, left + width, top + height


def canonical_crops(width: int, height: int, subject: tuple[float, float, float, float], order: str) -> dict[str, Box]:
    """{"16-9": crop, "1-1": crop} of an upright image, the one that comes first in `order` outside. Pixels."""
    outer = first_ratio(width, height, order)
    inner = next(r for r in RATIOS if r != outer)
    first = largest((0, 0, width, height), outer, subject)
    return {outer: first, inner: largest(first, inner, subject)}


def share_in_view(crop: Box, subject: tuple[float, float, float, float]) -> float:
    """The share of the subject's area that a crop keeps, 0 to 1."""
    x, y, w, h = subject
    across = max(0.0, min(crop[2], x + w) - max(crop[0], x))
    down = max(0.0, min(crop[3], y + h) - max(crop[1], y))
    return min(1.0, across * down / (w * h))  # rounding must not make it more than whole


def crop_file(sample_id: str, ratio: str, order: str) -> str:
    """Where a sample's crop is, relative to the benchmark's folder."""
    return f"crops/{order}/{ratio}/{sample_id}.png"


def write_crops(
    folder: Path, images: dict[str, Path], subjects: dict[str, tuple], ratio: str, order: str
) -> dict[str, float]:
    """Write the crop of each image, by sample id, into `folder`; the share of each subject that stays in view. Raises
    ValueError for an image that cannot be read or is too small, and for an unknown ratio or order."""
    if ratio not in RATIOS:
        raise ValueError(f"ratio is {ratio!r}; it is one of {', '.join(RATIOS)}")
    shares = {}
    for name, path in images.items():
        image: Image.Image = first_frame(path)
        crop = canonical_crops(*image.size, subjects[name], order)[ratio]
        shares[name] = share_in_view(crop, subjects[name])
        target = folder / crop_file(name, ratio, order)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.crop(crop).save(target)
    return shares
