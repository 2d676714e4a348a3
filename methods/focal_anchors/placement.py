"""Where an image encoder's patches lie in the frame.

The video model sees the whole reference, stretched to the size of the video. The image processor that comes with Wan 2.1
resizes the shorter side and crops the centre, so of a wide image the encoder never sees the left and the right.
"""

from __future__ import annotations

import torch


def share_seen(processor, image) -> tuple[float, float]:
    """(of the height, of the width): the share of an image, around its centre, that the processor hands to the encoder.

    image: as a pipeline is given it; of a list, the first. Raises ValueError for an image whose size cannot be told.
    """
    if processor is None or not getattr(processor, "do_center_crop", False):
        return 1.0, 1.0
    image = image[0] if isinstance(image, (list, tuple)) else image
    if torch.is_tensor(image):
        height, width = image.shape[-2:]
    elif hasattr(image, "height"):
        height, width = image.height, image.width
    else:
        raise ValueError(f"FocalGuidance: give the reference as a PIL image or a tensor, not a {type(image).__name__}")
    resized = height, width
    if processor.do_resize:
        shortest = processor.size.get("shortest_edge")
        if shortest is None:
            resized = processor.size["height"], processor.size["width"]
        else:
            resized = tuple(n * shortest / min(height, width) for n in (height, width))
    crop = processor.crop_size
    return crop["height"] / resized[0], crop["width"] / resized[1]


def place(patches: torch.Tensor, rows: int, columns: int, seen: tuple[float, float]) -> torch.Tensor:
    """(K, rows, columns): maps (K, h, w) over the patches, averaged over the part of each token of the frame that they
    cover, 0 where the encoder saw nothing."""
    down, across = (
        _overlap(tokens, count, share).to(patches)
        for tokens, count, share in zip((rows, columns), patches.shape[-2:], seen, strict=True)
    )
    return down @ patches @ across.T


def _overlap(tokens: int, patches: int, share: float) -> torch.Tensor:
    """(tokens, patches): which share of a token's length each patch covers; the patches span the middle `share`."""
    cells = torch.linspace(0, 1, tokens + 1, dtype=torch.float64)
    seen = 0.5 + share * (torch.linspace(0, 1, patches + 1, dtype=torch.float64) - 0.5)
    low = torch.maximum(cells[:-1, None], seen[None, :-1])
    high = torch.minimum(cells[1:, None], seen[None, 1:])
    return tokens * (high - low).clamp(min=0)
