"""Worker processes that end with the command that started them: at Ctrl-C, at an error, and when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker

from testbed.cores import usable_cores


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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    # A pool whose parent was killed would wait for tasks forever.
    multiprocessing.parent_process().join()
    os._exit(1)
