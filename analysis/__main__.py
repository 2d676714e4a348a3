"""`python -m analysis generate SWEEP`, `score SWEEP`, `attention SWEEP`, `notebook NAME` and more: what dvc.yaml chains."""

from __future__ import annotations

import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Annotated

import typer

from .parameters import load_parameters

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
Workers = Annotated[int | None, typer.Option(help="processes; one per GPU or per core by default")]


@app.command()
def reconstruct(backbone: str = "wan-i2v", workers: Workers = None):
    """Encode and decode the benchmark's true clips; scores per question into results/scores/reconstruction.csv."""
    parameters = load_parameters()
    from .generate import default_executor
    from .reconstruct import reconstruct

    with default_executor(workers) as executor:
        table = reconstruct(parameters, backbone, executor, Path("results/scores/reconstruction.csv"))
    print(f"reconstruction: {table['psnr'].mean():.1f} dB, {table['right'].mean():.4f} of the questions right")


@app.command()
def generate(
    sweep: str,
    workers: Workers = None,
    shard: Annotated[str | None, typer.Option(help="i/n: only every n-th video; no manifest is written")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="address of a Dask scheduler instead of local processes")
    ] = None,
):
    """Make the videos of a sweep of params.yaml in runs/SWEEP, keeping those that exist."""
    parameters = load_parameters()
    from .generate import default_executor, generate

    if scheduler:
        from dask.distributed import Client

        executor = Client(scheduler).get_executor()
    else:
        executor = default_executor(workers)
    with executor:
        failures = generate(parameters, sweep, executor, part=shard)
    if failures:
        print(f"{failures} videos failed; they count as wrong, and the manifest says why", file=sys.stderr)


@app.command()
def score(sweep: str, workers: Workers = None):
    """Score the videos of a sweep into results/scores/SWEEP.csv."""
    from .score import score

    table = score(load_parameters(), sweep, workers)
    print(f"{sweep}: {len(table)} videos, adherence {table['adherence'].mean():.3f}, macro {table['macro'].mean():.3f}")


@app.command()
def attention(sweep: str):
    """Summarise the recordings of a sweep into results/attention/SWEEP-*.csv."""
    from .attention import summarise_recordings
    from .samples import run_folder

    summarise_recordings(load_parameters(), sweep, run_folder(sweep), Path("results/attention"))


@app.command()
def maps(sweep: str, samples: int = 4, workers: Workers = None):
    """Attention maps of the first samples of a sweep into results/attention/SWEEP-maps.csv."""
    from .generate import default_executor
    from .maps import attention_maps

    with default_executor(workers) as executor:
        out = Path("results/attention") / f"{sweep}-maps.csv"
        attention_maps(load_parameters(), sweep, executor, samples=samples, out=out)


@app.command()
def semantic_layers(backbone: str = "wan-i2v", samples: int = 24, workers: Workers = None):
    """How strongly each layer responds to the prompt's words, into results/attention/semantic-*.csv."""
    from .generate import default_executor
    from .semantic_layers import semantic_layers

    with default_executor(workers) as executor:
        semantic_layers(load_parameters(), backbone, executor, samples=samples, out=Path("results/attention"))


@app.command()
def foreground(
    backbone: str = "wan-i2v",
    samples: int = 50,
    segmenter: Annotated[str | None, typer.Option(help="folder or name of a SAM 2 model instead of 2-means")] = None,
    workers: Workers = None,
):
    """Which blocks look at the foreground: results/attention/foreground*.csv and methods/calibrated_blocks.json."""
    from .foreground import foreground
    from .generate import default_executor

    with default_executor(workers) as executor:
        out = Path("results/attention")
        foreground(load_parameters(), backbone, executor, samples=samples, out=out, segmenter=segmenter)


@app.command()
def focal_study(method: str, backbone: str = "wan-i2v", samples: int = 40, drawn: int = 1, workers: Workers = None):
    """Where words are found in the references, and what METHOD's cache sees: results/attention/focal-*.csv."""
    from .focal_study import focal_study
    from .generate import default_executor

    with default_executor(workers) as executor:
        out = Path("results/attention")
        focal_study(load_parameters(), backbone, method, executor, samples=samples, drawn=drawn, out=out)


@app.command()
def notebook(name: str):
    """Execute notebooks/NAME.ipynb with its parameters from params.yaml into results/notebooks/NAME.ipynb."""
    from .notebook import execute

    execute(name, load_parameters().notebooks.get(name, {}))


@app.command()
def curve(samples: int = 60, workers: Workers = None):
    """Score the states kept in build/training/snapshots into testbed/checkpoints/logs/adherence.csv."""
    from testbed.__main__ import CHECKPOINTS, TRAINING

    from .curve import adherence_curve
    from .generate import default_executor

    with default_executor(workers) as executor:
        table = adherence_curve(
            load_parameters(),
            TRAINING,
            CHECKPOINTS / "logs/adherence.csv",
            executor,
            samples=samples,
            scales=[1.0, 3.0],
        )
    print(table.to_string())


@app.command()
def bench(backbone: str = "wan-i2v"):
    """Time the parts of one video, and steering and recording at several lengths, on this machine."""
    from .bench import bench
    from .bench_attention import bench_attention
    from .bench_recording import bench_recording

    print(bench(load_parameters(), backbone).to_string())
    print(bench_attention().to_string())
    print(bench_recording().to_string())


def main():
    """Run the command; what a user can mend ends in one line, without a traceback."""
    try:
        app(standalone_mode=False)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except BrokenExecutor:
        sys.exit(
            "error: a worker process died, perhaps of too little memory; what is finished is kept, so run it again"
        )
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit("stopped; what is finished is kept, and the next run goes on from there")
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            sys.exit(f"error: {error.format_message()}")
        raise


if __name__ == "__main__":
    main()
