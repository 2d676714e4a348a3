"""What an attention call costs in which nothing acts, once a method is attached."""

from __future__ import annotations

import copy
import time

import diffusers
import pandas as pd
import torch
from diffusers import WanTransformer3DModel

from methods import AlignVid, steer
from methods.families import attention_modules

from .attention_cost import machine_name, there_and_back, write_table


def bench_wrapper(repeats: int = 300, layers: int = 40) -> pd.DataFrame:
    """One row, on the CPU: microseconds that a pass of a Wan of `layers` narrow blocks takes more for each of its attention
    calls when AlignVid is attached and acts in none, median and quartiles over `repeats` pairs of passes.

    What a pass costs once is in it: a model of Wan 14B's 40 blocks has 80 calls to share it. Time is that of the processor
    in one thread, to which other programs add nothing. Written to results/bench/wrapper-cpu.csv.
    """
    torch.manual_seed(0)
    plain = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=36, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=layers
    ).eval()  # fmt: skip
    models = {"plain": plain, "attached": copy.deepcopy(plain)}
    inputs = dict(hidden_states=torch.randn(1, 36, 2, 4, 4), timestep=torch.tensor([900.0]),
                  encoder_hidden_states=torch.randn(1, 8, 16))  # fmt: skip
    times = {name: [] for name in models}

    def spent(model):
        with torch.no_grad(), model.cache_context("cond"):
            began = time.thread_time()
            model(**inputs, return_dict=False)
            return time.thread_time() - began

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # At time 900, this window has not begun.
    late = AlignVid(1.35, blocks="all", window=("noise", 0.1, 0.0))
    with steer(models["attached"], late, allow_inactive=True) as steering:
        for turn in range(repeats + 1):
            for name, model in there_and_back(models, turn):
                times[name].append(spent(model))
    torch.set_num_threads(threads)
    if steering.report().acted:
        raise RuntimeError("AlignVid acted in a pass that is timed as one in which nothing acts")
    table, calls = pd.DataFrame(times).iloc[1:], len(attention_modules(plain))
    low, middle, high = ((table["attached"] - table["plain"]) / calls).quantile([0.25, 0.5, 0.75]) * 1e6
    ratio = (table["attached"] / table["plain"]).median()
    return write_table(
        [{"device": machine_name("cpu"), "threads": 1, "torch": torch.__version__,
          "diffusers": diffusers.__version__, "dtype": "float32", "setting": "AlignVid attached, nothing acts",
          "blocks": layers, "calls": calls, "pairs": repeats, "us_per_call": round(middle, 2),
          "us_per_call_low": round(low, 2), "us_per_call_high": round(high, 2), "pass_ratio": round(ratio, 4)}],
        "wrapper-cpu",
    )  # fmt: skip
