"""Run one function in several processes that can average gradients, on CPU cores or one GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .cores import usable_cores
from .parent import end_with_parent

# Without these glibc returns large tensors' memory to the system after every operation; it is read at process start.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


def default_processes() -> int:
    """One process with a GPU, else one per core up to four: two single-threaded ones beat one with two threads."""
    return 1 if torch.cuda.is_available() else min(4, usable_cores())


def run(function: Callable, processes: int, /, *args, **kwargs) -> None:
    """Call `function(*args, **kwargs)` in `processes` single-threaded processes joined in a gloo group. They end with
    this call, also when Ctrl-C reaches this process alone."""
    os.environ.update(ALLOCATOR)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder, "rendezvous").as_uri()
        try:
            mp.spawn(_entry, (processes, rendezvous, function, args, kwargs), nprocs=processes)
        except KeyboardInterrupt:
            for child in mp.active_children():
                child.terminate()
            raise


def _entry(rank, processes, rendezvous, function, args, kwargs):
    end_with_parent()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes)
    try:
        function(*args, **kwargs)
    finally:
        if processes > 1:
            dist.destroy_process_group()
