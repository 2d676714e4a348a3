"""The site's source, gathered into build/site-source: the pages of docs/, those that live beside what they describe, the
executed notebooks, and the page of pipeline stages.

Links are written as they hold in the repository; here they are turned to where the site has their target. A link that
leads nowhere raises FileNotFoundError.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pipeline_page

ROOT = Path(__file__).resolve().parent.parent
DOCS, SOURCE = ROOT / "docs", ROOT / "build/site-source"
RUNS = {"results/full": "the full-size run", "results": "the small run"}
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)]*)?\)")

# Pages that live beside what they describe -> their names in the site.
PAGES = {
    "papers/ledger.md": "ledger",
    "results/full/claims/claims.md": "claims",
    "results/full/README.md": "full-size-run",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}
CARDS = [*(ROOT / "testbed/checkpoints").glob("*.md"), *(ROOT / "testbed/checkpoints").glob("*/README.md")]
PAGES |= {str(p.relative_to(ROOT)): f"card-{p.parent.name if p.name == 'README.md' else p.stem}" for p in sorted(CARDS)}


def notebooks() -> dict[str, tuple[Path, str]]:
    """Name of a notebook -> (its executed copy, the run it is of), the full-size one where it exists."""
    found = {}
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copies = [(ROOT / run / source.stem / source.name, words) for run, words in RUNS.items()]
        found[source.stem] = next((c for c in copies if c[0].is_file()), None)
    missing = [name for name, copy in found.items() if copy is None]
    if missing:
        raise FileNotFoundError(f"no executed copy of {', '.join(missing)} in results/: run `make repro` first")
    return found


def places() -> dict[Path, str]:
    """File of the repository -> page of the site that shows it. All copies of a notebook, and of the claims, are one page."""
    every = {p: p.name for p in (ROOT / "notebooks").glob("*.ipynb")}
    every |= {p: p.name for p in (ROOT / "results").rglob("*.ipynb")}
    every |= dict.fromkeys((ROOT / "results").rglob("claims.md"), "claims.md")
    every |= {ROOT / file: f"{name}.md" for file, name in PAGES.items()}
    return every | {p: p.name for p in DOCS.glob("*.md")}


def write_source() -> None:
    """Write build/site-source; unchanged files keep their time, so that Sphinx reads only what changed."""
    where = places()
    wanted = {"pipeline.md": pipeline_page.markdown(ROOT), "data-flow.svg": pipeline_page.picture(ROOT)}
    for path in [*DOCS.glob("*.md"), *(ROOT / file for file in PAGES)]:
        wanted[where[path]] = relink(path.read_text(), path.parent, where)
    for copy, run in notebooks().values():
        wanted[copy.name] = notebook(copy, run, where)
    SOURCE.mkdir(parents=True, exist_ok=True)
    for path in SOURCE.iterdir():
        if path.name not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in wanted.items():
        path = SOURCE / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def relink(text: str, folder: Path, where: dict[Path, str]) -> str:
    """Links and pictures of a page in `folder`; a file that has no page becomes a download, a folder its name."""

    def turned(match):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = Path(os.path.normpath(folder / target))
        if path in where:
            return f"[{match['text']}]({where[path]}{match['anchor'] or ''})"
        if path.is_dir():
            return f"{match['text']} (`{path.relative_to(ROOT)}/`)"
        if not path.is_file():
            raise FileNotFoundError(f"{folder.relative_to(ROOT)}: the link to {target} leads nowhere")
        return f"[{match['text']}]({os.path.relpath(path, SOURCE)})"

    return LINK.sub(turned, text)


def notebook(copy: Path, run: str, where: dict[Path, str]) -> str:
    """An executed notebook as the site shows it: code folded, no cells of parameters, no widgets."""
    book, source = json.loads(copy.read_text()), copy.parent  # links of an executed copy hold where it lies
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = relink("".join(cell["source"]), source, where)
            continue
        tags = set(cell["metadata"].get("tags", []))
        tags |= {"remove-cell" if tags & {"parameters", "injected-parameters"} else "hide-input"}
        cell["metadata"]["tags"] = sorted(tags)
        for output in cell["outputs"]:
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "text/markdown" in data:
                data["text/markdown"] = relink("".join(data["text/markdown"]), source, where)
        cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]
    book["metadata"].pop("widgets", None)
    note = f"*Executed copy of {run}, `{copy.relative_to(ROOT)}`. [How to read it](reading-notebooks.md).*"
    title = next(i for i, cell in enumerate(book["cells"]) if cell["cell_type"] == "markdown")
    book["cells"].insert(title + 1, {"cell_type": "markdown", "id": "copy-of", "metadata": {}, "source": note})
    return json.dumps(book, indent=1) + "\n"


if __name__ == "__main__":
    write_source()
