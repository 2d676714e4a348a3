"""What the statistics of one attention cost: recorded exactly, or taken from the explicit L x L map."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from methods.core.attention_call import AttentionCall
from methods.core.attention_statistics import statistics
from methods.core.forward_context import ForwardContext
from methods.families import GROUPS, Block, Layout, Tokens

from .attention_cost import (
    CPU_GRIDS,
    GPU_GRIDS,
    machine_name,
    seconds,
    summarise_times,
    there_and_back,
    this_device,
    write_table,
)

PLAIN, RECORDED, EXPLICIT = "plain attention", "recorded: exact, without the map", "explicit map"


def self_attention_call(grid, device, dtype, heads: int, size: int) -> AttentionCall:
    """Random self-attention over `grid` tokens, the first frame being the reference: query (1, heads, L, size)."""
    frame, length = grid[1] * grid[2], grid[0] * grid[1] * grid[2]
    of_token = torch.arange(length, device=device) // frame
    codes = torch.where(of_token == 0, GROUPS.index("reference"), GROUPS.index("video")).to(torch.int8)
    tokens, reference = Tokens(codes[None], of_token, slice(0, length)), slice(0, frame)
    layout = Layout({"video": tokens}, grid, reference, frozenset({"reference", "video"}))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, length, size, device=device, dtype=dtype) for _ in range(3))
    return AttentionCall(
        query, key, value, None, size**-0.5, "self", Block(0, "0"), ForwardContext(0, 1, 900.0, "cond"), layout,
        tokens, tokens, reference,
    )  # fmt: skip


def recorded(call: AttentionCall) -> tuple[torch.Tensor, dict]:
    """(attention output (1, H, L, D), {(statistic, key): (1, H, L)}) by the recorder: mass per group, and entropy."""
    rows = torch.arange(call.query.shape[2], device=call.query.device)
    return call.compute(), statistics(call, rows, frames=False)["rows"]


def explicit_map(call: AttentionCall) -> tuple[torch.Tensor, dict]:
    """The same as `recorded` from the softmax of the whole L x L matrix of every head, in float32."""
    query, key, value = (x.float() for x in (call.query, call.key, call.value))
    weights = ((call.scale * query) @ key.transpose(-1, -2)).softmax(-1)
    names = [g for g in GROUPS if g in call.layout.groups]
    masses = weights @ torch.stack([call.keys.where(g)[0] for g in names], -1).float()
    found = {("mass", g): masses[..., i] for i, g in enumerate(names)}
    # Head by head: the terms p log p need not be a second map beside the first.
    entropies = [torch.special.entr(weights[:, h]).sum(-1) for h in range(weights.shape[1])]
    return (weights @ value).to(call.value.dtype), found | {("entropy", ""): torch.stack(entropies, 1)}


def peak_bytes(work, device: str) -> int:
    """Largest memory in use at once during `work()`, results included, on top of what was in use before.

    On a GPU torch's own count. On a CPU the largest running sum of the allocations and frees that torch's profiler saw;
    that includes what kernels take for themselves inside torch, but not buffers of the BLAS library.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def free_bytes(device: str) -> float:
    """Memory that is free now; infinite where the system does not say."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    stated = Path("/proc/meminfo")
    lines = stated.read_text().splitlines() if stated.exists() else []
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable")), math.inf)


def bench_recording(repeats: int = 5, grids: list[tuple[int, int, int]] | None = None) -> pd.DataFrame:
    """A row per length and way to attend: milliseconds, ratio to plain attention with its quartiles (over `repeats`
    interleaved rounds), peak additional memory in MB (1e6 bytes). Written to results/bench/recording-<device>.csv.

    Both other ways give the output and the statistics. A map that does not fit is a row without numbers and with a
    `reason`. grids: token grids (frames, rows, columns) instead of those of the device.
    """
    device = this_device()
    dtype, machine = torch.bfloat16 if device == "cuda" else torch.float32, machine_name(device)
    heads, size = (40, 128) if device == "cuda" else (4, 64)
    rows = []
    for grid in grids or (GPU_GRIDS if device == "cuda" else CPU_GRIDS):
        call, length = self_attention_call(grid, device, dtype, heads, size), grid[0] * grid[1] * grid[2]
        ways = {PLAIN: call.compute, RECORDED: lambda c=call: recorded(c), EXPLICIT: lambda c=call: explicit_map(c)}
        head = {"device": machine, "threads": torch.get_num_threads(), "tokens": length}
        needed, reason = 2.2 * 4 * heads * length**2, ""  # the logits and their softmax, and some room
        if needed > free_bytes(device):
            del ways[EXPLICIT]
            reason = f"needs about {needed / 1e9:.0f} GB, more than is free"
        times = {way: [] for way in ways}
        with torch.inference_mode():
            for i in range(repeats + 1):
                for way, work in there_and_back(ways, i):
                    times[way].append(seconds(work, device))
            for way, work in ways.items():
                memory = {"peak_mb": round(peak_bytes(work, device) / 1e6, 2), "reason": ""}
                rows.append(head | {"way": way} | summarise_times(times, way, PLAIN) | memory)
        if reason:
            rows.append(head | {"way": EXPLICIT, "reason": reason})
    return write_table(rows, f"recording-{device}")
