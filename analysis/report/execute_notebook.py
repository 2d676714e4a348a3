"""Execute a notebook through papermill so that two runs of the same thing give the same bytes.

Output streams live to the terminal. A failed run stays beside the target as `_failed_<name>.ipynb`; the target is
replaced only by a complete one.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from ..study.results_layout import FULL, SMALL, notebook_folder
from .kernel_environment import kernel_environment
from .notebook_page import AT_FULL_SIZE

SOURCES = Path("notebooks")
HIDE = "hide-input"  # the tag by which documentation builders fold a cell's code


def execute(name: str, parameters: dict, results: Path = SMALL) -> Path:
    """Run `notebooks/<name>.ipynb` and return the path of the executed copy, `<results>/<name>/<name>.ipynb`.

    The notebook gets `parameters`, and two more that every notebook has: `results`, the folder of one size of the run, and
    `output`, the folder that its figures and tables go to, beside the copy. Raises ValueError for a notebook that does not
    exist, a parameter that it does not have, or a cell that fails.
    """
    folder = notebook_folder(name, results)
    parameters = parameters | {"results": results.as_posix(), "output": folder.as_posix()}
    source, target = SOURCES / f"{name}.ipynb", folder / f"{name}.ipynb"
    if not source.is_file():
        raise ValueError(f"no notebook {source}; there are {sorted(p.stem for p in SOURCES.glob('*.ipynb'))}")
    known = papermill.inspect_notebook(str(source))
    if unknown := set(parameters) - set(known):
        raise ValueError(f"notebooks.{name}: unknown parameters {sorted(unknown)}; the notebook has {sorted(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"_failed_{name}.ipynb")
    try:
        with kernel_environment():
            papermill.execute_notebook(
                str(source),
                str(partial),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                record_timing=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                cwd=str(Path.cwd()),
            )
    except PapermillExecutionError as error:
        raise ValueError(f"{source}, cell {error.exec_count}: {error.ename}: {error.evalue} (see {partial})") from None
    book = nbformat.read(partial, as_version=4)
    nbformat.write(relink(scrub(book), folder), partial)
    os.replace(partial, target)
    return target


def relink(book: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Let links that hold in `notebooks/` hold in the executed copy in `folder`, too: those to files of the repository, and
    those to another notebook, which lead to its executed copy, the full-size one if both have one."""
    root = Path(os.path.relpath(".", folder)).as_posix()

    def copy_of(match: re.Match) -> str:
        name = match[1]
        results = FULL if folder.parent == FULL and name in AT_FULL_SIZE else SMALL
        return f"]({root}/{(notebook_folder(name, results) / name).as_posix()}.ipynb"

    for cell in book.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"\]\(\.\./", f"]({root}/", cell.source)
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb", copy_of, text)
    return book


def scrub(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs between two runs: papermill's metadata, the injected cell's random id, stderr, addresses. Fold the
    code away, so that a reader meets prose and figures, and keep the injected parameters in place of the defaults."""
    book.metadata = {k: v for k, v in book.metadata.items() if k in ("kernelspec", "language_info")}
    book.metadata.get("language_info", {}).pop("version", None)
    injected = any("injected-parameters" in c.metadata.get("tags", []) for c in book.cells)
    if injected:  # the values that were used; the defaults above them are in the source notebook
        book.cells = [c for c in book.cells if "parameters" not in c.metadata.get("tags", [])]
    for cell in book.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        if cell.cell_type != "code":
            continue
        cell.metadata = {"jupyter": {"source_hidden": True}, "tags": [*tags, HIDE]}
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            for holder, key in [(output, "text"), *[(output.get("data", {}), k) for k in ("text/plain", "text/html")]]:
                if isinstance(holder.get(key), str):
                    holder[key] = re.sub(r" at 0x[0-9a-f]+", "", holder[key])
    return book
