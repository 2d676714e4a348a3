"""Notebooks run from wherever they are opened, begin with what was found, and hold no number typed by hand."""

import json
import re
from base64 import b64decode
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from notebook_session import outputs_of

from analysis.report import notebook_page
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Numbers that name something: they do not change when results do.
NAMES = [
    r"^# \d\d ·",  # the notebook's own title
    r"[Nn]otebooks? \d\d(?:,? (?:and |to )?\d\d)*",
    r"(?:[Ss]ections?|[Ff]igures?|[Tt]ables?|[Aa]ppendix|[Ee]qs?\.|[Aa]lgorithm|[Ll]emma|[Tt]heorem) [A-Z]?\.?\d+(?:\.\d+)*[a-z]?"
    r"(?:(?:,| and| to|, and) (?:[A-Z]\.)?\d+(?:\.\d+)*[a-z]?)*",
    r"\b[A-Z]\.\d+\b",  # appendix G.1
    r"\barXiv \d{4}\.\d{5}|\[?\d{4}\.\d{5}\]?",
    r"Wan[ -]\d\.\d(?:[ -]\d+B)?|HunyuanVideo-\d\.\d|CogVideoX-\d(?:\.\d)?B?|SAM ?2|Qwen\d\.\d|2-means|\d+B\b",
    r"95 % (?:\w+ )?intervals?",
    r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)",  # code, formulas, targets of links
    r"frame 0|step 0|\b[01]\b(?= (?:is|means))",
]


def prose(book):
    return [c.source for c in book.cells if c.cell_type == "markdown"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_number_is_typed_by_hand(path):
    for text in prose(nbformat.read(path, as_version=4)):
        rest = text
        for pattern in NAMES:
            rest = re.sub(pattern, "", rest, flags=re.M)
        found = re.findall(r".{0,30}\d.{0,30}", rest)
        assert not found, f"numbers belong into code that computes them: {found}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_says_what_was_found_and_what_could_be_wrong(path):
    book = nbformat.read(path, as_version=4)
    code = [c.source for c in book.cells if c.cell_type == "code"]
    first = next(i for i, source in enumerate(code) if "page.found(" in source)
    assert first <= 2, "the findings stand at the top"
    assert "**What could be wrong.**" in prose(book)[-1]


def files_of_results():
    return {p: p.stat().st_mtime_ns for p in (ROOT / "results").rglob("*") if p.is_file()}


# The playground makes its videos itself: test_playground.py runs it, twice, with tiny models.
@pytest.mark.parametrize("path", [p for p in SOURCES if p.stem != "10_playground"], ids=lambda p: p.stem)
@pytest.mark.slow
def test_a_notebook_runs_from_its_own_folder_and_writes_nothing(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    plt.close("all")  # of the tests before this one
    monkeypatch.setattr(
        notebook_page, "png", lambda figure: PIXEL
    )  # to draw takes half of the time; the pipeline draws
    before = files_of_results()
    said = json.dumps(outputs_of(path), default=repr)
    assert "What was found." in said or "Smoke run." in said
    assert files_of_results() == before and not plt.get_fignums()


@pytest.mark.slow
def test_a_notebook_runs_in_a_kernel_of_its_own(tmp_path):
    """The quickest one, as a reader opens it: in its folder, where `analysis` has to be found."""
    path = ROOT / "notebooks/09_efficiency.ipynb"
    done = papermill.execute_notebook(
        str(path), str(tmp_path / "out.ipynb"), cwd=str(path.parent), kernel_name="python3", progress_bar=False
    )
    assert "What was found." in json.dumps([c.get("outputs", []) for c in done.cells])


def test_every_notebook_takes_its_parameters_from_params():
    known = load_parameters(ROOT / "params.yaml").notebooks
    assert set(known) == {p.stem for p in SOURCES}
