"""Diagrams of the methods: what is drawn is what the methods do."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from analysis.report.method_diagrams import DRAWN, FOLDER, diagram, draw_diagrams, edit_of, when_and_where
from analysis.study.parameters import load_parameters
from methods import AlignVid, DyMoS
from methods.families import COGVIDEOX, WAN

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")


def test_alignvid_scales_the_conditioning_for_video_queries():
    method = AlignVid(2.0, blocks="all")
    assert np.allclose(edit_of(method, COGVIDEOX, "joint", 10).factor, [[1, 1, 1], [2, 1, 1], [2, 1, 1]])
    both = AlignVid(2.0, blocks="all", groups="conditioning+reference")
    assert np.allclose(edit_of(both, COGVIDEOX, "joint", 10).factor, [[1, 1, 1], [2, 2, 1], [2, 2, 1]])
    assert edit_of(method, WAN, "self", 10) is None
    assert np.allclose(edit_of(method, WAN, "text", 10).factor, 2) and np.allclose(
        edit_of(method, WAN, "image", 10).factor, 2
    )
    every = edit_of(AlignVid(2.0, blocks="all", groups="all", queries="all"), COGVIDEOX, "joint", 10)
    assert np.allclose(every.factor, 2)


def test_dymos_takes_from_later_frames_alone():
    assert np.allclose(edit_of(DyMoS(0.5), WAN, "self", 10).bias, [[0, 0], [-0.5, 0]])
    assert np.allclose(edit_of(DyMoS(0.5), COGVIDEOX, "joint", 10).bias, [[0, 0, 0], [0, 0, 0], [0, -0.5, 0]])
    assert edit_of(DyMoS(0.5), WAN, "text", 10) is None


def test_windows_and_blocks_are_the_methods_own():
    acts = when_and_where(AlignVid(2.0, blocks=(1, 4), window=(0.45, 0.8)), WAN, 6)
    assert acts.any(1).nonzero()[0].tolist() == [1, 4] and acts[1].nonzero()[0].tolist() == [4, 5, 6, 7]
    assert when_and_where(DyMoS(1.0, window=(0, 0.3)), COGVIDEOX, 6).sum() == 3 * 6


@pytest.mark.parametrize("name", DRAWN)
def test_a_diagram_is_legible_at_800_pixels(name):
    figure = diagram(name, PARAMETERS)
    assert figure.get_size_inches()[0] * 100 <= 900
    assert min(t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text()) >= 7
    plt.close(figure)


def test_committed_diagrams_are_those_that_the_code_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with plt.rc_context(fname="matplotlibrc"):
        drawn = draw_diagrams(PARAMETERS, tmp_path)
    assert {p.name for p in drawn} == {p.name for p in (ROOT / FOLDER).glob("*.png")}
    for path in drawn:
        ours, committed = (plt.imread(p) for p in (path, ROOT / FOLDER / path.name))
        assert ours.shape == committed.shape and np.abs(ours - committed).mean() < 0.02, path.name
