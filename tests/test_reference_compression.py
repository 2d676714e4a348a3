"""JPEG and H.264 of the reference: by hand on flat and grey images, by OpenCV's decoder, and ever less with the setting."""

from __future__ import annotations

import builtins

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn, idctn

from methods import h264_image, jpeg_image, reference_compression

# Luminance table of the JPEG standard (annex K.1), for quality 50.
TABLE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip


def photograph(seed=0, width=96, height=64):
    """Edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([2 * x, 3 * y, 255 - x - y], -1) + rng.normal(0, 12, (height, width, 3))
    picture[16:40, 20:50] = rng.integers(0, 256, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def loss(a, b):
    return float(((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 95), st.integers(0, 1000))
def test_jpeg_of_a_grey_image_is_the_quantised_cosine_transform(quality, seed):
    grey = np.random.default_rng(seed).integers(60, 196, (16, 24)).astype(np.uint8)
    found = np.asarray(jpeg_image(Image.fromarray(np.stack([grey] * 3, -1)), quality)).astype(float)
    assert np.ptp(found, axis=-1).max() == 0
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((TABLE * percent + 50) // 100).clip(1, 255)
    for i in range(0, 16, 8):
        for j in range(0, 24, 8):
            place = slice(i, i + 8), slice(j, j + 8)
            levels = dctn(grey[place] - 128.0, norm="ortho") / steps
            expected = (idctn(np.round(levels) * steps, norm="ortho") + 128).clip(0, 255)
            # libjpeg transforms in whole numbers: halfway between two levels a coefficient can fall to the other one, by
            # which a pixel moves by a quarter of its step at most.
            halfway = abs(abs(levels - np.floor(levels)) - 0.5) * steps < 0.3
            assert abs(found[place][..., 0] - expected).max() <= 1.5 + 0.25 * steps[halfway].sum()


@pytest.mark.parametrize("quality", [5, 40, 90])
def test_jpeg_equals_another_library(quality):
    image = photograph()
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    _, data = cv2.imencode(".jpg", np.asarray(image)[..., ::-1], options)
    assert abs(np.asarray(jpeg_image(image, quality), int) - cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]).max() <= 3


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_h264_of_a_flat_colour_is_that_of_bt601(colour):
    """At crf 1 hardly more is lost than by rounding to 8 bits of Y from 16 to 235 and Cb, Cr from 16 to 240."""
    r, g, b = (c / 255 for c in colour)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    y, cb, cr = (round(v) for v in (16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402))
    luma, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    blue, red = luma + 1.772 * cb, luma + 1.402 * cr
    expected = 255 * np.array([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue])
    found = np.asarray(h264_image(Image.new("RGB", (32, 16), colour), 1), float)
    assert abs(found - expected.clip(0, 255)).max() <= 4


@pytest.mark.parametrize("crf", [1, 18, 33, 51])
def test_h264_equals_what_another_decoder_makes_of_the_file(crf, tmp_path):
    """OpenCV has an ffmpeg of its own; the planes of PyAV, converted by formula, are the second route."""
    image, path = photograph(), tmp_path / "one.mp4"
    path.write_bytes(reference_compression._encode(image, crf).getvalue())
    found = np.asarray(h264_image(image, crf), int)
    capture = cv2.VideoCapture(str(path))
    read, pixels = capture.read()
    assert read and not capture.read()[0]
    assert abs(found - pixels[..., ::-1]).max() <= 8 and abs(found - pixels[..., ::-1]).mean() < 0.8
    with av.open(str(path)) as container:
        planes = next(container.decode(video=0)).to_ndarray(format="yuv420p")
    luma = (found @ [0.299, 0.587, 0.114]) * 219 / 255 + 16
    inside = ((found > 0) & (found < 255)).all(
        -1
    )  # where RGB holds the colour; swscale converts by tables, to 2 levels
    assert abs(luma - planes[:64])[inside].max() <= 2.5


@pytest.mark.parametrize("seed", range(3))
def test_more_compression_loses_more(seed):
    image = photograph(seed)
    for compress, values in ((h264_image, [0, 10, 18, 26, 33, 42, 51]), (jpeg_image, [95, 80, 60, 40, 20, 10, 3])):
        losses = [loss(compress(image, v), image) for v in values]
        assert losses == sorted(losses) and len(set(losses)) == len(losses), (compress.__name__, losses)


def test_it_is_that_of_ltx_2():
    from diffusers.pipelines.ltx2.utils import apply_image_conditioning_crf

    image = photograph(4)
    for crf in (0, 18, 33):
        assert np.array_equal(h264_image(image, crf), apply_image_conditioning_crf(np.asarray(image), crf))
        assert np.array_equal(h264_image(image, crf), h264_image(image, crf))
    assert h264_image(image, 0) is image


@pytest.mark.parametrize(
    ("compress", "value", "words"),
    [
        (jpeg_image, 0, "from 1 to 100, not 0"), (jpeg_image, 101, "101"), (jpeg_image, 7.5, "7.5"),
        (h264_image, -1, "from 0 to 51, not -1"), (h264_image, 52, "52"), (h264_image, True, "True"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(compress, value, words):
    with pytest.raises(ValueError, match=words):
        compress(photograph(), value)


def test_wrong_images_are_refused():
    for compress in (jpeg_image, h264_image):
        with pytest.raises(TypeError, match="not ndarray"):
            compress(np.zeros((8, 8, 3), np.uint8), 20)
        with pytest.raises(TypeError, match="not RGBA"):
            compress(Image.new("RGBA", (8, 8)), 20)
    with pytest.raises(ValueError, match="even sides, not 9x8"):
        h264_image(Image.new("RGB", (9, 8)), 20)


def test_without_pyav_it_says_so(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install av"):
        h264_image(Image.new("RGB", (8, 8)), 20)
    assert jpeg_image(Image.new("RGB", (8, 8)), 20).size == (8, 8)
