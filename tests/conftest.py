import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: one core each is used best
# With AMX, bfloat16 convolutions of torch 2.13 give NaN now and then for grids of one column, and fail tests of exactness.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import gc
import signal

import pytest
import torch
from hypothesis import settings

from testbed.cores import usable_cores

# Shells ignore Ctrl-C in what they start in the background, and the commands that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test-all ARGS=--hypothesis-profile=thorough` looks for examples that nobody has seen, for a quarter of an hour.
settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("quick", deadline=None, max_examples=10, derandomize=True)  # of `make test`
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("default")
torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """`-n auto`: a process per core, each of up to 2 GB."""
    return min(8, usable_cores())


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep what torch, diffusers and transformers make when they are imported out of garbage collection, meanwhile and
    afterwards: it stays, and to look through it takes a third of a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """Every AttentionCall that is computed, with its output."""
    from methods.core.attention_call import AttentionCall

    seen = []
    plain = AttentionCall.compute

    def compute(self):
        out = plain(self)
        seen.append((self, out))
        return out

    monkeypatch.setattr(AttentionCall, "compute", compute)
    return seen
