"""Figures and findings of Focal Guidance's notebooks, on scores and words that are made up."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis.report import focal_figures as focal
from analysis.report import tuning_figures as tuning

KINDS = ("addition", "deletion", "modification", "motion")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def scores(follows, seeds=(0, 1)):
    """Scores of 12 prompts; follows: (prompt, seed) -> adherence."""
    rows = [
        {"sample": f"{KINDS[i % 4]}_{i:03d}", "main_category": KINDS[i % 4], "seed": s, "adherence": follows(i, s),
         "macro": 0.5 + follows(i, s) / 2, "flow_px": 0.1 + 0.01 * i + follows(i, s) / 50, "displacement_px": 3.0 + i,
         "first_psnr": 32.0, "background_psnr": 40.0 + i / 10, "sharpness_retention": 0.3}
        for i in range(12) for s in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def found():
    never, half, most = (lambda i, s: 0), (lambda i, s: int(i < 6)), (lambda i, s: int(i < 10))
    flipped = lambda i, s: int((i < 6) if i != 5 and i != 6 else s == 0)  # noqa: E731
    return {tuning.UNTUNED: scores(half), tuning.GUIDED: scores(half), tuning.CONTROL: scores(most),
            tuning.CACHE: scores(most), tuning.SEMANTIC: scores(flipped), tuning.ALL: scores(never)}  # fmt: skip


def test_what_changed_nothing_has_a_count_instead_of_an_interval(found):
    table = tuning.compare(found, tuning.COMPARED, ["adherence"]).set_index("comparison")
    assert table.loc["cache, against the control", "unchanged"] == "0 of 24 videos changed"
    assert table.loc["whole guidance, against the control", "unchanged"] == ""
    assert table.loc["whole guidance, against the control", "difference"] == pytest.approx(-100 * 10 / 12)
    texts = " ".join(tuning.sentences(found))
    assert "13" not in texts and "cache nothing (0 of 24 videos changed)" in texts
    assert tuning.verdicts(found, [], interaction=True)["effect"].str.contains("0 of 24 videos changed").sum() == 2


def test_prompts_that_change_only_between_seeds_are_unchanged():
    plain, other = scores(lambda i, s: int(s == 0)), scores(lambda i, s: int(s == 1))
    found = dict.fromkeys(tuning.ROWS, plain) | {tuning.GUIDED: other}
    table = tuning.compare(found, tuning.COMPARED[1:2], ["adherence"])
    assert table["unchanged"].iloc[0] == "0 of 12 prompts changed on the mean of their seeds"


def test_displacement_is_of_move_prompts_alone(found):
    table = tuning.compare(found, tuning.COMPARED, ["displacement_px", "flow_px"]).set_index("measure")
    assert set(table.loc["displacement_px", "n"]) == {3} and set(table.loc["flow_px", "n"]) == {12}
    without = {k: t[t["main_category"] != "motion"] for k, t in found.items()}
    assert "displacement_px" not in set(tuning.compare(without, tuning.COMPARED, list(tuning.QUALITY))["measure"])
    assert len(tuning.quality_figure(without).axes) == len(tuning.QUALITY) - 1


def test_figures_say_how_many(found):
    figure = tuning.ablation_figure(found)
    assert "12 prompts, 2 seeds" in figure.get_suptitle()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(tuning.ROWS)
    assert any("0 of 24 videos changed" in t.get_text() for ax in figure.axes for t in ax.texts)


@pytest.mark.parametrize(
    ("shift", "words"),
    [(-1.0, "predicts better with the"), (1.0, "worse in all three runs"), (0.0, "nothing measurable")],
)
def test_losses_answer_whether_anything_was_learned(shift, words):
    noise = np.random.default_rng(0).normal(0, 0.1, (64, 3))
    noise -= noise[-16:].mean(0)
    assert words in tuning.loss_sentence(pd.DataFrame(noise + shift, columns=list(tuning.VARIANTS.values())))


def words_table(areas):
    rows = [{"sample": f"s{i}", "word": "red", "kind": "colour", "auc": a, "inside": a} for i, a in enumerate(areas)]
    return pd.DataFrame([*rows, {"sample": "s0", "word": "red blue", "kind": "keywords"}])


@pytest.mark.parametrize(("areas", "words", "verdict"), [
    ([0.0, 0.1, 0.2, 0.3, 0.05, 0.1], "its negative points better", "supported"),
    ([0.9, 0.8, 1.0, 0.7, 0.95, 0.9], "the plain similarity points better", "contradicted"),
    ([0.0, 1.0, 0.0, 1.0, 0.1, 0.9], "neither sign points better", "inconclusive"),
])  # fmt: skip
def test_where_words_point_follows_the_interval(areas, words, verdict):
    areas = 2 * areas
    table = words_table(areas)
    plain = scores(lambda i, s: int(i < 6), seeds=(0,))
    steered = pd.concat([plain.assign(method=m) for m in focal.PARTS])
    effects = focal.part_effects(steered, plain)
    text = " ".join(focal.sentences(table, effects))
    assert words in text and f"{sum(a > 0.5 for a in areas)} of {len(areas)} keywords" in text
    assert "0 of 12 videos changed" in text
    assert focal.verdicts(table, effects)["verdict"].iloc[0] == verdict
    assert len(focal.pointing_figure(table).axes) == 1
