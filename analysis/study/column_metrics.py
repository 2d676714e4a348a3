"""Which metric of `python -m analysis evaluate` fills which column of a paper's table: the `real` of papers/stand_ins.yaml, the only
list of this. The papers' tables, the tables of studies and the page of the scorers read it here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

STAND_INS = Path(__file__).parents[2] / "papers/stand_ins.yaml"


class Real(BaseModel):
    """A metric of `python -m analysis evaluate` that fills a paper's column with videos of the paper's own models: times `factor`,
    of which main categories of the benchmark (`groups`; by default the metric's `events`, or all samples with `every`), and whether
    every video has 0 or 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float = 1
    digits: int = 2
    groups: list[str] = []
    every: bool = False
    proportion: bool = False


def metrics_of_column(paper: str, column: str) -> dict[str, Real]:
    """{metric: how it fills the column}, the nearest to the published one first; {} where none is known.

    Raises ValueError for a paper or column that the file does not have.
    """
    found = _columns()
    if (paper, column) not in found:
        own = [c for p, c in found if p == paper]
        known = f"it has {', '.join(own)}" if own else f"there are {', '.join(dict.fromkeys(p for p, _ in found))}"
        raise ValueError(f"papers/stand_ins.yaml has no column {column!r} of {paper!r}; {known}")
    return found[paper, column]


def columns_of_metric(metric: str) -> tuple[str, ...]:
    """The columns that a metric fills, as "paper: column", in the order of the file."""
    return tuple(f"{paper}: {column}" for (paper, column), real in _columns().items() if metric in real)


def fills_nothing(scorer: str) -> bool:
    """Whether the values of a scorer, by its name or as it is spelled with parameters, stand for no result whatever they are
    called, as those of a simulated judge."""
    return scorer.partition(":")[0].partition(" ")[0] in (_file().get("fill nothing") or ())


@cache
def _file() -> dict:
    return YAML(typ="safe", pure=True).load(STAND_INS.read_text())


@cache
def _columns() -> dict[tuple[str, str], dict[str, Real]]:
    try:
        return {
            (paper, column): {m: Real.model_validate(said) for m, said in (given.get("real") or {}).items()}
            for paper, columns in _file()["metrics"].items()
            for column, given in columns.items()
        }
    except ValidationError as error:
        raise ValueError(f"{STAND_INS}: {error}") from None
