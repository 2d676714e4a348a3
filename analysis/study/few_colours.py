"""Pictures of few colours: a fraction of the bytes, and no visible difference in plots and film strips."""

from __future__ import annotations

from PIL import Image


def in_few_colours(picture: Image.Image, colours: int) -> Image.Image:
    """The picture with a palette of at most `colours` (2 to 256). Rare colours, such as a thin line's, keep a place of their
    own: the palette covers the colours that occur, and does not follow how often they do."""
    coverage = Image.Quantize.MAXCOVERAGE
    return picture.convert("RGB").quantize(colours, coverage, kmeans=1, dither=Image.Dither.NONE)
