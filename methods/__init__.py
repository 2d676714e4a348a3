"""Attention steering for image-to-video diffusion models: needs torch and diffusers only."""

from .align_vid import AlignVid
from .blur import blur_image
from .core.record import record
from .core.steer import steer
from .dymos import DyMoS
from .focal_guidance import FocalGuidance
from .low_pass_guidance import LowPassGuidance
from .overlay import save_overlay

__all__ = ["AlignVid", "DyMoS", "FocalGuidance", "LowPassGuidance", "blur_image", "record", "save_overlay", "steer"]
