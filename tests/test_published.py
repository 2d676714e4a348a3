"""papers/published.csv: every row has a grade and a source, and what is graded `paper` stands in a passage of the paper."""

import re
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
ROWS = pd.read_csv(ROOT / "papers/published.csv", dtype=str, keep_default_na=False)
PASSAGES = YAML(typ="safe", pure=True).load((ROOT / "papers/passages.yaml").read_text())
OF_PAPER = ROWS[ROWS["grade"] == "paper"]
WORDS = {"five": "5", "−": "-", "–": "-", "’": "'"}
# What a statement's words in the file rest on in the paper's own.
STATED = {
    "increase": "improv|increas|gain|higher|boost|richer|inverse|maximiz",
    "decrease": "drop|decreas|degrade|static|attenuat|inverse|suppress|quality drop",
    "comparable": "comparable|stable",
}


def plain(text: str) -> str:
    for old, new in WORDS.items():
        text = text.replace(old, new)
    return re.sub(r"(?<=\d)x(?=\d)", "", text)  # the multiplication signs of DyMoS's table 3 are lost


def tokens(text: str) -> set[str]:
    return {t.strip(".,;:(){}%|") for t in re.split(r"[\s|]+|(?<=[%)])(?=\d)|(?=\()", plain(text).lower())} - {""}


def lines_of(passage: str, row: str) -> str:
    """The printed line of a row, where the passage is a table that has one; else the passage."""
    name = re.sub(r"\s", "", row)
    own = [x for x in passage.splitlines() if re.match(re.escape(name) + r"[\d(|]", re.sub(r"[\s]", "", x))]
    return "\n".join(own) or passage


def test_a_cell_is_published_once_and_every_row_says_where_it_is_from():
    assert not ROWS.duplicated(["paper", "table", "row", "column"]).any()
    grades = {"paper", "official repository", "released code", "secondary", "derived"}
    assert set(ROWS["grade"]) == grades
    assert (ROWS[["value", "source"]] != "").all().all()
    code = ROWS[ROWS["grade"].isin(["official repository", "released code"])]
    assert code["source"].str.contains(r"@[0-9a-f]{7}|gh-pages|yaml file named|num_single_layers").all()


def test_sources_of_the_grade_paper_are_passages_and_every_passage_is_used():
    named = set(OF_PAPER[["paper", "source"]].itertuples(index=False, name=None))
    known = {(paper, name) for paper, passages in PASSAGES.items() for name in passages}
    assert named == known


@pytest.mark.parametrize("paper", PASSAGES)
def test_what_is_graded_paper_is_printed_in_its_passage(paper):
    for r in OF_PAPER[OF_PAPER["paper"] == paper].itertuples():
        passage = PASSAGES[paper][r.source]
        if ": " in r.column:
            if (kind := r.column.rsplit(": ", 1)[1]) == "direction":
                assert re.search(STATED[r.value], passage, re.I), r
            elif kind != "order":
                raise AssertionError(r)
            continue
        printed = tokens(lines_of(passage, r.row))
        assert tokens(r.value) <= printed, (r, sorted(printed))


def test_numbers_are_written_as_the_papers_print_them():
    """Columns of a printed table have one number of decimals, so no zero at the end of a number was dropped."""
    tables = [("focal_guidance", "table1"), ("focal_guidance", "table2"), ("focal_guidance", "table3")]
    tables += [("dymos", f"table{i}") for i in (1, 2, 6)]
    for paper, table in tables:
        part = ROWS[(ROWS["paper"] == paper) & (ROWS["table"] == table) & ROWS["value"].str.fullmatch(r"[-+]?\d+\.\d+")]
        decimals = part["value"].str.partition(".")[2].str.len()
        assert (decimals.groupby(part["column"]).nunique() == 1).all(), (paper, table)


def test_no_direction_rests_on_numbers_of_the_grade_secondary():
    """Where a paper's own text states a direction, that is what is compared, not the sign of second-hand numbers."""
    second = ROWS[(ROWS["grade"] == "secondary") & (ROWS["table"] == "table2") & ROWS["row"].str.endswith("+ AlignVid")]
    stated = OF_PAPER[OF_PAPER["column"].str.endswith(": direction")]
    found = set(zip(stated["table"], stated["row"], stated["column"].str.removesuffix(": direction"), strict=True))
    assert len(second) and set(zip(second["table"], second["row"], second["column"], strict=True)) <= found
