"""The page of a notebook: where it works, what it writes, how it stamps small runs; labels, findings and film strips."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.report import execute_notebook, film_strips, labels
from analysis.report.findings import effect, level, number, side, verdict_table
from analysis.report.notebook_page import open_page
from analysis.study.parameters import load_parameters
from methods.registry import find_methods

ROOT = Path(__file__).parent.parent


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr("analysis.report.notebook_page.display", found.append)
    return found


def drawing():
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    figure.suptitle("A line rises")
    return figure


def test_a_page_finds_the_repository_from_a_folder_inside_it(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    open_page("07_method_sweeps")
    assert Path.cwd() == ROOT


def test_a_page_finds_the_repository_from_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    open_page("07_method_sweeps")
    assert Path.cwd() == ROOT


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="results/full"):
        open_page("07_method_sweeps", "results/tiny")


def test_a_notebook_without_full_size_data_says_so():
    with pytest.raises(ValueError, match=r"05_semantic_weak_layers has no full-size run.*07_method_sweeps"):
        open_page("05_semantic_weak_layers", "results/full")


def source_notebook(folder, parameters, code):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "00_small.ipynb")


def test_a_notebook_is_told_what_to_read_and_where_to_write(monkeypatch, tmp_path):
    source_notebook(tmp_path, 'shown = 1\nresults = "results"\noutput = ""', "print(shown, results, output)")
    monkeypatch.setattr(execute_notebook, "SOURCES", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = execute_notebook.execute("00_small", {"shown": 2}, Path("results/full"))
    assert done == Path("results/full/00_small/00_small.ipynb")
    book = nbformat.read(done, as_version=4)
    assert book.cells[-1].outputs[0].text == "2 results/full results/full/00_small\n"
    assert len(book.cells) == 2, "the injected values stand in place of the defaults"
    assert not list(done.parent.glob("_failed_*"))


def test_links_of_a_notebook_hold_in_its_executed_copy():
    def relinked(text, folder):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        return execute_notebook.relink(book, Path(folder)).cells[0].source

    text = "[how](../docs/reading.md), [7](07_method_sweeps.ipynb), [5](05_semantic_weak_layers.ipynb), [web](https://x.y/z)"
    assert relinked(text, "results/01_testbed") == (
        "[how](../../docs/reading.md), [7](../../results/07_method_sweeps/07_method_sweeps.ipynb), "
        "[5](../../results/05_semantic_weak_layers/05_semantic_weak_layers.ipynb), [web](https://x.y/z)"
    )
    assert relinked(text, "results/full/01_testbed") == (
        "[how](../../../docs/reading.md), [7](../../../results/full/07_method_sweeps/07_method_sweeps.ipynb), "
        "[5](../../../results/05_semantic_weak_layers/05_semantic_weak_layers.ipynb), [web](https://x.y/z)"
    )


def test_a_notebook_that_cannot_be_told_is_refused(monkeypatch, tmp_path):
    source_notebook(tmp_path, 'results = "results"', "1")
    monkeypatch.setattr(execute_notebook, "SOURCES", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"unknown parameters \['output'\]"):
        execute_notebook.execute("00_small", {}, Path("results"))


def test_nothing_is_written_without_a_folder(shown, tmp_path, monkeypatch):
    page = open_page("07_method_sweeps", "results/full")
    monkeypatch.chdir(tmp_path)
    page.figure(drawing(), "line")
    page.table(pd.DataFrame({"a": [1.23456]}), "table")
    page.text("text", "words")
    assert not list(tmp_path.iterdir())
    assert shown[0].metadata["alt"] == "A line rises"


def test_equal_figures_are_equal_bytes_with_a_palette(shown, tmp_path):
    for folder in ("a", "b"):
        page = open_page("07_method_sweeps", "results/full", str(tmp_path / folder))
        page.figure(drawing(), "line")
        page.table(pd.DataFrame({"a": [1.23456]}), "table")
    first, second = (tmp_path / f / "line.png" for f in "ab")
    assert first.read_bytes() == second.read_bytes() == shown[0].data
    assert Image.open(io.BytesIO(first.read_bytes())).mode == "P"
    assert (tmp_path / "a/table.csv").read_text() == "a\n1.2346\n"


def test_a_figure_without_words_is_refused(shown):
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="alternative text"):
        open_page("07_method_sweeps").figure(figure, "line")


def test_a_smoke_run_states_no_finding(shown):
    page = open_page("07_method_sweeps", "results")
    assert page.smoke
    page.found("AlignVid helps.")
    assert "Smoke run" in shown[0].data and "helps" not in shown[0].data
    full = open_page("07_method_sweeps", "results/full")
    full.found("AlignVid helps.")
    assert shown[1].data == "**What was found.** AlignVid helps."


def test_a_smoke_run_states_no_verdict(shown):
    rows = pd.DataFrame([{"claim": "it helps", "effect": "+1", "n": 3, "verdict": "supported"}])
    open_page("07_method_sweeps", "results").verdicts(rows)
    open_page("07_method_sweeps", "results/full").verdicts(rows)
    assert "supported" not in shown[0].data and "✔ supported" in shown[1].data


def test_every_setting_has_words():
    parameters = load_parameters(ROOT / "params.yaml")
    for name, parts in parameters.methods.items():
        words = labels.setting(name, parameters=parameters)
        assert words and (words != name or not parts), name
    assert labels.setting("none", 3.0) == "guidance 3"
    assert labels.setting("dymos-1", 3.0) == "DyMoS, γ 1, guidance 3"
    assert labels.setting("alignvid-g2", parameters=parameters) == "AlignVid, γ 2, blocks calibrated"
    assert labels.backbone("wan-i2v-control") == "Wan-type model"


class QueryBlur:
    """A method that nobody has named for readers."""


def test_families_come_from_the_methods_of_a_setting(monkeypatch):
    parameters = load_parameters(ROOT / "params.yaml")
    families = {name: labels.family(name, parameters) for name in parameters.methods}
    assert families["scale-2"] == "AlignVid" and families["alg"] == "Low-pass guidance"
    assert families["all-methods"] == families["alignvid+dymos"] == "combination"
    assert (
        labels.family("none", parameters) == "unsteered" and labels.family("none", parameters, 3.0) == "guidance alone"
    )
    monkeypatch.setattr(labels, "find_methods", lambda: find_methods() | {"queryblur": QueryBlur})
    own = parameters.model_copy(update={"methods": {"soft": [{"method": "queryblur", "sigma": 1.0}]}})
    assert labels.family("soft", own) == "Query blur" and labels.setting("soft", 1.0, own) == "Query blur, sigma 1"
    known = [labels.colour(f) for f in {*families.values(), "unsteered", "guidance alone"}]
    assert len(set(known)) == len(known) and labels.colour("Query blur") not in known


def test_numbers_read_as_numbers():
    assert number(-0.04) == "0.0" and number(-1.25, 1) == "−1.2" and number(3.0, 0, sign=True) == "+3"
    assert effect(12.06, 10.0, 14.1, "points", 467) == "+12.1 points (10.0 to 14.1; 467 prompts)"
    assert level(60.8, 56.3, 65.1) == "61 % (56 to 65)"
    assert side(0.1, 0.2) == "above" and side(-1, -0.1) == "below" and side(-1, 1) == "not clear of"


def test_verdicts_have_signs():
    rows = pd.DataFrame([{"claim": "a | b", "effect": "+1", "n": 3, "verdict": "supported"}])
    assert verdict_table(rows).splitlines()[2] == "| a \\| b | +1 | 3 | ✔ supported |"


def test_framed_strips_keep_the_pixels_and_mark_the_outcome():
    strip = np.random.default_rng(0).integers(0, 256, (8, 24, 3), np.uint8)
    sheet = film_strips.framed(strip, "followed")
    edge, gap, zoom = film_strips.EDGE, film_strips.GAP, film_strips.ZOOM
    assert sheet.shape == (8 * zoom + 2 * edge, 24 * zoom + 2 * gap + 2 * edge, 3)
    assert (sheet[0, 0] == (0x00, 0x9E, 0x73)).all()
    second = sheet[edge:-edge, edge + 8 * zoom + gap :][:, : 8 * zoom][::zoom, ::zoom]
    assert (second == strip[:, 8:16]).all()


def test_outcomes_tell_a_copy_from_a_wrong_video():
    answers = {"followed": "no|yes|yes|no", "still copy": "yes|no|no|no", "wrong": "no|no|no|no"}
    scores = pd.DataFrame({"sample": "modification_000", "answers": list(answers.values()), "adherence": [1, 0, 0]})
    assert list(film_strips.outcomes(scores, seed=7)) == list(answers)
