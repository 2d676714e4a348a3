"""`python -m analysis evaluate` and `python -m analysis scorers`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    manifest: Annotated[
        Path, typer.Argument(help="CSV: video, and image, prompt, id, questions (JSON), fps as needed")
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="further scorers")] = None,
    scorers: Annotated[
        list[str] | None,
        typer.Option(help="NAME, NAME:parameter=value,..., a program's FILE.yaml, or `all` that can run here"),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="the table of scores")] = Path("scores.csv"),
    fps: Annotated[float | None, typer.Option(help="frames per second, where the manifest states none")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; one per core by default")] = None,
    cache: Annotated[Path, typer.Option(help="folder of scores that are known already")] = Path("build/evaluated"),
    limit: Annotated[float, typer.Option(help="GiB that one decoded video may take")] = 4.0,
):
    """Score videos of any origin: MANIFEST.csv --scorers NAME... -o SCORES.csv. What is scored is kept, so a run that was
    stopped goes on. Ends with status 1 if a video could not be scored; the table says why."""
    from .evaluate import Settings, evaluate, write_scores
    from .manifest import read_manifest

    names = [*(scorers or []), *(more or [])]
    if not names:
        raise ValueError("no scorer is named: --scorers NAME...; `python -m analysis scorers` lists them")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers is {workers}; at least 1 is needed")
    if not limit > 0:
        raise ValueError(f"--limit is {limit}; GiB above 0 are wanted")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; the name of a table is wanted")
    for folder in (cache, out.parent):  # what cannot be written ends the command here, and not after the work
        folder.mkdir(parents=True, exist_ok=True)
    rows, unread = read_manifest(manifest, fps)
    if "all" in names:
        names = [name for name in names if name != "all"] + _all_that_run(names)
    if unread:
        print(f"columns of {manifest} that no scorer reads: {', '.join(unread)}", file=sys.stderr)
    lines = evaluate(rows, names, Settings(cache, limit), workers)
    write_scores(lines, out)
    counts = Counter(line[5] for line in lines)
    print(f"{out}: {len(rows)} videos, {len(lines)} rows, " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    if not counts.keys() <= {"ok", "undefined"}:
        for reason, count in Counter(
            f"{line[5]}: {line[6]}" for line in lines if line[5] not in ("ok", "undefined")
        ).most_common(5):
            print(f"  {count} rows {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _all_that_run(named: list[str]) -> list[str]:
    from .registry import make_scorer, scorer_names

    found = []
    for name in scorer_names():
        if name in {n.partition(":")[0] for n in named}:
            continue
        if why := make_scorer(name).available():
            print(f"left out: {name}: {why}", file=sys.stderr)
        else:
            found.append(name)
    return found


def scorers(
    page: Annotated[
        Path | None, typer.Option(help="write their sections into this page instead, docs/evaluating.md")
    ] = None,
):
    """List the scorers: what each measures, what it needs, and why it cannot run here if it cannot."""
    from .describe import write_into
    from .registry import make_scorer, scorer_names

    if page:
        write_into(page)
        return
    for name in scorer_names():
        scorer = make_scorer(name)
        why = scorer.available()
        print(f"{name} (version {scorer.version}): {'can run' if why is None else why}")
        for metric, said in scorer.metrics.items():
            print(f"    {metric}{f' [{said.unit}]' if said.unit else ''}: {said.what}")
