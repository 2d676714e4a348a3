"""Photographs of any size: upright, fitted by a rule, and what was done said."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from analysis.study.backbone_settings import Backbone
from analysis.study.image_fit import fit_image, fitted_size, open_reference
from analysis.study.video_files import load_reference
from analysis.study.video_key import file_hash

SIZES = [(63, 65), (900, 1600), (2914, 1658), (48, 32), (1024, 1024)]


def backbone(fit="exact", width=48, height=32):
    return Backbone(checkpoint="a/b", revision="1", pipeline="WanImageToVideoPipeline", dtype="float32", height=height,
                    width=width, frames=9, fps=8, steps=1, negative_prompt="", fit=fit)  # fmt: skip


def slope(width, height):
    """A picture whose red says where a pixel is across, and whose green down."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 200)], -1).round().astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_crop_takes_the_middle_of_the_wanted_aspect(size):
    fitted, said = fit_image(slope(*size), backbone("crop"))
    assert fitted.size == (48, 32) and bool(said) == (size != (48, 32))
    pixels = np.asarray(fitted).astype(float)
    scale = min(size[0] / 48, size[1] / 32)
    for axis, channel, side, whole in ((1, 0, 48, size[0]), (0, 1, 32, size[1])):
        line = pixels[..., channel].mean(1 - axis)
        centres = (whole - side * scale) / 2 + (np.arange(side) + 0.5) * scale - 0.5  # of the pixels, in the image
        truth = centres / (whole - 1) * 255
        inner = slice(4, -4)  # the filter is one-sided at the edges
        assert np.abs(line[inner] - truth[inner]).max() < 1.5, "no stretching, no shift"


@pytest.mark.parametrize("size", SIZES)
def test_pad_keeps_the_whole_image_on_black(size):
    fitted, said = fit_image(slope(*size), backbone("pad"))
    assert fitted.size == (48, 32) and bool(said) == (size != (48, 32))
    shown = np.asarray(fitted)[..., 2] > 100  # the picture's blue is 200 everywhere
    rows, columns = shown.any(1).sum(), shown.any(0).sum()
    assert shown.sum() == rows * columns and (rows == 32 or columns == 48)
    assert abs(columns / rows - size[0] / size[1]) < 0.06
    left, top = shown.any(0).argmax(), shown.any(1).argmax()
    assert abs(left - (48 - columns) / 2) <= 1 and abs(top - (32 - rows) / 2) <= 1


def test_exact_refuses_another_size_and_says_what_would_take_it():
    assert fit_image(slope(48, 32), backbone())[1] == ""
    with pytest.raises(ValueError, match=r"1024x1024; the backbone wants 48x32 \(`fit: crop`"):
        fit_image(slope(1024, 1024), backbone())


def test_the_nearest_bucket_of_a_list_is_taken():
    own = backbone({"policy": "bucket", "sizes": [[832, 480], [480, 832], [640, 640]]})
    found = {size: fitted_size(*size, own) for size in [(1600, 900), (900, 1600), (100, 101), (2914, 1658), (700, 600)]}
    assert found == {(1600, 900): (832, 480), (900, 1600): (480, 832), (100, 101): (640, 640), (2914, 1658): (832, 480),
                     (700, 600): (640, 640)}  # fmt: skip
    image, said = fit_image(slope(900, 1600), own)
    assert image.size == (480, 832) and said.startswith("bucket 900x1600 to 480x832: the middle ")


def test_a_bucket_by_area_is_the_size_of_the_released_code():
    # diffusers' example of Wan: area 480 x 832, multiples of 16.
    own = backbone({"policy": "bucket"}, width=832, height=480)
    for width, height in [(1600, 900), (900, 1600), (1024, 1024), (1280, 720), (333, 977)]:
        tall = round(np.sqrt(480 * 832 * height / width)) // 16 * 16
        wide = round(np.sqrt(480 * 832 * width / height)) // 16 * 16
        assert fitted_size(width, height, own) == (wide, tall)
    assert fitted_size(1024, 1024, backbone({"policy": "bucket", "area": 640 * 640, "multiple": 32})) == (640, 640)
    with pytest.raises(ValueError, match="too long and thin"):
        fitted_size(100_000, 10, own)
    with pytest.raises(ValueError, match="not both"):
        backbone({"policy": "bucket", "area": 9, "sizes": [[1, 1]]})


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_respected(tmp_path, turn):
    upright = slope(30, 20)
    undo = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}[turn]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.png", exif=exif)
    image, said = open_reference(tmp_path / "a.png")
    assert np.array_equal(image, upright)
    assert said == ("" if turn == 1 else f"turned upright (EXIF orientation {turn})")


def test_images_without_orientation_are_read_as_before(tmp_path):
    for mode in ("RGB", "L", "RGBA", "P"):
        slope(48, 32).convert(mode).save(tmp_path / f"{mode}.png")
        image, said = open_reference(tmp_path / f"{mode}.png")
        assert np.array_equal(image, load_reference(tmp_path / f"{mode}.png")) and said == ""
    file = tmp_path / "RGB.png"
    assert file_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()[:20], "the key is the file's, as it was"


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        open_reference(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg is missing"):
        open_reference(tmp_path / "b.jpg")
    slope(64, 64).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read"):
        open_reference(tmp_path / "cut.jpg")
