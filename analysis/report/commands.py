"""`python -m analysis import-rows`, `compare`, `rate` and `advice`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Full = Annotated[bool, typer.Option("--full", help="the full-size run: results/full")]


def import_rows(
    name: Annotated[str, typer.Argument(help="what the rows are called")],
    scores: Annotated[list[Path], typer.Argument(help="tables of `evaluate`")],
    manifest: Annotated[Path, typer.Option(help="of the scored videos: video, sample, seed, backbone, method ...")],
    benchmark: Annotated[Path | None, typer.Option(help="folder that has the samples' main categories")] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="take the values of these alone, repeatable")] = None,
    full: Full = False,
):
    """Join tables of `evaluate` with the manifest of their videos into RESULTS/real/NAME.csv, from which `tables` takes rows."""
    from ..study.results_layout import FULL, SMALL
    from . import imported_scores as imported

    path = imported.import_scores(
        name, scores, manifest, FULL if full else SMALL, benchmark=benchmark, scorers=scorer or []
    )
    table = imported.load_imported(path.parent.parent)[name]
    for metric, part in table[~table["metric"].str.contains("/")].groupby("metric", sort=False):
        without = part["value"].isna().sum()
        said = (
            f"; {without} without a value: {', '.join(sorted(set(part.loc[part['value'].isna(), 'status'])))}"
            if without
            else ""
        )
        print(f"{metric}, {part['estimator'].iloc[0]}: {len(part)} videos{said}")
    print(f"{path}: `python -m analysis tables` has rows of it")


def compare(
    a: Annotated[
        str, typer.Argument(help="FILE.csv, SWEEP or METHOD; :METHOD and @GUIDANCE choose one of several settings")
    ],
    b: Annotated[str, typer.Argument(help="the same, the one that A is held against")],
    column: Annotated[
        list[str] | None, typer.Option(help="repeatable; all that both have by default. Holm's family")
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="only samples of this main category, repeatable")] = None,
    proportion: Annotated[
        list[str] | None, typer.Option(help="a column with 0 or 1 for every video, repeatable")
    ] = None,
    manifest: Annotated[
        list[Path] | None, typer.Option(help="of tables of `evaluate`: one for both, or A's and then B's")
    ] = None,
    backbone: Annotated[str, typer.Option(help="of a method of params.yaml")] = "wan-i2v",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="write the comparison as CSV, too")] = None,
    full: Full = False,
):
    """Compare two settings on the same samples and seeds: difference, interval over prompts, p, what changed and what could
    have been seen."""
    from ..study.files import write_table
    from ..study.parameters import load_parameters
    from .compare_scores import compare as compared
    from .compare_scores import of_categories, read_side, told

    parameters = load_parameters(full=full) if Path("params.yaml").is_file() else None
    manifests = [None, None] if not manifest else [*manifest, *manifest][:2]
    one, other = (
        read_side(name, parameters, manifest=m, backbone=backbone) for name, m in zip((a, b), manifests, strict=True)
    )
    if category:
        one, other = (of_categories(side, category) for side in (one, other))
    table = compared(one, other, column, proportion or [])
    print(told(table, one, other))
    if out is not None:
        write_table(table, out)


def rate(
    files: Annotated[list[Path], typer.Argument(help="a manifest of videos; with --read, what raters saved")],
    pairs: Annotated[int, typer.Option(help="how many prompts each rater sees")] = 60,
    raters: Annotated[int, typer.Option(help="how many sheets are written")] = 5,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder of the sheets; with --read, a table of scores")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="repeatable; those that are shown together, all by default")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="the only one that is shown, of several")] = None,
    guidance: Annotated[float | None, typer.Option(help="the only guidance scale that is shown, of several")] = None,
    ask: Annotated[str, typer.Option(help="likert (1 to 7), best (of n) or both")] = "likert",
    seed: Annotated[int, typer.Option(help="of the draw of prompts, their order and the sides")] = 0,
    read: Annotated[bool, typer.Option("--read", help="read what raters saved instead of writing sheets")] = False,
    key: Annotated[Path | None, typer.Option(help="with --read: the key that was written beside the sheets")] = None,
):
    """Write blinded sheets for people who rate videos, or read what they saved: means, differences, agreement."""
    from ..study.files import write_table
    from . import rating_answers, rating_sheet

    if read:
        if key is None:
            raise ValueError("--read needs --key, the file FOLDER-key.csv that was written beside the sheets")
        answers = rating_answers.read_answers(files, key)
        print(rating_answers.told(answers))
        if out is not None:
            write_table(rating_answers.as_evaluated(answers), out)
        return
    if out is None or len(files) != 1:
        raise ValueError("give one manifest and -o FOLDER, or answers with --read and --key")
    sheets = rating_sheet.plan_sheets(
        files[0], pairs, raters, methods=method, backbone=backbone, guidance=guidance, ask=ask, seed=seed
    )
    written = rating_sheet.write_sheets(sheets, out)
    videos = sheets.key["video"].nunique()
    print(
        f"{raters} sheets of {pairs} prompts and {videos} videos in {out}: hand the folder out, one sheet for each rater"
    )
    print(
        f"the key is {written}: keep it, and read what they save with `python -m analysis rate --read FILES... --key {written}`"
    )


def advice():
    """Write methods/advice.yaml and docs/which_method.md from papers/remedies.yaml and the full-size tables of notebook 14."""
    from ..study.parameters import load_parameters
    from .advice import ADVICE, PAGE, write_advice

    content = write_advice(load_parameters(full=True, apart=True))
    measured = sum(bool(remedy["found"]) for remedy in content["remedies"])
    print(f"{ADVICE} and {PAGE}: {len(content['remedies'])} remedies, {measured} of them measured")


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (import_rows, compare, rate, advice):
        app.command()(command)
