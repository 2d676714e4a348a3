"""A notebook's page: finds the repository from any folder, reads one size of the run, shows and saves what is drawn.

A notebook begins with `page = open_page("07_method_sweeps", results, output)`. By hand `output` is empty: figures and tables
are shown and nothing is written. The pipeline names the folder to write into.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import Image as Picture
from IPython.display import Markdown, display
from PIL import Image

import analysis

from ..study.few_colours import in_few_colours
from ..study.files import write_atomically, write_table
from ..study.parameters import Parameters, load_parameters
from .findings import verdict_table
from .notebook_parameters import check_parameters

SIZES = {"results": False, "results/full": True}
# Notebooks that the full-size run executes too, in the order of full/dvc.yaml.
AT_FULL_SIZE = (
    "01_testbed", "02_pilot_blur", "03_attention_entropy", "04_reference_dominance", "07_method_sweeps", "08_paper_tables",
    "11_focal_guidance", "12_focal_ablation", "13_focal_joint",
)  # fmt: skip
APART = ("14_loosening",)  # those of sweeps that stand apart, executed by full/loosening/dvc.yaml
COLOURS = 64  # of a saved figure: it takes a fifth of the bytes


def repository() -> Path:
    """The repository's root: the first folder with params.yaml and notebooks/ above this one, else the one that `analysis`
    was imported from. Raises ValueError if neither is one."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(analysis.__file__).parents[1]):
        if (folder / "params.yaml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise ValueError(f"no params.yaml above {here}: open the notebook inside a clone of the repository")


@dataclass
class Page:
    """One notebook, at one size of the run. `folder` is where files go, None if nothing is written."""

    name: str
    parameters: Parameters
    folder: Path | None

    @property
    def smoke(self) -> bool:
        """Whether this is the small run of a study that has a full-size one: it shows that the pipeline works, no more."""
        return not self.parameters.full_size and self.name in (*AT_FULL_SIZE, *APART)

    def found(self, *sentences: str) -> None:
        """Show *What was found*, made of sentences with the numbers of this run. A smoke run states no finding: it says so
        and where to read one."""
        if self.smoke:
            whole = f"full/{self.name}/{self.name}.ipynb"
            made = (repository() / "results" / whole).is_file()
            where = (
                f"What was found is in [the full-size run](../{whole})."
                if made
                else "The full-size run was not made yet."
            )
            text = (
                "> **Smoke run.** So few prompts show that the pipeline works, and no more; differences of many points "
                f"are chance. {where}"
            )
        else:
            text = "**What was found.** " + " ".join(sentences)
        display(Markdown(text))

    def figure(self, figure, name: str, alt: str | None = None) -> None:
        """Save a figure as `<folder>/<name>.png` and show that file; without a folder only show it. `alt` describes it to
        who cannot see it, by default its title. A smoke run is stamped."""
        if self.smoke:
            figure.text(0.001, 0.001, "smoke run", ha="left", va="bottom", fontsize=8, color="0.5")
        alt = alt or _title(figure)
        if not alt:
            raise ValueError(f"figure {name} has neither a title nor an alternative text")
        picture = png(figure)
        plt.close(figure)
        if self.folder is not None:
            write_atomically(self.folder / f"{name}.png", lambda path: path.write_bytes(picture))
        display(Picture(data=picture, metadata={"alt": alt}))

    def table(self, table: pd.DataFrame, name: str, digits: int | None = 4) -> None:
        """Write a table as `<folder>/<name>.csv`, rounded to `digits`; without a folder nothing happens."""
        if self.folder is not None:
            write_table(table if digits is None else table.round(digits), self.folder / f"{name}.csv")

    def verdicts(self, rows: pd.DataFrame) -> None:
        """Show the verdicts on claims (see findings.verdict_table). A smoke run states none."""
        if self.smoke:
            display(Markdown("> **Smoke run.** Verdicts are those of the full-size run."))
        else:
            display(Markdown(verdict_table(rows)))

    def text(self, text: str, name: str | None = None) -> None:
        """Show Markdown, and write it as `<folder>/<name>.md` if it has a name."""
        if self.folder is not None and name is not None:
            write_atomically(self.folder / f"{name}.md", lambda path: path.write_text(text))
        display(Markdown(text))


def open_page(name: str, results: str = "results", output: str = "") -> Page:
    """Begin a notebook: work in the repository's root, take its look, and read the parameters of one size of the run.

    results: "results", the small run, or "results/full". output: folder to write into, nothing is written if empty.
    Raises ValueError for another `results`, for a notebook that has no full-size run, for a parameter of another kind than the
    notebook's own, or outside a clone.
    """
    if results not in SIZES:
        raise ValueError(f"results is {results!r}; it is one of {', '.join(SIZES)}")
    if SIZES[results] and name not in (*AT_FULL_SIZE, *APART):
        raise ValueError(f"{name} has no full-size run; these have one: {', '.join((*AT_FULL_SIZE, *APART))}")
    os.chdir(repository())
    parameters = load_parameters(full=SIZES[results], apart=SIZES[results] and name in APART)
    if (kernel := get_ipython()) is not None:  # papermill or a reader may have changed the parameters
        check_parameters(Path("notebooks", f"{name}.ipynb"), kernel.user_ns, parameters)
    matplotlib.rc_file("matplotlibrc")
    pd.options.display.max_colwidth = None
    return Page(name, parameters, Path(output) if output else None)


def _title(figure) -> str:
    titles = [figure.get_suptitle(), *(ax.get_title(loc) for ax in figure.axes for loc in ("left", "center"))]
    return next((" ".join(t.split()) for t in titles if t), "")


def png(figure, dpi: float | str = "figure") -> bytes:
    """The figure as PNG with a palette, without a version in it: equal figures are equal bytes."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    picture = in_few_colours(Image.open(drawn), COLOURS)
    picture.save(packed, format="png", optimize=True)
    return packed.getvalue()
