"""The benchmark's samples: prompts, questions and reference images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..benchmarks import read_benchmark

LISTS = ("*.json", "*.csv", "*.txt", "data/*.json")  # what a benchmark's samples are listed in


def load_samples(folder: Path) -> list[dict]:
    """The benchmark's records, of any format that `read_benchmark` knows; samples may be without questions where it has none.
    Raises ValueError that lists every field and question that is wrong. Whether images are there is not looked at."""
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(f"no benchmark at {folder}: run `python -m testbed benchmark` or `dvc repro benchmark`")
    return _checked(folder, max((p.stat().st_mtime_ns for pattern in LISTS for p in folder.glob(pattern)), default=0))


@cache
def _checked(folder: Path, changed: int) -> list[dict]:
    benchmark = read_benchmark(folder, images=False)
    if wrong := [p for p in benchmark.errors if p.kind != "missing image"]:
        raise ValueError(f"{folder}: " + "; ".join(map(str, wrong)))
    return benchmark.records
