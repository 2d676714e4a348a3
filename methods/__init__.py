"""Attention steering for image-to-video diffusion models: needs torch and diffusers only."""

from .adaptive_projected_guidance import AdaptiveProjectedGuidance
from .align_vid import AlignVid
from .blur import blur_image
from .cfg_zero_star import CFGZeroStar
from .core.record import record
from .core.steer import steer
from .dymos import DyMoS
from .focal_guidance import FocalGuidance
from .low_pass_guidance import LowPassGuidance
from .overlay import save_overlay
from .reference_amplitude import ReferenceAmplitude
from .reference_compression import h264_image, jpeg_image
from .reference_noise import ReferenceNoise

__all__ = ["AdaptiveProjectedGuidance", "AlignVid", "CFGZeroStar", "DyMoS", "FocalGuidance", "LowPassGuidance",
           "ReferenceAmplitude", "ReferenceNoise", "blur_image", "h264_image", "jpeg_image", "record", "save_overlay", "steer"]  # fmt: skip
