"""Attention steering for image-to-video diffusion models: needs torch and diffusers only."""

from .align_vid import AlignVid
from .blur import blur_image
from .dymos import DyMoS
from .focal_guidance import FocalGuidance
from .low_pass import LowPassGuidance
from .record import record
from .steer import steer

__all__ = ["AlignVid", "DyMoS", "FocalGuidance", "LowPassGuidance", "blur_image", "record", "steer"]
