"""Attention steering for image-to-video diffusion models: needs torch and diffusers only."""

from .align_vid import AlignVid
from .blur import blur_image
from .dymos import DyMoS
from .record import record
from .steer import steer

__all__ = ["AlignVid", "DyMoS", "blur_image", "record", "steer"]
