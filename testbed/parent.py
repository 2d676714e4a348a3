"""A process that ends with the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, however that ended. Left alone, a pool whose parent was killed waits for
    tasks forever, and a training goes on beside the next one."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
