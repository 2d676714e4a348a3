"""The page of what methods cost in one block: the tables of `bench-blocks` in words, a cell that nobody filled being so named."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd

from ..bench.block_cost import COMMAND, COUNTERPART, EXECUTIONS, FLEX, MEASURED, NOT_RUN, PLAIN, not_run
from ..bench.block_shapes import CPU_HEADS, SHAPES
from ..study.results_layout import bench_folder

KINDS = {"cuda": "On a GPU, at the real sizes", "cpu": "On a CPU, smaller"}
SHOWN = [name for name in COUNTERPART if name not in (PLAIN, FLEX) and FLEX not in name]


def load_blocks(device: str, folder: Path) -> pd.DataFrame:
    """The table of "cuda" or "cpu"; what was never begun is not run."""
    path = folder / f"blocks-{device}.csv"
    return pd.read_csv(path, dtype={"torch": str, "diffusers": str}) if path.is_file() else not_run(device)


def cell(row: pd.Series, column: str) -> str:
    """The median with its quartiles, or the status in italics."""
    if row["status"] != MEASURED:
        return f"*{row['status']}*"
    if pd.isna(row[column]):
        return "*no baseline*"
    return f"{row[column]:.3f} ({row[f'{column}_low']:.3f} to {row[f'{column}_high']:.3f})"


def ratios(table: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table: a row per model and method, two columns per execution."""
    heads = [f"{execution}, to {base}" for execution in EXECUTIONS for base in ("SDPA", FLEX)]
    lines = ["| model | setting | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    rows = table.set_index(["model", "setting", "execution"])
    for model in table["model"].unique():
        for setting in SHOWN:
            found = [rows.loc[(model, setting, e)] for e in EXECUTIONS]
            cells = [cell(row, column) for row in found for column in ("to_sdpa", "to_flex")]
            lines.append(f"| {model} | {setting} | " + " | ".join(cells) + " |")
    return lines


def machine(table: pd.DataFrame) -> str:
    """Where a table was measured, in a sentence."""
    done = table[table["device"].notna()]
    if done.empty:
        command, _, where = table["reason"].iloc[0].partition(",")
        return f"*Not run.* `{command}`{where} fills it."
    row = done.iloc[0]
    left = " Rows that are *not run* were not reached." if (table["status"] == NOT_RUN).any() else ""
    return f"{row['device']}, {row['dtype']}, torch {row['torch']}, diffusers {row['diffusers']}.{left}"


def reasons(table: pd.DataFrame) -> list[str]:
    """What kept combinations from running, a line per reason."""
    said, lines = table[table["status"].ne(MEASURED) & table["status"].ne(NOT_RUN)], []
    for (execution, status, reason), rows in said.groupby(["execution", "status", "reason"]):
        whose = [f"{model} ({', '.join(own['setting'])})" for model, own in rows.groupby("model")]
        which = "everything" if len(rows) == (table["execution"] == execution).sum() else ", ".join(whose)
        lines.append(f"* {execution}, {which}: *{status}*, {textwrap.shorten(reason, 200, placeholder=' ...')}")
    return lines


def wrapper(folder: Path) -> str:
    """What a call costs in which nothing acts."""
    path = folder / "wrapper-cpu.csv"
    if not path.is_file():
        return f"*Not run.* `{COMMAND}` fills it."
    r = pd.read_csv(path).iloc[0]
    return (
        f"{r['us_per_call']:.1f} microseconds per attention call (quartiles {r['us_per_call_low']:.1f} to "
        f"{r['us_per_call_high']:.1f}, over {r['pairs']} pairs of passes; {r['blocks']} narrow blocks, {r['calls']} calls a pass; "
        f"{r['device']}, torch {r['torch']})."
    )


def shapes() -> list[str]:
    """Lines of a Markdown table of the four blocks and where their numbers stand."""
    lines = ["| model | video tokens | heads x size | text and image tokens | numbers from |", "|---|---|---|---|---|"]
    for s in SHAPES.values():
        grid = " x ".join(map(str, s.grid))
        lines.append(f"| {s.title} | {s.tokens:,} ({grid}) | {s.heads} x {s.size} | {sum(s.beside):,} | {s.source} |")
    return lines


def markdown(folder: Path | None = None) -> str:
    """The whole page, from the tables in `folder` (results/bench)."""
    folder = bench_folder() if folder is None else folder
    lines = [
        "# What it costs", "",
        "Time of one forward of a model with one block, relative to the same forward with plain attention: medians and quartiles "
        "of ratios within a round. Each model is its own class of diffusers with random weights, steered by `steer` as yours "
        "would be; embedders and output head run as well. `docs/cost_page.py` writes this page from `results/bench`, which "
        "`make bench` fills.", "",
        "*To SDPA*: the unsteered model. *To FlexAttention*: the same edit as a `score_mod` of compiled FlexAttention in the "
        "unsteered model (AlignVid, DyMoS), or FlexAttention without an edit (NAG, recording). *Compiled*: `torch.compile` of "
        "the whole transformer; *CUDA graphs*: with `mode=\"reduce-overhead\"`. Steering leaves the compiled graph at each "
        "attention where something acts, the unsteered model does not.", "",
        *shapes(), "",
    ]  # fmt: skip
    for device, title in KINDS.items():
        table = load_blocks(device, folder)
        lines += [f"## {title}", "", machine(table), ""]
        if device == "cpu" and table["device"].notna().any():
            lines += [f"These blocks have at most {table['tokens'].max():,} video tokens and {CPU_HEADS} heads of the real size: "
                      "they show that everything runs, not what a real video costs.", ""]  # fmt: skip
        if device == "cuda" or table["device"].notna().any():
            lines += [*ratios(table), ""]
        lines += [*reasons(table), ""] if reasons(table) else []
    lines += ["## A call in which nothing acts", "", wrapper(folder), ""]
    return "\n".join(lines)
