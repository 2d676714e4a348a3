"""What the scorers say of themselves, in Markdown: the part of docs/evaluating.md that is written by this code."""

from __future__ import annotations

import inspect
from pathlib import Path

from ..study.column_metrics import columns_of_metric, fills_nothing
from ..study.files import write_atomically
from .registry import make_scorer, scorer_names
from .scorer import Metric, Scorer

BEGIN, END = (
    "<!-- written by `python -m analysis scorers --page docs/evaluating.md` -->",
    "<!-- end of what is written -->",
)


def markdown() -> str:
    """A section for each scorer, with what it needs and a table of its metrics."""
    return "\n\n".join([BEGIN, *map(_section, map(make_scorer, scorer_names())), END]) + "\n"


def write_into(page: Path) -> None:
    """Put `markdown()` in place of what stands between BEGIN and END in a page. Raises ValueError if they are not there."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END + "\n")
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r}")
    written = before + markdown() + after
    write_atomically(page, lambda path: path.write_text(written))


def _section(scorer: Scorer) -> str:
    lines = [f"### `{scorer.name}`", "", " ".join(inspect.getdoc(type(scorer)).split()), ""]
    if scorer.inputs:
        lines += [f"Reads of the manifest: {', '.join(scorer.inputs)}."]
    requires = scorer.requires
    if requires.install or requires.weights or requires.licence:
        said = {"Needs": requires.install, "Weights": requires.weights, "Licence": requires.licence}
        lines += [f"{what}: {text}." for what, text in said.items() if text]
    lines += [""] * (lines[-1] != "") + ["| metric | unit, range | what it is | published |", "|---|---|---|---|"]
    for name, metric in scorer.metrics.items():
        what = " ".join(metric.what.split()).replace("|", r"\|")
        filled = () if fills_nothing(scorer.name) else columns_of_metric(name)
        lines.append(f"| `{name}` | {_range(metric)} | {what} | {_published(metric, filled)} |")
    return "\n".join(lines)


def _range(metric: Metric) -> str:
    if metric.proportion:
        return "0 or 1"
    low, high = ("" if end is None else f"{end:g}" for end in (metric.low, metric.high))
    bounds = f"{low} to {high}" if low and high else f"from {low}" if low else f"to {high}" if high else "open"
    return f"{metric.unit}, {bounds}" if metric.unit else bounds


def _published(metric: Metric, filled: tuple[str, ...]) -> str:
    said = [f"is {metric.published}"] if metric.published else []
    said += [f"follows {metric.imitates}; another estimator"] if metric.imitates else []
    if filled:
        said.append(f"{'stands in' if metric.imitates else 'fills'} {', '.join(filled)}")
    return "; ".join(said)
