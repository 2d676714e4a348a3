"""JPEG and H.264 compression of the reference image, before the pipeline.

Compression takes away the fine detail that ties a video to its first frame, and makes a clean image look like a frame of the
compressed videos that a model has been trained on. LTX-Video and LTX-2 do it to every reference (`image_crf`).
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def jpeg_image(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression, with the colours at half resolution (4:2:0).

    image: RGB, any size. quality: of libjpeg, 1 (worst) to 100, which still rounds.
    Raises TypeError for another kind of image, ValueError for a quality outside the range.
    """
    _check(image, "jpeg_image")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"jpeg_image quality must be a whole number from 1 to 100, not {quality!r}")
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file, formats=["JPEG"]).convert("RGB")


def h264_image(image: Image.Image, crf: int) -> Image.Image:
    """The image as the only frame of an H.264 video: libx264, preset veryfast, 4:2:0, as LTX-2 compresses its references.

    image: RGB with even sides. crf: constant rate factor, 1 (best) to 51; LTX-2 takes 33, LTX-2.5 18. 0 returns the image
    itself, as there. Conversion from and to RGB is ffmpeg's (BT.601, 16 to 235).
    Raises TypeError for another kind of image, ValueError for odd sides or a crf outside the range, ImportError without
    PyAV.
    """
    _check(image, "h264_image")
    if isinstance(crf, bool) or not isinstance(crf, int) or not 0 <= crf <= 51:
        raise ValueError(f"h264_image crf must be a whole number from 0 to 51, not {crf!r}")
    if image.width % 2 or image.height % 2:
        raise ValueError(f"h264_image needs even sides, not {image.width}x{image.height}: resize or crop the image")
    if crf == 0:
        return image
    with _av().open(_encode(image, crf)) as container:
        return Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))


def _encode(image: Image.Image, crf: int) -> io.BytesIO:
    """An MP4 file of one frame."""
    av, file = _av(), io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24").reformat(format="yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    file.seek(0)
    return file


def _av():
    """PyAV, which nothing else of this package needs."""
    try:
        import av
    except ImportError as error:
        raise ImportError("h264_image needs PyAV: pip install av") from error
    return av


def _check(image, function: str) -> None:
    if not isinstance(image, Image.Image):
        raise TypeError(f"{function} takes a PIL image, not {type(image).__name__}")
    if image.mode != "RGB":
        raise TypeError(f"{function} takes an RGB image, not {image.mode}: convert it first")
