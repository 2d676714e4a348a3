"""Pages for readers: links lead somewhere, every page is in the site, and what a page says of the code and tests is so."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import docstrings  # noqa: E402
import gather  # noqa: E402
import pipeline_page  # noqa: E402

PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / name for name in gather.PAGES)]
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = [t for t in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", t)]
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to {missing}"


def test_every_page_is_in_a_table_of_contents():
    index = (ROOT / "docs/index.md").read_text()
    entries = " ".join(re.findall(r"```\{toctree\}(.*?)```", index, re.S)).split()
    glob = {name for entry in entries if "*" in entry for name in pages() if Path(name).match(entry)}
    assert pages() - set(entries) - glob == {"index"}
    assert not [e for e in entries if not e.startswith(":") and "*" not in e and e in {"caption:"} - pages()]


def pages() -> set[str]:
    written = {p.stem for p in (ROOT / "docs").glob("*.md")} | set(gather.PAGES.values()) | {"pipeline"}
    return written | {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}


def exact_rows():
    lines = (ROOT / "docs/exact.md").read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if "::test_" in line]


@pytest.mark.parametrize("row", exact_rows(), ids=lambda r: r[0][:40])
def test_what_is_called_exact_is_tested(row):
    """The named test exists, and its file compares to the tolerances of the row."""
    path, name = row[3].strip("`").split("::")
    source = (ROOT / path).read_text()
    assert name in {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    for tolerance in re.findall(r"`(\de-\d+)`", row[2]):
        assert tolerance in source, f"{path} has no {tolerance}"


def test_commands_in_the_pages_exist():
    """Targets of the Makefile, commands of `python -m analysis` and stages that pages name."""
    from analysis.__main__ import app

    known = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    stages = {s["name"].removeprefix("notebook-") for s in pipeline_page.stages(ROOT / "dvc.yaml")}
    for page in PAGES:
        text = page.read_text()
        if page.name == "CHANGELOG.md":  # it names what was
            continue
        assert set(re.findall(r"python -m analysis ([a-z-]+)", text)) <= known, page
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets, page
        assert set(re.findall(r"dvc repro ([0-9a-z_-]*\d_[0-9a-z_]+)", text)) <= stages, page


def test_a_docstring_keeps_its_words():
    lines = [
        "Sum.",
        "",
        "a, b: numbers in (0, 1];",
        "    two of them.",
        "x[i]: `code`",
        "",
        "    y = a * b",
        "",
        "End *here*.",
    ]
    text = "\n".join(docstrings.convert(lines))
    assert "- ``a``, ``b``: numbers in (0, 1\\]; two of them." in text and "::\n\n    y = a * b" in text
    assert "``code``" in text and "End \\*here\\*." in text


def test_links_are_turned_to_the_sites_pages(tmp_path):
    where = gather.places()
    turned = gather.relink("[a](../papers/ledger.md#x) [b](../params.yaml) [c](https://x.y)", ROOT / "docs", where)
    assert turned == "[a](ledger.md#x) [b](../../params.yaml) [c](https://x.y)"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.md"):
        gather.relink("[a](nowhere.md)", ROOT / "docs", where)


def test_the_readme_is_short_and_begins_with_what_was_found():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and lines.index("## What was found") < 25
    tables = re.findall(r"(?:^\|.*\n)+", "\n".join(lines) + "\n", re.M)
    assert len(tables) == 1 and tables[0].count("\n") - 2 <= 8
