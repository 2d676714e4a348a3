"""Attention steering for image-to-video diffusion models."""

from .blur import blur_image

__all__ = ["blur_image"]
