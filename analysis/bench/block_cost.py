"""What each method costs in one real block of four models: relative to plain SDPA and to FlexAttention, eager and compiled."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import diffusers
import pandas as pd
import torch
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

from methods import AlignVid, DyMoS, NormalizedAttentionGuidance, record, steer

from ..study import files as store
from ..study.results_layout import bench_folder
from .attention_cost import EVERYWHERE, machine_name, seconds, summarise_times, there_and_back, this_device
from .block_shapes import CPU_HEADS, SHAPES, BuiltBlock, Shape, build_block, smaller
from .flex_edits import align_vid_edits, dymos_edits, flex_instead, video_attention

COMMAND = "python -m analysis bench-blocks"
CPU_TOKENS = 1040
# What `torch.compile` is given; None runs the model as it is.
EXECUTIONS = {"eager": None, "compiled": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
PLAIN, FLEX = "plain", "FlexAttention"
# Setting -> the FlexAttention that does the same: with the same edit of logits, or plain where a method edits none.
COUNTERPART = {
    PLAIN: FLEX,
    FLEX: FLEX,
    "AlignVid": "AlignVid by FlexAttention",
    "AlignVid by FlexAttention": "AlignVid by FlexAttention",
    "DyMoS": "DyMoS by FlexAttention",
    "DyMoS by FlexAttention": "DyMoS by FlexAttention",
    "NAG": FLEX,
    "record, 16 queries a frame": FLEX,
    "record, all queries": FLEX,
}
MEASURED, NOT_RUN, CANNOT, NO_MEMORY = "measured", "not run", "cannot run", "out of memory"
COLUMNS = ["device", "threads", "torch", "diffusers", "dtype", "model", "heads", "head_size", "tokens", "text_and_image",
           "execution", "setting", "ms", "to_sdpa", "to_sdpa_low", "to_sdpa_high", "to_flex", "to_flex_low", "to_flex_high",
           "status", "reason"]  # fmt: skip
WARM = 2  # rounds in which graphs are compiled, alone and after other settings, and CUDA graphs are recorded


def settings_of(block: BuiltBlock, attention=flex_attention) -> dict[str, Callable]:
    """Setting -> a function that gives the context in which the block's forward is timed, the order of COUNTERPART."""
    return {
        PLAIN: nullcontext,
        FLEX: flex_instead(video_attention(block), attention),
        "AlignVid": lambda: steer(block.called, AlignVid(1.35, **EVERYWHERE)),
        "AlignVid by FlexAttention": flex_instead(align_vid_edits(block, 1.35), attention),
        "DyMoS": lambda: steer(block.called, DyMoS(0.6, window="all")),
        "DyMoS by FlexAttention": flex_instead(dymos_edits(block, 0.6), attention),
        "NAG": partial(negative_prompt, block),
        "record, 16 queries a frame": lambda: record(block.called, queries=16),
        "record, all queries": lambda: record(block.called),
    }


@contextmanager
def negative_prompt(block: BuiltBlock):
    """NAG, which needs a pipeline to encode its prompt: Wan's, with the transformer alone, is given embeddings."""
    target = block.called
    if block.shape.name == "wan-14b":
        target = diffusers.WanImageToVideoPipeline(None, None, None, None, transformer=block.called)
    with steer(target, NormalizedAttentionGuidance()) as steering:
        text = block.inputs["encoder_hidden_states"]
        target.encode_prompt(
            None, do_classifier_free_guidance=False, prompt_embeds=text, negative_prompt_embeds=text.flip(1)
        )
        yield steering


def failure(error: Exception) -> dict:
    """Status and reason of a combination that did not run, in one line."""
    text = " ".join(str(error).split())
    full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text
    return {"status": NO_MEMORY if full else CANNOT, "reason": f"{type(error).__name__}: {text[:200]}"}


def free_memory(device: str) -> None:
    """Give back what a pass that failed held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def time_settings(settings: dict, forward, device: str, repeats: int) -> tuple[dict, dict]:
    """({setting: seconds of `forward` in each round}, {setting: what kept it from running}).

    Every round takes all settings in turn, forwards and backwards; of two passes in a setting the second is timed, which is
    the second step of a video. The first round only warms up.
    """
    times, failed = {}, {}

    def attempt(name, context, passes):
        try:
            with context():
                for _ in range(passes):
                    forward()
                return seconds(forward, device)
        except Exception as error:  # whatever it is, it is a row of the table
            failed[name] = failure(error)
        times.pop(name, None)
        free_memory(device)
        return None

    for _ in range(WARM):
        for name, context in settings.items():
            if name not in failed:
                attempt(name, context, 2)
    times |= {name: [] for name in settings if name not in failed}
    for turn in range(repeats + 1):
        if turn == 1:
            graphs = counters["stats"]["unique_graphs"]
        for name, context in there_and_back({n: settings[n] for n in times}, turn):
            spent = attempt(name, context, 1)
            if spent is not None:
                times[name].append(spent)
    if counters["stats"]["unique_graphs"] > graphs:
        failed |= {n: {"status": CANNOT, "reason": "it was compiled again while it was timed"} for n in times}
        times = {}
    return times, failed


def rows_of(times: dict, failed: dict) -> list[dict]:
    """A row per setting: milliseconds and both ratios with their quartiles, or why there are none."""
    rows = []
    for name, counterpart in COUNTERPART.items():
        row = {"setting": name, "status": MEASURED, "reason": ""} | failed.get(name, {})
        for column, base in (("to_sdpa", PLAIN), ("to_flex", counterpart)):
            if name in times and base in times:
                found = summarise_times(times, name, base)
                row |= {"ms": found["ms"], column: found["ratio"]}
                row |= {f"{column}_low": found["ratio_low"], f"{column}_high": found["ratio_high"]}
            elif name in times:
                row |= {"ms": summarise_times(times, name, name)["ms"], "reason": f"{base}: {failed[base]['reason']}"}
        rows.append(row)
    return rows


def bench_execution(block: BuiltBlock, execution: str, device: str, repeats: int) -> list[dict]:
    """The rows of one block in one execution."""
    options = EXECUTIONS[execution]
    graphs = options is not None and options.get("mode") == "reduce-overhead"
    if graphs and device != "cuda":
        return [{"setting": n, "status": CANNOT, "reason": "CUDA graphs need a GPU"} for n in COUNTERPART]
    torch.compiler.reset()
    if options is not None:
        block = replace(block, called=torch.compile(block.called, **options))

    def forward():
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        block.forward()

    # Each setting is a graph of its own, and past the limit torch silently runs the model uncompiled.
    with torch._dynamo.config.patch(recompile_limit=64):
        return rows_of(*time_settings(settings_of(block, compiled_flex()), forward, device, repeats))


def compiled_flex():
    """FlexAttention as it is meant to be used: without the compiler it makes the L x L tensor."""
    return torch.compile(flex_attention, dynamic=False)


def head_of(shape: Shape, device: str, tokens: int | None) -> dict:
    """The columns that say what the block is."""
    grid, heads = (shape.grid, shape.heads) if tokens is None else (smaller(shape.grid, tokens), CPU_HEADS)
    return {"dtype": "bfloat16" if device == "cuda" else "float32", "model": shape.title, "heads": heads,
            "head_size": shape.size, "tokens": grid[0] * grid[1] * grid[2], "text_and_image": sum(shape.beside)}  # fmt: skip


def not_run(device: str, tokens: int | None = None) -> pd.DataFrame:
    """The table of a device before anything is measured: every row says how it is filled."""
    reason = f"{COMMAND}, on a machine with a GPU" if device == "cuda" else COMMAND
    rows = [
        head_of(shape, device, tokens)
        | {"execution": execution, "setting": setting, "status": NOT_RUN, "reason": reason}
        for shape in SHAPES.values()
        for execution in EXECUTIONS
        for setting in COUNTERPART
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def bench_blocks(
    tokens: int | None = None, repeats: int = 7, shapes: dict[str, Shape] | None = None, folder=None
) -> pd.DataFrame:
    """A row per model, execution and setting: milliseconds of one forward of the model with one block, and its ratios.

    tokens: at most this many video tokens, with few heads; by default the real numbers on a GPU and CPU_TOKENS on a CPU.
    repeats: rounds. shapes: instead of all SHAPES. Written to results/bench/blocks-<device>.csv after each execution, rows
    that are not measured yet being `not run`; the table of the GPU is begun likewise if there is none.
    """
    device = this_device()
    tokens = CPU_TOKENS if tokens is None and device == "cpu" else tokens
    folder = bench_folder() if folder is None else folder
    table = not_run(device, tokens)
    if device == "cpu" and not (folder / "blocks-cuda.csv").is_file():
        store.write_table(not_run("cuda"), folder / "blocks-cuda.csv")
    versions = {"device": machine_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
                "diffusers": diffusers.__version__}  # fmt: skip
    for shape in (SHAPES if shapes is None else shapes).values():
        head, block = head_of(shape, device, tokens), None
        for execution in EXECUTIONS:
            try:
                if block is None:
                    block = build_block(shape, device, getattr(torch, head["dtype"]), tokens, head["heads"])
                rows = bench_execution(block, execution, device, repeats)
            except Exception as error:  # the block itself does not fit, say
                rows = [{"setting": n} | failure(error) for n in COUNTERPART]
                free_memory(device)
            done = pd.DataFrame([versions | head | {"execution": execution} | r for r in rows], columns=COLUMNS)
            mine = (table["model"] == shape.title) & (table["execution"] == execution)
            table = pd.concat([table[~mine].dropna(axis=1, how="all"), done]).reindex(columns=COLUMNS)
            store.write_table(in_order(table), folder / f"blocks-{device}.csv")
    return in_order(table)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by model, execution and setting, in the order in which these are listed."""
    orders = {"model": [s.title for s in SHAPES.values()], "execution": list(EXECUTIONS), "setting": list(COUNTERPART)}
    return table.sort_values(list(orders), key=lambda c: c.map(orders[c.name].index), ignore_index=True)
