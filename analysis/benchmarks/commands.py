"""`python -m analysis benchmark-check`, `benchmark-draw` and `benchmark-crop`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def benchmark_check(
    folder: Annotated[Path | None, typer.Argument(help="the benchmark's")] = None,
    name: Annotated[str | None, typer.Option("--as", help="its format; recognised by its files by default")] = None,
    crop: Annotated[str | None, typer.Option(help="which crops of the images, where there are several")] = None,
    order: Annotated[str | None, typer.Option(help="in which order Focal Guidance's crops were cut")] = None,
    about: Annotated[str | None, typer.Option(help="say what this benchmark is and where to get it")] = None,
):
    """Say what a benchmark's folder holds and all that is wrong with it, before anything is loaded; ends with status 1 if
    something is."""
    from .check_page import about as page
    from .check_page import describe
    from .readers import read_benchmark

    if about:
        print(page(about))
    if folder is None:
        if not about:
            raise ValueError("give the folder of a benchmark, or --about its name")
        return
    benchmark = read_benchmark(folder, name, crop=crop, order=order)
    print(describe(benchmark))
    if benchmark.errors:
        raise typer.Exit(1)


def benchmark_draw(
    name: Annotated[str, typer.Argument(help="pe_video or vidprom")],
    source: Annotated[Path, typer.Argument(help="the folder or file to draw from")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the drawn benchmark's folder")],
    samples: Annotated[int | None, typer.Option(help="as many as the paper drew by default")] = None,
    seed: int = 0,
):
    """Draw samples of a large data set by a rule that anyone can repeat, and write their ids and references down."""
    from .large_sets import DRAWS
    from .specs import load_spec

    if name not in DRAWS:
        raise ValueError(f"nothing is drawn from {name!r}; {' and '.join(DRAWS)} are drawn from")
    problems = DRAWS[name](source, out, samples or load_spec(name).samples, seed)
    print(f"{out}/draw.json has the ids")
    for problem in problems:
        print(f"{problem.kind}: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def benchmark_seal(folder: Path):
    """Write the hashes of a draw's images into its draw.json, so that others can tell whether theirs are the same."""
    from .drawn_samples import seal

    print(f"{seal(folder)} images have their hashes in {folder}/draw.json")


def benchmark_crop(
    folder: Path,
    ratio: Annotated[str, typer.Option(help="16-9 or 1-1")] = "16-9",
    order: Annotated[str, typer.Option(help="paper or vbench: which of the two is cut first")] = "paper",
):
    """Cut one of the two canonical crops of every image of a Focal Guidance benchmark, and say of which subjects part is lost."""
    from .canonical_crops import write_crops
    from .readers import read_benchmark

    benchmark = read_benchmark(folder, "focal_guidance").require()
    if lacking := [s.id for s in benchmark.samples if s.subject_box is None]:
        raise ValueError(f"{len(lacking)} samples have no subject_box, such as {lacking[0]}; crops follow it")
    images = {s.id: benchmark.image(s) for s in benchmark.samples}
    subjects = {s.id: s.subject_box for s in benchmark.samples}
    shares = write_crops(folder, images, subjects, ratio, order)
    print(f"{len(shares)} crops in {folder}/crops/{order}/{ratio}")
    for name, share in shares.items():
        if share < 1:
            print(f"{name}: {share:.0%} of the subject stays in view")


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (benchmark_check, benchmark_draw, benchmark_seal, benchmark_crop):
        app.command()(command)
