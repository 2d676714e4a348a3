"""ChronoEdit, which edits an image by making a video from it: attention and token order of Wan 2.1 image-to-video.

After its steps of temporal reasoning the pipeline keeps the first and the last latent frame alone; the reference stays
the first one.
"""

from __future__ import annotations

from dataclasses import replace

from . import wan


def make(batch, grid, words):
    """A tiny ChronoEdit; image tokens as in Wan."""
    from diffusers import ChronoEditTransformer3DModel

    return wan.tiny_model(batch, grid, words, channels=36, image=257, transformer=ChronoEditTransformer3DModel)


FAMILY = replace(
    wan.FAMILY,
    without_reference={},
    class_name="ChronoEditTransformer3DModel",
    title="ChronoEdit",
    reference="channels beside the latents; keys of an image encoder",
    pipelines=("ChronoEditPipeline",),
    tiny={"chronoedit": replace(wan.tiny(36, 257), make=make)},
)
