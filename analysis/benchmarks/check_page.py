"""A benchmark's folder in words: what is there, what is wrong with it, and what to get from where."""

from __future__ import annotations

from collections import defaultdict

from .sample import Benchmark
from .specs import Spec, load_spec


def about(name: str) -> str:
    """What a benchmark is, where its files are to be had, and what went wrong for others."""
    spec = load_spec(name)
    lines = [f"{name}: {spec.title}", f"reads: {spec.reads}", f"licence: {spec.licence}"]
    if spec.samples:
        groups = ", ".join(f"{group} {n}" for group, n in spec.groups.items())
        lines.append(f"samples: {spec.samples}" + f" ({groups})" * bool(groups))
    lines += [f"score: {spec.score}" if spec.score != "none" else "score: it has no questions", *_downloads(spec)]
    return "\n".join([*lines, *(f"trap: {text}" for text in spec.traps)])


def _downloads(spec: Spec) -> list[str]:
    return [f"get: {d.what}\n     from {d.where}\n     {d.how}" for d in spec.download]


def describe(benchmark: Benchmark) -> str:
    """What a folder holds and every problem of it, those that stop first; what to download if something is missing."""
    questions = sum(len(s.questions) for s in benchmark.samples)
    lines = [f"{benchmark.folder}: {benchmark.spec.title}, version {benchmark.version}",
             f"{len(benchmark.samples)} sound samples, {questions} questions, score: {benchmark.score}"]  # fmt: skip
    if benchmark.sizes:
        areas = sorted(benchmark.sizes.values(), key=lambda s: s[0] * s[1])
        shapes = len(set(areas))
        to = f"s, {_size(areas[0])} to" if shapes > 1 else ","
        lines.append(f"images of {shapes} size{to} {_size(areas[-1])}")
    for stops, title in ((True, "wrong"), (False, "to be known")):
        kinds = defaultdict(list)
        for problem in benchmark.problems:
            if problem.stops == stops:
                kinds[problem.kind].append(problem)
        for kind, found in kinds.items():
            lines += [f"{title}: {kind} ({len(found)})", *(f"  {problem}" for problem in found)]
    if any(p.kind in ("missing file", "missing image", "size") for p in benchmark.problems):
        lines += _downloads(benchmark.spec)
    return "\n".join(lines)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
