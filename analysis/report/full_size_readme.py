"""What the full-size run consists of, and which machine made it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from testbed.cores import usable_cores

from ..study.files import write_atomically
from ..study.parameters import Parameters
from ..study.results_layout import SCORES, sweep_folder


def machine() -> str:
    """Cores, architecture and GPU of this machine, and the versions that decide a video's last bits."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = usable_cores()
    return f"{cores} cores, {platform.machine()}, {device}; torch {torch.__version__}, diffusers {version('diffusers')}"


def describe_run(parameters: Parameters, path: Path) -> pd.DataFrame:
    """Write a Markdown table of the sweeps to `path`: backbone, settings, samples, seeds, videos made and failed."""
    rows = []
    for name, sweep in parameters.sweeps.items():
        scores = pd.read_csv(sweep_folder(parameters, name) / SCORES, keep_default_na=False)
        settings = scores.groupby(["method", "guidance_scale", "blur"]).ngroups
        rows.append(
            {"sweep": name, "backbone": sweep.backbone, "settings": settings, "samples": scores["sample"].nunique()}
            | {
                "seeds": scores["seed"].nunique(),
                "videos": len(scores),
                "failed": int((scores["status"] != "ok").sum()),
            }
        )
    table = pd.DataFrame(rows)
    lines = [
        "# The full-size run",
        "",
        f"{table['videos'].sum():,} videos, made by `make full` on: {machine()}. Read [claims.md](claims/claims.md) first.",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
        *("| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)),
        "",
    ]
    write_atomically(path, lambda p: p.write_text("\n".join(lines)))
    return table
