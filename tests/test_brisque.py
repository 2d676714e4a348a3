"""BRISQUE: which frames the package is asked of, and that what comes out is the package's own value.

The package is no dependency: what needs it runs where it is installed (`pip install -e .[brisque]`).
"""

import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data
from test_scorers import Frames, score

from analysis.scorers.registry import make_scorer
from analysis.scorers.video import NotScored

# What `brisque.BRISQUE(url=False).score` of brisque 0.2.0 gave for `images()`: numpy 2.3.5, scipy 1.17.1, scikit-image 0.26.0,
# libsvm-official 3.37.0, opencv-python-headless 5.0.0.93.
PACKAGE = Path(__file__).parent / "data/brisque_0.2.0.json"


def images():
    """name -> uint8 (H, W, 3): photographs cut at random, each as it is, blurred and with noise."""
    rng, found = np.random.default_rng(5), {}
    for name in ("astronaut", "chelsea", "coffee", "rocket", "camera"):
        photograph = getattr(data, name)()
        photograph = np.stack([photograph] * 3, axis=-1) if photograph.ndim == 2 else photograph
        size = [int(rng.integers(90, side)) for side in photograph.shape[:2]]
        top, left = (int(rng.integers(0, side - s + 1)) for side, s in zip(photograph.shape[:2], size, strict=True))
        own = np.ascontiguousarray(photograph[top : top + size[0], left : left + size[1]])
        noise = rng.normal(0, 25, own.shape)
        found[f"{name} as it is"] = own
        found[f"{name} blurred"] = cv2.GaussianBlur(own, (0, 0), 2)
        found[f"{name} with noise"] = (own + noise).clip(0, 255).astype(np.uint8)
    return found


def test_brisque_is_asked_of_evenly_spaced_frames(monkeypatch):
    """The wiring, with a stand-in of the same call."""
    seen = []

    class BRISQUE:
        def __init__(self, url):
            assert url is False

        def score(self, image):
            assert image.dtype == np.uint8 and image.shape == (8, 8, 3)
            seen.append(int(image[0, 0, 0]))
            return np.array([float(image[0, 0, 0])])

    monkeypatch.setitem(sys.modules, "brisque", types.SimpleNamespace(BRISQUE=BRISQUE))
    video = Frames(np.arange(21, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8))
    values = score("brisque_pypi:frames=5", video)
    assert seen == [0, 5, 10, 15, 20] and values == {"brisque_pypi": 10, "brisque_pypi_last": 20}


def test_brisque_says_what_it_lacks():
    if (why := make_scorer("brisque_pypi").available()) is not None:
        assert "brisque" in why and "pip install brisque" in why


@pytest.fixture
def package():
    if why := make_scorer("brisque_pypi").available():
        pytest.skip(why)


def test_brisque_is_the_packages_value_and_rises_with_blur_and_noise(package):
    """Also with numpy 2.4 and later, with which the package's own call ends with an error."""
    wanted, found = json.loads(PACKAGE.read_text()), {}
    for name, image in images().items():
        found[name] = score("brisque_pypi", Frames(image[None]))["brisque_pypi"]
        assert found[name] == pytest.approx(wanted[name], abs=0.01), name
    assert found.keys() == wanted.keys() and len({v.shape for v in images().values()}) == 5
    for name in {n.split()[0] for n in found}:
        assert found[f"{name} as it is"] + 20 < min(found[f"{name} blurred"], found[f"{name} with noise"])


def test_a_flat_frame_has_no_brisque(package):
    video = np.stack([data.astronaut()[:96, :96]] * 3)
    video[1] = 90
    with pytest.raises(NotScored, match="1 of 3 frames have no value, such as the flat frame 1"):
        score("brisque_pypi", Frames(video))
