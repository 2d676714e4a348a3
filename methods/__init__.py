"""Attention steering for image-to-video diffusion models: needs torch and diffusers only."""

from .align_vid import AlignVid
from .blur import blur_image
from .core.record import record
from .core.steer import steer
from .dymos import DyMoS
from .enhance_a_video import EnhanceAVideo
from .focal_guidance import FocalGuidance
from .low_pass_guidance import LowPassGuidance
from .normalized_attention_guidance import NormalizedAttentionGuidance
from .perturbed_attention import PerturbedAttentionGuidance
from .skip_layer import SkipLayerGuidance, SkipUnconditional
from .smoothed_energy import SmoothedEnergyGuidance

__all__ = [
    "AlignVid", "DyMoS", "EnhanceAVideo", "FocalGuidance", "LowPassGuidance",
    "NormalizedAttentionGuidance", "PerturbedAttentionGuidance", "SkipLayerGuidance", "SkipUnconditional",
    "SmoothedEnergyGuidance", "blur_image", "record", "steer",
]  # fmt: skip
