"""A Dask scheduler as an executor: one task at a time in each worker, and an error instead of waiting for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager

ANSWER = 20  # seconds in which a scheduler has to answer
PATIENCE = 120  # seconds without any worker after which a run ends


class DaskExecutor(Executor):
    """Submits tasks to a Dask scheduler; `check` says whether anything is left to do them."""

    def __init__(self, client, patience: float = PATIENCE):
        self.client, self.patience, self.alone_since = client, patience, None
        self.inner = client.get_executor(pure=False)

    def submit(self, function, /, *args, **kwargs) -> Future:
        """A future of `function(*args, **kwargs)` on one of the workers."""
        return self.inner.submit(function, *args, **kwargs)

    def check(self) -> None:
        """Raise ValueError if a worker has other than one thread, or if there has been none for `patience` seconds.

        A worker process holds one pipeline, to which methods are attached: two videos in it at once would be wrong.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        if several := [name for name, worker in workers.items() if worker["nthreads"] != 1]:
            raise ValueError(
                f"the Dask worker {several[0]} has {workers[several[0]]['nthreads']} threads; start workers with "
                "`dask worker ADDRESS --nthreads 1`, one per GPU"
            )
        if workers:
            self.alone_since = None
            return
        self.alone_since = self.alone_since or time.monotonic()
        if time.monotonic() - self.alone_since >= self.patience:
            raise ValueError(
                f"the Dask scheduler has had no worker for {self.patience:.0f} s; start one with `dask worker ADDRESS "
                "--nthreads 1` in the repository's folder, and run this again: what is finished is kept"
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it: wait for what was submitted, or else cancel it."""
        if not wait or cancel_futures:
            self.inner.shutdown(wait=False)  # cancels all tasks
        else:
            self.inner.shutdown()


@contextmanager
def dask_executor(address: str, patience: float = PATIENCE) -> Iterator[DaskExecutor]:
    """The executor of a Dask scheduler at `address` (tcp://host:port). Tasks that are left are cancelled at an error.

    Raises ValueError if `distributed` is not installed, if nothing answers, or if a worker has more than one thread.
    """
    try:
        from dask.distributed import Client
    except ImportError:
        raise ValueError("--scheduler needs Dask: pip install -e '.[cluster]'") from None
    try:
        client = Client(address, timeout=ANSWER)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"no Dask scheduler answers at {address} ({said}); start one with `dask scheduler`") from None
    with client:
        executor = DaskExecutor(client, patience)
        executor.check()
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False)
            raise
        executor.shutdown()
