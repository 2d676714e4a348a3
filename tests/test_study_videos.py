"""Studies of the first samples: which videos, in which order, and what a watcher is given."""

import pytest

from analysis.study.parameters import load_parameters
from analysis.videos.study_videos import each_video, study_cells, study_videos


class InThisProcess:
    def map(self, function, *jobs):
        return map(function, *jobs)


def test_cells_are_unsteered_with_their_own_references():
    parameters = load_parameters()
    cells = study_cells(parameters, "wan-i2v", 4, scales=[1.0, 3.0])
    assert len(cells) == 8 and {c.guidance_scale for c, _ in cells} == {1.0, 3.0}
    assert all(c.method == "none" and c.seed == 0 and image.stem == c.sample for c, image in cells)


def test_more_samples_than_there_are_are_refused():
    with pytest.raises(ValueError, match="468"):
        study_cells(load_parameters(), "wan-i2v", 468)


def test_results_stand_under_their_samples_in_order():
    parameters = load_parameters()
    watch = lambda cell, image, backbone, note: (cell.sample, image.stem, backbone.steps, note)  # noqa: E731
    found = study_videos(parameters, "cogvideox-i2v", 3, watch, InThisProcess(), "test", note="n")
    expected = [cell.sample for cell, _ in study_cells(parameters, "cogvideox-i2v", 3)]
    assert list(found) == expected
    assert found == {s: (s, s, parameters.backbones["cogvideox-i2v"].steps, "n") for s in expected}


def test_cells_keep_their_results():
    cells = study_cells(load_parameters(), "wan-i2v", 2)
    found = list(each_video(lambda cell, image: cell.key, cells, InThisProcess(), "test"))
    assert [(c.key, k) for c, k in found] == [(c.key, c.key) for c, _ in cells]
