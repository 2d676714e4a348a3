"""`python -m analysis generate SWEEP`, `score SWEEP`, `attention SWEEP`, `notebook NAME` and more: what dvc.yaml chains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.command_line import run

from .benchmarks import commands as benchmark_commands
from .report import commands as report_commands
from .report import full_size_commands
from .scorers import command, judge_command
from .search import commands as search_commands
from .studies import commands as study_commands
from .study import made_from
from .study.parameters import load_parameters, sweeps_by_backbone
from .study.results_layout import (
    attention_study_folder,
    autoencoder_file,
    instruments_file,
    lineage_of,
    notebook_folder,
    place_of,
    runs_folder,
    sweep_folder,
    tables_of,
)
from .videos.command_line import MADE, Apart, Full, Lineage, Sweeps, Workers, chosen, generate, merge

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def settings():
    """Write what params.yaml comes to for each lineage into build/settings, where stages see what changed for them."""
    from .study.resolved_settings import write_settings

    write_settings("params.yaml", Path("build/settings"))


@app.command()
def keys(apart: Apart = False):
    """Write the keys of the full-size sweeps' cells into build/keys, where stages see whether any changed; of those that stand
    apart into build/keys-apart."""
    from .study.resolved_settings import write_keys

    write_keys(load_parameters(full=True, apart=apart), Path("build/keys-apart" if apart else "build/keys"))


@app.command()
def reconstruct(backbone: str = "wan-i2v", samples: int = 160, workers: Workers = None):
    """Encode and decode the true clips of the benchmark's first samples, to know what the autoencoder alone costs and how
    far every measure is from the truth behind it: results/autoencoder/LINEAGE.csv, results/instruments/LINEAGE.csv."""
    parameters = load_parameters()
    from .scoring.autoencoder_limit import reconstruct
    from .scoring.instrument_checks import check_instruments
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        table = reconstruct(parameters, backbone, executor, autoencoder_file(backbone), samples)
        checks = check_instruments(parameters, backbone, executor, instruments_file(backbone), samples // 2)
    print(f"{backbone}: {table['psnr'].mean():.1f} dB, {table['right'].mean():.4f} of the questions right")
    off = checks[(checks["measure"] == "asked_px") & (checks["video"] == "true")]["mean_error"].mean()
    print(f"displacement of the named object is off by {off:.2f} px")


app.command()(generate)
app.command()(merge)


@app.command()
def score(
    sweeps: Sweeps = None, lineage: Lineage = None, full: Full = False, apart: Apart = False, workers: Workers = None
):
    """Score the videos of sweeps into results/sweeps/LINEAGE/STUDY/scores.csv, and summarise what was recorded of their
    attention beside it; sweeps whose videos have not changed keep their tables."""
    parameters = load_parameters(full=full or apart, apart=apart)
    files = {s: MADE / "scores" / runs_folder(parameters, s) for s in chosen(parameters, sweeps, lineage)}
    todo = {}
    for sweep, file in files.items():
        tables = [sweep_folder(parameters, sweep) / name for name in tables_of(parameters, sweep)]
        if not made_from.is_noted(file, made_from.of_scores(parameters, sweep), *tables):
            todo[sweep] = file
    if not todo:
        print("nothing to score: no video of these sweeps, and nothing that scores them, has changed")
        return
    from .attention.recording_summaries import summarise_recordings
    from .scoring.score import score
    from .study.workers import stopping, worker_pool

    with stopping(worker_pool(workers)) as executor:
        for sweep, file in todo.items():
            table = score(parameters, sweep, executor)
            if parameters.sweeps[sweep].record:
                summarise_recordings(parameters, sweep)
            made_from.note(file, made_from.of_scores(parameters, sweep))
            means = f"adherence {table['adherence'].mean():.3f}, macro {table['macro'].mean():.3f}"
            print(f"{sweep}: {len(table)} videos, {means}")


@app.command()
def token_maps(backbone: str = "wan-i2v", samples: int = 4, workers: Workers = None):
    """What each video token of a few samples looks at, with a sharp and a blurred reference, into results/studies/token-maps."""
    parameters = load_parameters()
    from .attention.token_maps import attention_maps
    from .videos.generate import default_executor

    sweep = sweeps_by_backbone(parameters, "attention-blur")[_backbone(parameters, backbone)]
    with default_executor(workers) as executor:
        out = attention_study_folder("token-maps", backbone) / f"{place_of(parameters, sweep).name}.csv"
        attention_maps(parameters, sweep, executor, samples=samples, out=out)


@app.command()
def semantic_layers(backbone: str = "wan-i2v", samples: int = 16, workers: Workers = None):
    """How strongly each layer responds to the prompt's words, into results/studies/semantic-layers."""
    parameters = load_parameters()
    from .attention.semantic_layers import semantic_layers
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        out = attention_study_folder("semantic-layers", _backbone(parameters, backbone))
        semantic_layers(parameters, backbone, executor, samples=samples, out=out)


@app.command()
def attended_words(backbone: str = "wan-i2v", samples: int = 16, drawn: int = 2, workers: Workers = None):
    """Where video tokens look at each word of the prompt, into results/studies/attended-words."""
    parameters = load_parameters()
    from .attention.attended_words import attended_words
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        out = attention_study_folder("attended-words", _backbone(parameters, backbone))
        attended_words(parameters, backbone, executor, samples=samples, drawn=drawn, out=out)


@app.command()
def foreground(
    backbone: str = "wan-i2v",
    samples: int = 50,
    seed: Annotated[int, typer.Option(help="of the prompts of a testbed model; not the benchmark's")] = 11,
    segmenter: Annotated[str | None, typer.Option(help="folder or name of a SAM 2 model instead of 2-means")] = None,
    workers: Workers = None,
):
    """Which blocks look at the foreground, into results/studies/foreground."""
    parameters = load_parameters()
    from .attention.foreground_ratio import foreground
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        out = attention_study_folder("foreground", _backbone(parameters, backbone))
        foreground(parameters, backbone, executor, samples=samples, out=out, seed=seed, segmenter=segmenter)


@app.command()
def calibrate(
    backbones: Annotated[list[str] | None, typer.Argument(help="all that were measured by default")] = None,
    definition: Annotated[str, typer.Option(help="mass, tokens (AlignVid's F.2) or 'per token'")] = "tokens",
    mask: Annotated[str, typer.Option(help="clean, velocity, noise or pixels")] = "clean",
):
    """List the blocks of measured backbones that look at the foreground in methods/calibrated_blocks.json."""
    from .attention.calibrated_blocks import write_preset

    parameters, folder = load_parameters(), attention_study_folder("foreground")
    measured = [b for b in parameters.backbones if (folder / lineage_of(b)).is_dir() and b == f"{lineage_of(b)}-i2v"]
    print(write_preset(parameters, backbones or measured, folder, definition=definition, mask=mask))


@app.command()
def keyword_anchors(method: str, backbone: str = "wan-i2v", samples: int = 40, drawn: int = 1, workers: Workers = None):
    """Where words are found in the references, and what METHOD's cache sees: results/studies/keyword-anchors."""
    parameters = load_parameters()
    from .attention.keyword_anchors import focal_study
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        out = attention_study_folder("keyword-anchors", _backbone(parameters, backbone))
        focal_study(parameters, backbone, method, executor, samples=samples, drawn=drawn, out=out)


def _backbone(parameters, name: str) -> str:
    if name not in parameters.backbones:
        raise ValueError(f"unknown backbone {name!r}; params.yaml has {list(parameters.backbones)}")
    return name


@app.command()
def tune_focal(
    backbone: str = "wan-i2v",
    data: Annotated[
        Path | None, typer.Option(help="folder with metadata.csv (file_name, caption) instead of the world's clips")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="NAME=METHOD of params.yaml, repeatable; by default those of params.yaml")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="instead of the one in params.yaml")] = None,
    steps: Annotated[int | None, typer.Option(help="instead of those in params.yaml")] = None,
    out: Annotated[
        Path | None, typer.Option(help="testbed/checkpoints/ and the name of the settings' section by default")
    ] = None,
    work: Annotated[Path, typer.Option(help="encoded clips and the state of the training")] = Path("build/focal"),
    precision: Annotated[str | None, typer.Option(help="no or bf16; by default the backbone's")] = None,
    checkpointing: Annotated[bool, typer.Option(help="recompute blocks in the backward pass: less memory")] = False,
):
    """Tune the weak blocks of an image-to-video backbone with Focal Guidance on, and a control; a killed run goes on."""
    from .tuning.encode_clips import from_folder, from_world
    from .tuning.tune_focal_guidance import read_settings, section_of, tune_focal

    parameters = load_parameters()
    section = section_of(parameters, _backbone(parameters, backbone))
    clips, variants, tuning = read_settings(parameters, variant, section, lr=lr, steps=steps)
    out = out or Path("testbed/checkpoints") / section
    source = from_folder(data, parameters.backbones[backbone]) if data else from_world(clips, tuning.seed)
    table = tune_focal(
        parameters, backbone, source, variants, tuning, out, work, precision=precision, checkpointing=checkpointing
    )
    print(table.groupby("variant", sort=False)["loss"].agg(lambda x: x.iloc[-max(1, len(x) // 4) :].mean()).to_string())


@app.command()
def claims(full: Full = False):
    """Decide papers/claims.yaml and measure its ledger into results/claims."""
    from .papers.claim_inputs import Study
    from .papers.claim_schema import load_claims
    from .papers.code_differences import write_ledger
    from .papers.decide_claims import write_claims

    parameters = load_parameters(full=full)
    found = load_claims(parameters)
    study = Study(parameters.results, parameters, found.models, found.stand_ins)
    print(write_claims(found, study)["verdict"].value_counts().to_string())
    write_ledger(found, study)


@app.command()
def diagrams():
    """Draw one diagram per method, of what it changes where, into docs/diagrams."""
    import matplotlib

    from .report.method_diagrams import draw_diagrams

    matplotlib.use("Agg")
    matplotlib.rc_file("matplotlibrc")
    for path in draw_diagrams(load_parameters()):
        print(path)


@app.command()
def tables(full: Full = False):
    """Rebuild the papers' tables from the scores: paper_tables.csv and a Markdown file per paper."""
    from .papers.paper_tables import build_tables, count, write_tables

    parameters = load_parameters(full=full)
    papers, cells, _ = build_tables(parameters, parameters.results)
    write_tables(papers, cells, notebook_folder("08_paper_tables", parameters.results))
    print(count(cells).to_string(index=False))


@app.command()
def notebook(name: str, full: Full = False):
    """Execute notebooks/NAME.ipynb with its parameters from params.yaml into results/NAME/, or results/full/NAME/."""
    from .report.execute_notebook import execute

    parameters = load_parameters(full=full)
    execute(name, parameters.notebooks.get(name, {}), parameters.results)


@app.command()
def readme_picture():
    """Draw the README's picture into results/readme.png: film strips of the small run, bars of the full-size one."""
    from .report.readme_picture import write_readme_picture

    backbones = load_parameters().notebooks["01_testbed"]["backbones"]
    write_readme_picture(Path("results/readme.png"), backbones)


@app.command()
def curve(backbone: str = "wan-i2v", samples: int = 60, workers: Workers = None):
    """Score the states kept while a testbed model was trained into testbed/checkpoints/logs/adherence-BACKBONE.csv."""
    from testbed.__main__ import CHECKPOINTS, TRAINING

    from .scoring.training_curve import adherence_curve
    from .videos.generate import default_executor

    with default_executor(workers) as executor:
        table = adherence_curve(
            load_parameters(),
            backbone,
            TRAINING / backbone.split("-")[0],
            CHECKPOINTS / f"logs/adherence-{backbone}.csv",
            executor,
            samples=samples,
            scales=[1.0, 3.0],
        )
    print(table.to_string())


@app.command()
def bench(backbone: str = "wan-i2v"):
    """Time the parts of one video, and steering and recording at several lengths, on this machine."""
    from .bench.attention_cost import bench_attention
    from .bench.focal_guidance_cost import bench_focal
    from .bench.recording_cost import bench_recording
    from .bench.video_cost import bench

    print(bench(load_parameters(), backbone).to_string())
    print(bench_attention().to_string())
    print(bench_recording().to_string())
    print(bench_focal(load_parameters()).to_string())


@app.command()
def bench_blocks(
    tokens: Annotated[
        int | None,
        typer.Option(
            help="at most this many video tokens, in a narrow block; by default 1,040 on a CPU, the real on a GPU"
        ),
    ] = None,
):
    """Time every method in one block of four models, against SDPA and FlexAttention, eager and compiled; on this machine."""
    from .bench.block_cost import bench_blocks
    from .bench.wrapper_cost import bench_wrapper

    print(bench_wrapper().to_string())
    print(bench_blocks(tokens).to_string())


for function in (command.evaluate, command.scorers, judge_command.calibrate_judge, judge_command.import_scores):
    app.command()(function)
for commands in (benchmark_commands, report_commands, search_commands, study_commands, full_size_commands):
    commands.add_to(app)

if __name__ == "__main__":
    run(app)
