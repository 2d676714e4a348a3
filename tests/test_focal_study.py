"""What the Focal Guidance study measures."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from analysis.attention.keyword_anchors import focal_study, localisation, object_mask
from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from testbed.world import COLOURS


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_localisation_is_the_mann_whitney_statistic(side, seed):
    rng = np.random.default_rng(seed)
    similar, mask = rng.integers(0, 5, (side, side)) / 5, rng.random((side, side)) > 0.5
    area = localisation(similar, mask)
    if mask.all() or not mask.any():
        assert np.isnan(area)
        return
    expected = mannwhitneyu(similar[mask], similar[~mask]).statistic / mask.sum() / (~mask).sum()
    assert np.isclose(area, expected) and np.isclose(localisation(-similar, mask), 1 - area)


def test_objects_are_found_by_their_colour():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[16:40, 8:24] = COLOURS["yellow"]
    mask = object_mask(image, "yellow", 8)
    assert mask[2:5, 1:3].all() and mask.sum() == 6 and not object_mask(image, "purple", 8).any()


def test_the_study_writes_words_and_maps(tmp_path):
    class Here:
        def map(self, function, *jobs):
            return map(function, *jobs)

    parameters = load_parameters()
    backbones = {n: b.model_copy(update={"steps": 2, "frames": 9}) for n, b in parameters.backbones.items()}
    small = parameters.model_copy(update={"backbones": backbones})
    words = focal_study(small, "wan-i2v", "focal-full", Here(), samples=2, drawn=1, out=tmp_path)
    assert set(words["kind"]) == {"colour", "shape", "keywords"} and words["sample"].nunique() == 2
    maps = (tmp_path / "maps.csv").read_text()
    for what in ("similarity", "weight", "cache, plain", "cache, guided"):
        assert what in maps
    assert expand(parameters, "focal")  # every sweep of the study can be expanded
