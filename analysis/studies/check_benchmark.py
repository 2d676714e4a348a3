"""Are the benchmark's samples, questions and images there, and do the images fit the backbones?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..benchmarks import Benchmark, read_benchmark
from ..study.image_fit import fitted_size
from ..study.parameters import Parameters
from .findings import Finding
from .study import Study

SHOWN = 3


def benchmark_findings(study: Study, parameters: Parameters, asked: set[tuple[str, str]]) -> list[Finding]:
    """Of the benchmarks, read from the study's folder, and of their images for each backbone whose size is stated."""
    by_folder: dict[Path, list[str]] = {}
    for sweep in parameters.sweeps:
        by_folder.setdefault(parameters.benchmark_of(sweep).folder, []).append(sweep)
    return [f for folder, sweeps in by_folder.items() for f in _of_one(study, parameters, folder, sweeps, asked)]


def _of_one(
    study: Study, parameters: Parameters, folder: Path, sweeps: list[str], asked: set[tuple[str, str]]
) -> list[Finding]:
    try:
        benchmark = read_benchmark(folder)
    except (ValueError, OSError) as error:
        return [Finding("blocks", "benchmark", " ".join(str(error).split()))]
    found = [Finding("blocks" if p.stops else "note", "benchmark", str(p)) for p in benchmark.problems]
    count, of_paper = len(benchmark.samples), study.of_table.samples if study.of_table else None
    questions = sum(len(s.questions) for s in benchmark.samples)
    found.append(Finding("fine", "benchmark", f"{benchmark.spec.title}, {count} samples with {questions} questions"))
    if of_paper and count != of_paper and benchmark.spec.samples != of_paper:  # else the reader has said so
        found.append(Finding("note", "benchmark", f"the paper's table has {of_paper} samples"))
    for name in sweeps:
        wanted = parameters.sweeps[name].samples
        if wanted > count:
            found.append(Finding("blocks", name, f"it wants {wanted} samples, the benchmark has {count}"))
    for name in dict.fromkeys(parameters.sweeps[s].backbone for s in sweeps):
        if not {(name, "width"), (name, "height"), (name, "fit")} & asked:
            found += _images(name, parameters, benchmark)
    return found


def _images(name: str, parameters: Parameters, benchmark: Benchmark) -> list[Finding]:
    backbone, sizes, wrong = parameters.backbones[name], Counter(), {}
    if "ImageToVideo" not in backbone.pipeline and "Framepack" not in backbone.pipeline:
        return []
    for sample, size in benchmark.sizes.items():
        try:
            sizes[fitted_size(*size, backbone)] += 1
        except ValueError as error:
            wrong[sample] = str(error)
    if wrong:
        first = "; ".join(f"{sample} is {why}" for sample, why in list(wrong.items())[:SHOWN])
        return [Finding("blocks", name, f"{len(wrong)} of {len(benchmark.sizes)} images do not fit: {first}")]
    made = ", ".join(f"{w}x{h}: {count}" for (w, h), count in sizes.most_common())
    return (
        [Finding("fine", name, f"images of {len(set(benchmark.sizes.values()))} sizes become videos of {made}")]
        if made
        else []
    )
