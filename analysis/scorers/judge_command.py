"""`python -m analysis calibrate-judge` and `python -m analysis import-scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate_judge(
    judge: Annotated[str, typer.Argument(help="NAME or NAME:parameter=value,... of a scorer that answers questions")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of clips, answers and calibration")] = Path(
        "build/judge"
    ),
    samples: Annotated[int, typer.Option(help="of the benchmark, from its first; three clips each")] = 160,
    decoded: Annotated[
        str | None, typer.Option(help="backbone of params.yaml whose autoencoder the clips go through first")
    ] = None,
    cache: Annotated[Path, typer.Option(help="folder of answers that are known already")] = Path("build/evaluated"),
):
    """Have a judge answer the benchmark's questions about clips whose truth is known, and write how often it errs."""
    from ..study.parameters import load_parameters
    from . import calibration_clips
    from .judge_calibration import LEVELS, calibrate, judged_by

    parameters = load_parameters()
    checkpoint = None
    if decoded is not None:
        if decoded not in parameters.backbones:
            raise ValueError(f"unknown backbone {decoded!r}; params.yaml has {list(parameters.backbones)}")
        checkpoint = parameters.backbones[decoded].checkpoint
    answers = calibration_clips.calibrate_judge(
        judge, out, seed=parameters.benchmark.seed, samples=samples, cache=cache, checkpoint=checkpoint
    )
    for level in LEVELS:
        found = calibrate(answers, level)
        print(judged_by(found.judge, found))
    if left_out := int((answers["truth"] == "unknown").sum()):
        print(f"{left_out} of {len(answers)} questions are left out: they are about an object that is not in the clip")
    print(f"{out / 'calibration.csv'}, {out / 'answers.csv'}")


def import_scores(
    files: Annotated[list[Path], typer.Argument(help="result files of an official program, all of one kind")],
    kind: Annotated[str, typer.Option(help="vbench, videoscore, videoscore2, omiti2v, pyiqa or csv")],
    version: Annotated[str, typer.Option(help="of the program that made them, e.g. 0.1.5 or a commit")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the table of scores")],
    manifest: Annotated[
        Path | None, typer.Option(help="CSV of the videos; matched by file name without suffix, or id")
    ] = None,
):
    """Read what VBench, VideoScore, VideoScore2, OmitI2V's judge or MUSIQ wrote elsewhere into a table of scores."""
    from .evaluate import write_scores
    from .manifest import read_manifest
    from .official_results import import_results

    lines = import_results(files, kind, version, read_manifest(manifest)[0] if manifest else None)
    write_scores(lines, out)
    print(f"{out}: {len({line[0] for line in lines})} videos, {len(lines)} rows")
