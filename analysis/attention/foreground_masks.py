"""Foreground of small pseudo-colour images: 2-means, or SAM 2 through transformers where its weights are at hand.

AlignVid (F.2) gives SAM 2 the pseudo-RGB frames and does not say how it is prompted. Here 2-means proposes: the connected
parts of its foreground, each by its most inner pixel, are the points that SAM 2 is asked about.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # what SAM 2 was trained with


def two_means(colours: np.ndarray) -> np.ndarray:
    """Foreground of two clusters, bool (H, W), of float32 colours (H, W, C); starts from a cut at the mean of channel 0.

    Neither clusters nor F.2 say which of the two is the foreground. The rule here: the cluster that holds most of the
    frame's border is the background. A subject that fills more than half of the frame is foreground too, then.
    """
    height, width = colours.shape[:2]
    x = np.ascontiguousarray(colours.reshape(height * width, -1), np.float32)
    start = (x[:, :1] > x[:, 0].mean()).astype(np.int32)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    one = (cv2.kmeans(x, 2, start, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)[1][:, 0] == 1).reshape(height, width)
    border = np.pad(np.zeros((max(0, height - 2), max(0, width - 2)), bool), 1, constant_values=True)
    return one if one[border].mean() <= 0.5 else ~one


def inner_points(mask: np.ndarray) -> np.ndarray:
    """(parts, 2) x and y of the most inner pixel of each connected part of a bool (H, W) mask, largest part first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda i: -stats[i, cv2.CC_STAT_AREA])
    points = []
    for i in order:
        part = np.pad(labels == i, 1).astype(np.uint8)
        depth = cv2.distanceTransform(part, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        points.append((x, y))
    return np.array(points, float).reshape(-1, 2)


@lru_cache(maxsize=1)
def load_sam2(name: str):
    """A SAM 2 model in eval mode, on the GPU if there is one. Raises ValueError where its weights are not at hand."""
    from transformers import Sam2Model

    try:
        model = Sam2Model.from_pretrained(name, use_safetensors=True).eval()
    except OSError as error:
        raise ValueError(f"no SAM 2 weights at {name} ({str(error).splitlines()[0]}); leave --segmenter out") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def sam2_mask(model, image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Union, bool (H, W), of SAM 2's best mask for each of `points` (N, 2; x and y) in a uint8 image (H, W, 3)."""
    height, width = image.shape[:2]
    if len(points) == 0:
        return np.zeros((height, width), bool)
    side = model.config.vision_config.backbone_config.image_size
    side = side if isinstance(side, int) else side[0]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
    pixels = (pixels - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)
    scaled = (torch.from_numpy(points) + 0.5) * torch.tensor([side / width, side / height])
    asked = scaled.float()[None, :, None]  # (1, N masks, 1 point, 2)
    labels = torch.ones(asked.shape[:3], dtype=torch.int64)
    device, dtype = model.device, model.dtype
    out = model(
        pixel_values=pixels.to(device, dtype), input_points=asked.to(device, dtype), input_labels=labels.to(device)
    )
    best = out.iou_scores[0].argmax(-1)  # (N,)
    masks = out.pred_masks[0][torch.arange(len(best), device=best.device), best][:, None].float()
    full = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)[:, 0]
    return (full > 0).any(0).cpu().numpy()
