"""Worker processes that end with the command that started them: at Ctrl-C, at an error, and when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker

from testbed.cores import usable_cores
from testbed.parent import end_with_parent


class _Pool(ProcessPoolExecutor):
    def submit(self, *args, **kwargs) -> Future:
        # The terminal sends Ctrl-C to every process of the group. In a worker it would be the result of one task, and the next
        # one would start; so processes, which start here, inherit that it is blocked.
        resource_tracker.ensure_running()  # it is started with the first process otherwise, and unblocks
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_pool(count: int | None = None, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of `count` spawned processes, by default one per core, each of which calls `initializer` first. Enter it
    through `stopping`. A process starts with the first task, so a pool without tasks costs nothing."""
    context = multiprocessing.get_context("spawn")
    return _Pool(count or usable_cores(), context, initializer=_start, initargs=(initializer,))


def gpu_pool(gpus: list[str], count: int | None = None) -> ProcessPoolExecutor:
    """A pool of `count` processes, by default one per GPU, each of which sees one GPU of its own. gpus: what names each in
    CUDA_VISIBLE_DEVICES, see `visible_gpus`. Raises ValueError for more processes than GPUs."""
    if (count or len(gpus)) > len(gpus):
        raise ValueError(f"--workers is {count}; there {'is' if len(gpus) == 1 else 'are'} {len(gpus)} GPU"
                         f"{'s' if len(gpus) > 1 else ''}, and each worker needs one")  # fmt: skip
    free = multiprocessing.get_context("spawn").SimpleQueue()
    for gpu in gpus:
        free.put(gpu)
    return worker_pool(count or len(gpus), partial(_take_gpu, free))


def visible_gpus(count: int) -> list[str]:
    """What names each of `count` GPUs of this process in CUDA_VISIBLE_DEVICES: its entries where it is set, as Slurm does
    (numbers, or UUIDs of GPUs and MIG slices), else 0, 1 ..."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def _take_gpu(free) -> None:
    # Before anything of torch is used, which counts the GPUs once.
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()


@contextmanager
def stopping(executor: Executor) -> Iterator[Executor]:
    """Wait for the tasks of `executor` at the end of the block; drop those that are queued if the block raises.

    `Executor` itself waits for the whole queue even then. Local processes that are at work end at once at Ctrl-C, since
    a video of a large model takes minutes and files are moved into place when they are complete; after an error they
    finish their task.
    """
    try:
        yield executor
    except BaseException as error:
        if not isinstance(executor, ProcessPoolExecutor):
            executor.shutdown(wait=False)  # Dask cancels all tasks by it
            raise
        executor.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        if not isinstance(error, Exception):
            time.sleep(
                0.5
            )  # for its thread to drop the queue: it takes ended processes with cancelled tasks for a fault
            for child in multiprocessing.active_children():
                child.terminate()
                child.join()
        raise
    executor.shutdown()


def _start(initializer: Callable[[], None] | None) -> None:
    end_with_parent()
    if initializer is not None:
        initializer()
