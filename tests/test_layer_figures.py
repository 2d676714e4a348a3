"""Figures and verdicts of the studies of layers and of blocks, on the committed tables."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis.attention.calibrated_blocks import Calibration
from analysis.report import block_figures, layer_figures
from analysis.report.findings import verdict_table
from analysis.report.score_tables import study_table
from analysis.report.token_outlines import EDGE, outline, outlined_strip

matplotlib.use("agg")
BACKBONES = ["wan-i2v", "cogvideox-i2v"]


@pytest.fixture(scope="module")
def layers():
    return pd.concat([study_table("semantic-layers", b, "layers").assign(backbone=b) for b in BACKBONES])


@pytest.fixture(scope="module")
def blocks():
    return {
        t: {b: study_table("foreground", b, t) for b in BACKBONES} for t in ("ratios", "agreement", "masks", "received")
    }


def test_an_outline_surrounds_the_mask_up_to_the_edge():
    figure, ax = plt.subplots()
    mask = np.zeros((4, 4), bool)
    mask[2:, :2] = True  # in the corner
    outline(ax, mask)
    (lines,) = ax.collections
    assert len(lines.get_segments()) == 8  # four sides of two cells
    points = np.concatenate(lines.get_segments())
    assert points.min(0).tolist() == [-0.5, 1.5] and points.max(0).tolist() == [1.5, 3.5]
    plt.close(figure)


def test_an_outlined_strip_keeps_the_pixels_inside_and_outside():
    strip = np.random.default_rng(0).integers(0, 200, (16, 32, 3), np.uint8)
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :2, 1:3] = True
    drawn = outlined_strip(strip, masks)
    assert (drawn[:, :16] == strip[:, :16]).all()
    edge = (drawn == EDGE).all(-1)
    assert edge[0, 20:28].all() and edge[7, 20:28].all() and edge[:8, 20].all() and edge[:8, 27].all()
    assert edge.sum() == 28 and (drawn[~edge] == strip[~edge]).all()
    with pytest.raises(ValueError, match="do not fit"):
        outlined_strip(strip, masks[:1])


def test_panels_of_a_measure_have_one_scale_and_their_n(layers):
    figure = layer_figures.over_steps(layers)
    limits = [ax.images[0].get_clim() for ax in figure.axes if ax.images]
    assert len(set(limits[:4])) == len(set(limits[4:8])) == 1
    assert all("n = 16" in ax.get_title("left") for ax in figure.axes[:4])
    for other in (layer_figures.profile(layers), layer_figures.agreement(layers)):
        assert "n = 16" in other.axes[0].get_title("left")
    plt.close("all")


def test_words_are_drawn_once():
    maps = study_table("semantic-layers", "wan-i2v", "maps")
    words = [word for _, word in layer_figures.shown_words(maps)]
    assert sorted(words) == sorted(set(maps["word"]))


def test_weak_blocks_and_verdicts_say_the_same_as_the_rule(layers):
    table = layer_figures.weak_table(layers, 100)
    assert len(table) == 2 * 2 * 10 and table.loc[table["weak"], "share"].min() > 0.5
    rows = layer_figures.verdicts(layers)
    assert len(rows) == 16 and verdict_table(rows).count("\n") == 18
    sentences = layer_figures.found(table, rows)
    assert len(sentences) == 4 and "weak blocks" in sentences[0]


def test_a_place_in_the_network_needs_more_than_an_interval(blocks):
    few = np.array([False, True, False, False, False, True, True, True, True, False])
    assert block_figures.chance_of_place(Calibration(few, few, few[None])) > 0.2
    all_late = np.arange(10) >= 5
    assert block_figures.chance_of_place(Calibration(all_late, all_late, all_late[None])) < 0.01
    rows = block_figures.verdicts(blocks["ratios"], blocks["agreement"], 0.5, 0.8)
    placed = rows[rows["claim"].str.contains("first half")]
    assert (placed["verdict"] == "inconclusive").all() and (placed["p (Holm)"] > 0.2).all()
    assert len(block_figures.found(blocks["ratios"], rows, 0.5)) == 2


def test_ratios_are_drawn_above_chance_and_masks_outlined(blocks):
    strips = {b: np.zeros((2, 64, 320, 3), np.uint8) for b in BACKBONES}
    figure = block_figures.ratio_figure(blocks["ratios"])
    noise = blocks["ratios"]["wan-i2v"].query("mask == 'noise' and definition == 'mass'")
    assert abs((noise["ratio"] - noise["area"]).mean()) < 0.01
    assert f"n = {noise['sample'].nunique()}" in figure.axes[0].get_title("left")
    block_figures.masks_figure(blocks["masks"]["wan-i2v"], strips["wan-i2v"], "wan-i2v", [0, 4, 8, 12, 16])
    received = block_figures.received_figure(blocks["received"], blocks["masks"], strips)
    assert len({ax.images[0].get_clim() for ax in received.axes if ax.images and ax.collections}) == 1
    lists, found = block_figures.every_list(blocks["ratios"], 0.5)
    assert len(lists) == 2 * 4 * 5 and len(block_figures.lists_table(lists)) == 2 * (5 + 3)
    block_figures.stability_figure(found, blocks["ratios"])
    block_figures.agreement_figure(blocks["agreement"])
    plt.close("all")
