"""`python -m analysis study new`, `set`, `check`, `plan`, `status`, `generate`, `export`, `evaluate` and `table`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .study import FOLDER, find_study

study = typer.Typer(no_args_is_help=True, help="From checkpoints and a benchmark to the rows of a paper's table.")
Name = Annotated[
    str, typer.Argument(help="of a study in studies/, or a folder with a params.yaml, such as . for the root")
]
PASSED = {"allow_extra_args": True, "ignore_unknown_options": True}


@study.command()
def new(
    name: Annotated[str, typer.Argument(help="of the folder that is made in studies/")],
    table: Annotated[str, typer.Option(help="such as alignvid/2, dymos/figure5 or focal_guidance/3")],
    benchmark: Annotated[Path, typer.Option(help="the benchmark's folder")],
    backbones: Annotated[list[str] | None, typer.Option(help="only these of the paper's; repeatable")] = None,
    samples: Annotated[int | None, typer.Option(help="the first so many of the benchmark's; all by default")] = None,
    data_set: Annotated[
        str | None,
        typer.Option(help="which of the table's the benchmark is, where it has several; the first by default"),
    ] = None,
    folder: Annotated[Path, typer.Option(help="where the study's folder is made")] = FOLDER,
):
    """Make a study of a paper's table: its parameters, each with where it stands, the benchmark, runs and results."""
    from .new_study import new_study
    from .study import unstated

    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a study; --folder says where it is made")
    made = new_study(folder / name, table, benchmark, backbones=backbones, samples=samples, data_set=data_set)
    print(f"{folder / name}/params.yaml has {len(unstated(made.raw()))} settings that have to be stated; next: "
          f"python -m analysis study check {made.command}")  # fmt: skip


@study.command(name="set", context_settings=PASSED)
def set_(
    context: typer.Context,
    name: Name,
    what: Annotated[str, typer.Argument(help="a backbone or method of the study's params.yaml, or `all` backbones")],
):
    """State settings: --checkpoint FOLDER or NAME@REVISION, --vae-dtype float32, --scheduler own, --fit crop, --steps 40 ..."""
    from .set_values import read_settings, set_values

    missing = set_values(find_study(name), what, read_settings(context.args))
    print(
        f"{len(missing)} settings have to be stated still: {', '.join(missing)}"
        if missing
        else "every setting is stated"
    )


@study.command(context_settings=PASSED)
def add(
    context: typer.Context,
    name: Name,
    backbone: Annotated[str, typer.Argument(help="as its rows are to be called")],
    pipeline: Annotated[str, typer.Option(help="its class in diffusers")],
    method: Annotated[
        list[str] | None, typer.Option(help='NAME={"method": "alignvid", ...}: a row of its own; repeatable')
    ] = None,
):
    """Add a backbone of one's own, with a row for it and for each method; settings are given as for `study set`."""
    from .add_backbone import add_backbone
    from .set_values import read_methods, read_settings

    settings = read_settings(context.args) if context.args else {}
    missing = add_backbone(find_study(name), backbone, pipeline, read_methods(method or []), settings)
    print(
        f"{len(missing)} of its settings have to be stated still: {', '.join(missing)}"
        if missing
        else "every setting is stated"
    )


@study.command()
def check(
    name: Name,
    scorers: Annotated[list[str] | None, typer.Option(help="whether these can run here, too; repeatable")] = None,
):
    """Find all that would stop the study, before anything is loaded; ends with status 1 if something does."""
    from .check_study import check_study
    from .findings import blocks

    found = check_study(find_study(name), _absolute(scorers or []))
    for finding in found:
        print(finding)
    if blocks(found):
        raise typer.Exit(1)


@study.command()
def plan(
    context: typer.Context,
    name: Name,
    gpus: Annotated[int, typer.Option(help="that share the work")] = 1,
    measure: Annotated[int, typer.Option(help="make so many videos of each sweep first, and go by them")] = 0,
    seconds_per_step: Annotated[
        list[str] | None, typer.Option(help="S, or BACKBONE=S; a step with all its passes; repeatable")
    ] = None,
):
    """Say how many videos, GPU hours and gigabytes are left, from seconds per step that are measured or stated."""
    from .plan_study import plan_lines, plan_study, read_seconds

    opened = find_study(name)
    with opened.inside():
        parameters = opened.parameters()
        stated = read_seconds(seconds_per_step or [], list(parameters.backbones))
        if measure:
            from .measure_steps import make_some

            make_some(parameters, measure)
        for line in plan_lines(plan_study(parameters, stated), gpus):
            print(line)


@study.command()
def cost(
    table: Annotated[str, typer.Argument(help="such as alignvid/2")],
    seconds_per_step: Annotated[
        list[str] | None, typer.Option(help="S, or BACKBONE=S; a step with all its passes; repeatable")
    ] = None,
):
    """Say what a paper's table costs in videos, GPU hours and gigabytes, from its settings and the seconds that you state."""
    from .plan_study import read_seconds
    from .table_costs import cost_page, costs_of_table

    backbones = [c.backbone for c in costs_of_table(table)]
    costs = costs_of_table(table, read_seconds(seconds_per_step or [], backbones))
    print(cost_page(costs), end="")
    for c in (c for c in costs if c.unknown):
        print(f"{c.backbone}: {', '.join(c.unknown)} of the paper's runs are not known")


@study.command()
def status(
    name: Name,
    deep: Annotated[bool, typer.Option("--deep", help="compare checksums: reads every file")] = False,
):
    """Say what is made, failed, missing and corrupt, and why; ends with status 1 unless every video is made."""
    from .status_study import study_status

    opened = find_study(name)
    with opened.inside():
        found = study_status(opened.parameters(), deep=deep)
    for line in (line for sweep in found for line in sweep.lines()):
        print(line)
    if not all(sweep.whole for sweep in found):
        raise typer.Exit(1)


@study.command(context_settings=PASSED)
def generate(context: typer.Context, name: Name):
    """Make the study's videos: everything behind its name goes to `python -m analysis generate`, such as --shard 0/8."""
    _pass_on(context, name, "generate")


@study.command(context_settings=PASSED)
def merge(context: typer.Context, name: Name):
    """Write the manifests after shards: everything behind its name goes to `python -m analysis merge`, such as --from FOLDER."""
    _pass_on(context, name, "merge")


def _pass_on(context: typer.Context, name: str, command: str) -> None:
    """Run another command in the study's folder, if every setting is stated."""
    opened = find_study(name)
    with opened.inside():
        opened.parameters()
        program = context.find_root().command
        status = program.main(args=[command, *context.args], standalone_mode=False, prog_name="python -m analysis")
    if status:  # it is returned, not raised, outside of standalone mode
        raise typer.Exit(status)


@study.command()
def export(
    name: Name,
    to: Annotated[Path, typer.Option(help="the folder of the files")],
    names: Annotated[
        str, typer.Option(help="with {method}, {id}, {prompt}, {index}, {seed}, {backbone}, {sweep}, {guidance}")
    ] = "{backbone}/{method}/{id}.mp4",
    crf: Annotated[int, typer.Option(help="quality of H.264: 0 is the best")] = 12,
):
    """Write the videos as mp4 under the names that other programs read; ends with status 1 if some are not made."""
    from .export_videos import export as write

    opened, to = find_study(name), to.absolute()
    with opened.inside():
        written, kept, missing = write(opened.parameters(), to, names, crf=crf)
    print(f"{to}: {written} written, {kept} kept, {len(missing)} missing")
    for line in missing[:5]:
        print(f"  {line}", file=sys.stderr)
    if missing:
        raise typer.Exit(1)


@study.command()
def evaluate(
    name: Name,
    scorers: Annotated[list[str], typer.Option(help="NAME, NAME:parameter=value or a program's FILE.yaml; repeatable")],
    workers: Annotated[int | None, typer.Option(help="processes; one per core by default")] = None,
):
    """Score every video of the study into results/scores/; a video that is not there is a row with a reason."""
    from .evaluate_study import evaluate_study

    opened, named = find_study(name), _absolute(scorers)
    with opened.inside():
        names = opened.of_table.backbones if opened.of_table else {}
        counts = evaluate_study(opened.parameters(), named, workers, names)
    for scorer, own in counts.items():
        print(f"{scorer}: {', '.join(f'{count} {status}' for status, count in own.items())}")


@study.command()
def table(name: Name):
    """Write results/table.csv and table.md: the rows of the paper's table with intervals, beside what is published."""
    from .table_study import as_markdown, table_of_study, write_study_table

    opened = find_study(name)
    with opened.inside():
        found = table_of_study(opened)
        write_study_table(found)
    print(as_markdown(found), end="")


def _absolute(scorers: list[str]) -> list[str]:
    """Programs' files, which are named from here and read from the study's folder."""
    return [str(Path(s).absolute()) if s.endswith(".yaml") and Path(s).is_file() else s for s in scorers]


def add_to(app: typer.Typer) -> None:
    """Make `study` a command of `app`."""
    app.add_typer(study, name="study")
