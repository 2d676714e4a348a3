"""Worker processes that end with the command that started them: at Ctrl-C, at an error, and when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from testbed.cores import usable_cores


def worker_pool(count: int | None = None, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of `count` spawned processes, by default one per core, each of which calls `initializer` first. Enter it
    through `stopping`. A process starts with the first task, so a pool without tasks costs nothing."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count or usable_cores(), context, initializer=_start, initargs=(initializer,))


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
        if not isinstance(error, Exception):
            for child in multiprocessing.active_children():
                child.terminate()
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


def _start(initializer: Callable[[], None] | None) -> None:
    # The terminal sends Ctrl-C to every process of the group. Here it would be the result of one task, and the next
    # one would start.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    # A pool whose parent was killed would wait for tasks forever.
    multiprocessing.parent_process().join()
    os._exit(1)
