"""Progress with the remaining time, readable in a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator


def track(items: Iterable, total: int, label: str) -> Iterator:
    """Yield `items`, saying on stderr how many are done and how long the rest will take.

    One line that is rewritten in a terminal; elsewhere (papermill, DVC, a log) a new line every 10 seconds.
    """
    live = sys.stderr.isatty()
    began = spoken = time.monotonic()
    first = None
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        first = first or now
        if now - spoken < (0.2 if live else 10.0) and done < total:
            continue
        # The first one waited for a model to be loaded, which the others need not.
        each = (now - first) / (done - 1) if done > 1 else now - began
        left = each * (total - done)
        text = f"{label}: {done}/{total}, {each:.2f} s each, {int(left // 60)} min {int(left % 60)} s left"
        if now - began > 5 or live:
            print(
                ("\r" + text.ljust(78)) if live else text,
                end="" if live and done < total else "\n",
                file=sys.stderr,
                flush=True,
            )
        spoken = now
