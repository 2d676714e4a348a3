"""What steering and recording cost: one transformer block at several sequence lengths, as ratios to the plain block."""

from __future__ import annotations

import platform
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch.nn.attention.flex_attention import flex_attention
from torch.overrides import TorchFunctionMode

from methods import AlignVid, DyMoS, record, steer
from methods.core.interception import SDPA_ARGUMENTS
from testbed.cores import usable_cores

from ..study import files as store
from ..study.results_layout import bench_folder

CPU_GRIDS = [(5, 8, 26), (5, 16, 26), (9, 18, 26), (21, 15, 26)]  # 1,040 to 8,190 tokens
GPU_GRIDS = [(5, 16, 26), (21, 15, 26), (21, 30, 52)]  # up to Wan at 480p, 81 frames: 32,760 tokens

EVERYWHERE = dict(window="all", blocks="all")


def machine_name(device: str) -> str:
    """The GPU's name, or the processor's and the number of its cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    name, described = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if described.exists():  # says more than `platform` does on Linux
        lines = [line.split(":", 1) for line in described.read_text().splitlines() if line.startswith("model name")]
        name = lines[0][1].strip() if lines else name
    return f"{name}, {usable_cores()} cores"


class InSelfAttention(TorchFunctionMode):
    """Other ways to add DyMoS's bias: `attend(query, key, value)` instead of SDPA where there are `length` keys."""

    def __init__(self, attend, length):
        super().__init__()
        self.attend, self.length = attend, length

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = dict(zip(SDPA_ARGUMENTS, args, strict=False)) | (kwargs or {})
        if func is not F.scaled_dot_product_attention or given["key"].shape[2] != self.length:
            return func(*args, **(kwargs or {}))
        return self.attend(given["query"], given["key"], given["value"])


def dense_mask(length, size, gamma, device, dtype):
    """The bias as an L x L mask."""
    bias = torch.zeros(length, length, device=device, dtype=dtype)
    bias[size:, :size] = -gamma
    return InSelfAttention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=bias), length)


def flex(length, size, gamma, attention=flex_attention):
    """The bias as a score_mod of FlexAttention, as the released code of DyMoS adds it."""

    def score_mod(score, b, h, q, k):
        return torch.where((q >= size) & (k < size), score - gamma, score)

    return InSelfAttention(lambda q, k, v: attention(q, k, v, score_mod=score_mod), length)


def build(grid, device, dtype):
    """(a Wan 2.1 image-to-video transformer of one block, inputs) whose video has `grid` tokens."""
    heads, size = (40, 128) if device == "cuda" else (4, 64)
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=size, in_channels=36, out_channels=16,
        text_dim=64, freq_dim=64, ffn_dim=heads * size * 27 // 10, num_layers=1, image_dim=64, added_kv_proj_dim=heads * size,
    ).to(device, dtype).eval()  # fmt: skip
    f, h, w = grid
    inputs = dict(
        hidden_states=torch.randn(1, 36, f, 2 * h, 2 * w), timestep=torch.tensor([900.0]),
        encoder_hidden_states=torch.randn(1, 512, 64), encoder_hidden_states_image=torch.randn(1, 257, 64),
    )  # fmt: skip
    return model, {k: v.to(device, dtype if k != "timestep" else torch.float32) for k, v in inputs.items()}


def bench_attention(repeats: int = 7, grids: list[tuple[int, int, int]] | None = None) -> pd.DataFrame:
    """A row per length and setting: milliseconds of one forward, its ratio to the plain one with its quartiles (over
    `repeats` interleaved rounds), and on a GPU the peak memory ratio. Written to results/bench/attention-<device>.csv.

    grids: token grids (frames, rows, columns) instead of those of the device.
    """
    device = this_device()
    dtype, machine = torch.bfloat16 if device == "cuda" else torch.float32, machine_name(device)
    rows = []
    for grid in grids or (GPU_GRIDS if device == "cuda" else CPU_GRIDS):
        model, inputs = build(grid, device, dtype)
        length, size = grid[0] * grid[1] * grid[2], grid[1] * grid[2]
        settings = {
            "plain": nullcontext,
            "AlignVid, gamma 1": lambda m=model: steer(m, AlignVid(1.0, **EVERYWHERE)),
            "AlignVid": lambda m=model: steer(m, AlignVid(1.35, **EVERYWHERE)),
            "AlignVid, self-attention too": lambda m=model: steer(
                m, AlignVid(1.35, sites=("q_image", "k_text", "self"), **EVERYWHERE)
            ),
            "DyMoS": lambda m=model: steer(m, DyMoS(0.6, window="all")),
            "record, 16 queries a frame": lambda m=model: record(m, queries=16),
            "record, all queries": lambda m=model: record(m),
            # Made anew in every round: a mask that stays would count as memory of the other settings.
            "DyMoS as an L x L mask": lambda n=length, s=size: dense_mask(n, s, 0.6, device, dtype),
        }
        if device == "cuda":
            compiled = flex(length, size, 0.6, torch.compile(flex_attention, dynamic=False))
            settings["DyMoS by FlexAttention"] = lambda m=compiled: m
        times = {name: [] for name in settings}
        memory = {}
        for i in range(repeats + 1):
            for name, context in there_and_back(settings, i):
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                with context(), torch.inference_mode():
                    times[name].append(seconds(lambda m=model, x=inputs: m(**x), device))
                memory[name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        for name in settings:
            row = {"device": machine, "threads": torch.get_num_threads(), "tokens": length, "setting": name}
            row |= summarise_times(times, name, "plain")
            rows.append(row | {"memory_ratio": round(memory[name] / memory["plain"], 3) if device == "cuda" else ""})
    return write_table(rows, f"attention-{device}")


def this_device() -> str:
    """Where to measure: "cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def there_and_back(ways: dict, turn: int) -> list[tuple]:
    """The items in order at even turns and backwards at odd ones: a machine that slows down slows no way more."""
    return list(ways.items())[:: -1 if turn % 2 else 1]


def seconds(work, device: str) -> float:
    """Time of `work()` until the device has done it."""
    _synchronise(device)
    began = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def summarise_times(times: dict[str, list[float]], name: str, plain: str) -> dict:
    """Median milliseconds of `name`, median and quartiles of its ratio to `plain` within each round. times: seconds per
    round, of which the first only warms up."""
    table = pd.DataFrame(times).iloc[1:]
    low, middle, high = (table[name] / table[plain]).quantile([0.25, 0.5, 0.75])
    ratios = {"ratio": round(middle, 4), "ratio_low": round(low, 4), "ratio_high": round(high, 4)}
    return {"ms": round(1000 * table[name].median(), 3)} | ratios


def write_table(rows: list[dict], name: str) -> pd.DataFrame:
    """The rows as a table, written to results/bench/<name>.csv."""
    result = pd.DataFrame(rows)
    store.write_table(result, bench_folder() / f"{name}.csv")
    return result
