"""What a tiny pipeline's transformer returned and what its scheduler was given, and watchers of attention calls."""

from __future__ import annotations

from contextlib import contextmanager

import torch


class Watcher:
    """Keeps every attention call with its output; in passes of other methods only if it joins them."""

    neutral = True

    def __init__(self, joins=False):
        self.seen, self.joins_extra_passes = [], joins

    def check(self, model):
        pass

    def active(self, model, context, block, site):
        return True

    def observe(self, call, out):
        self.seen.append((call, out.clone()))


@contextmanager
def watched_steps(pipe):
    """Yields (passes, steps): inputs and prediction of each pass of the transformer, and each guided prediction."""
    passes, steps, step = [], [], pipe.scheduler.step

    def noted(prediction, *args, **kwargs):
        steps.append(prediction.clone())
        return step(prediction, *args, **kwargs)

    def after(module, args, kwargs, output):
        passes.append(({k: v.clone() if torch.is_tensor(v) else v for k, v in kwargs.items()}, output[0].clone()))

    handles = [m.register_forward_hook(after, with_kwargs=True) for m in (pipe.transformer,)]
    pipe.scheduler.step = noted
    try:
        yield passes, steps
    finally:
        del pipe.scheduler.step
        for handle in handles:
            handle.remove()
