"""`with steer(pipe, *methods)`: attach methods to a diffusers pipeline or transformer, and take them off again.

All methods act where query, key and value meet. While a context is open, the forward of every attention module is
wrapped: where no method is active it calls the module's own forward and nothing else; where one is, it runs it under a
function mode that rewrites `F.scaled_dot_product_attention`. A pre-hook on the transformer reads the token layout, the
denoising step and the guidance branch of each forward pass. Leaving the context puts every forward back.

What a method can do is written in `method_protocol.Method`; the work is done by a `controller.Controller` per transformer.
A method is never silently off: a pass that does not run an attention in which one was to act raises, and so does a call of
the pipeline in which a method never acted.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import Counter
from contextlib import ExitStack, contextmanager

from torch import nn

from ..families import describe, family_of
from .controller import Attached, Controller, controllers
from .interception import replace_attribute
from .report import Report


class Steering:
    """One open context. `report()` says where each method acted so far, `target` is the pipeline or transformer."""

    def __init__(self, target, methods, allow_inactive: bool):
        self.target, self.allow_inactive = target, allow_inactive
        self.names = method_names(methods)
        self.methods = dict(zip(self.names, methods, strict=True))
        self.counts = Report(tuple(self.names))
        self._before = Counter()
        self._seen_before = 0

    def report(self) -> Report:
        """Where each method acted, and what was seen: a `Report`, which prints as text."""
        return self.counts

    def end_of_call(self, pipe=None) -> None:
        """Raise RuntimeError if a method never acted since the last time this was asked, though a forward pass ran."""
        acted = Counter()
        for (name, *_), n in self.counts.acted.items():
            acted[name] += n
        seen = sum(self.counts.seen.values())
        idle = [n for n in self.names if acted[n] == self._before[n] and not is_neutral(self.methods[n])]
        ran, self._before, self._seen_before = seen > self._seen_before, acted, seen
        if not idle or self.allow_inactive or getattr(pipe, "_interrupt", False):
            return
        if not ran and pipe is not None:
            raise RuntimeError(
                f"the pipeline ran without the transformer that is steered: {', '.join(idle)} never acted. Was "
                "pipe.transformer replaced while the context was open?"
            )
        if ran:
            steps = sorted({key[1] for key in self.counts.seen if key[1] is not None})
            raise RuntimeError(
                f"{idle[0]} never acted in this run"
                + (f" of {steps[-1]} steps" if steps else "")
                + f": {self.methods[idle[0]]} says when and where; blocks seen are "
                f"{', '.join(dict.fromkeys(key[2] for key in self.counts.seen))}. Give it a wider window or other blocks, "
                "or allow it by steer(..., allow_inactive=True)"
            )


def method_names(methods) -> list[str]:
    """A name for each method of a context: its class's, numbered if there are several of a class."""
    kinds = [type(m).__name__ for m in methods]
    return [k if kinds.count(k) == 1 else f"{k} {kinds[: i + 1].count(k)}" for i, k in enumerate(kinds)]


def is_neutral(method) -> bool:
    """Whether a method's settings say that it changes nothing."""
    return bool(getattr(method, "neutral", False))


def transformers_of(target) -> list[tuple[nn.Module, nn.Module]]:
    """(transformer, the module that is called) of a pipeline (both experts of Wan 2.2 A14B) or of a transformer."""
    parts = [target] if isinstance(target, nn.Module) else [
        getattr(target, name, None) for name in ("transformer", "transformer_2")
    ]  # fmt: skip
    found = [(getattr(p, "_orig_mod", p), p) for p in parts if isinstance(p, nn.Module)]
    if not found:
        raise TypeError(f"steer takes a diffusers pipeline with a transformer, or a transformer, not {type(target)}")
    return found


@contextmanager
def attach(target, methods, *, steps=None, image_tokens=None, branches=None, allow_inactive=False):
    """Attach methods or recorders to a pipeline or transformer while the context is open; see `steer`."""
    methods, pipe = list(methods), None if isinstance(target, nn.Module) else target
    found = transformers_of(target)
    if branches is not None and (not branches or any(b not in ("cond", "uncond", "both") for b in branches)):
        raise ValueError(f'branches {branches!r}: allowed are "cond", "uncond" and "both", in the order of the calls')
    for transformer, _ in found:
        model = describe(transformer, pipe)
        for method in methods:
            method.check(model)
            _refuse_twice(method, methods, transformer)
    steering = Steering(target, methods, allow_inactive)
    with ExitStack() as undo:
        watched = _watch_calls(pipe, steering, undo)
        for method in methods:
            if hasattr(method, "watch"):
                undo.callback(method.watch(pipe))
        for transformer, called_module in found:
            _attach_to(transformer, called_module, steering, pipe, undo, steps, image_tokens, branches)
        yield steering
        if not watched and pipe is not None:
            steering.end_of_call()
        elif pipe is None and not allow_inactive:
            try:
                steering.end_of_call()
            except RuntimeError as error:
                warnings.warn(str(error), stacklevel=4)


def _attach_to(transformer, called_module, steering, pipe, undo, steps, image_tokens, branches) -> None:
    controller = controllers.get(transformer)
    if controller is None:
        controller = Controller(transformer, called_module)
        controller.install()
        controllers[transformer] = controller
    elif controller.called_module is not called_module:
        raise RuntimeError("the transformer was compiled while it was steered: compile it before, or leave the context")
    reference = None if pipe is None else weakref.ref(pipe)
    controller.attached += [
        Attached(steering, method, name, reference, steps, image_tokens, branches)
        for name, method in steering.methods.items()
    ]
    undo.callback(_detach, controller, steering)
    if pipe is not None:
        undo.callback(family_of(transformer).watch(pipe))
    hooks = ("edit_block", "skip_block")
    if any(hasattr(m, h) for m in steering.methods.values() for h in hooks) or any(
        getattr(m, "reads_block_input", False) for m in steering.methods.values()
    ):
        controller.wrap_blocks()


def _watch_calls(pipe, steering, undo) -> bool:
    """Ask at the end of every call of a pipeline whether each method acted. False if the pipeline has no such end."""
    free = getattr(pipe, "maybe_free_model_hooks", None)  # the last thing that a pipeline does
    if free is None or not hasattr(pipe, "__dict__"):
        return False

    def ended(*args, **kwargs):
        out = free(*args, **kwargs)
        if sys.exc_info()[0] is None:
            steering.end_of_call(pipe)
        return out

    undo.callback(replace_attribute(pipe, "maybe_free_model_hooks", ended))
    return True


def _refuse_twice(method, methods, transformer) -> None:
    """Raise ValueError for a method that cannot act twice and is attached already."""
    if getattr(method, "once", False):
        controller = controllers.get(transformer)
        there = [a.method for a in controller.attached] if controller is not None else []
        if (there + methods).count(method) > 1:
            raise ValueError(f"the same {type(method).__name__} is attached already, and it cannot act twice")


def _detach(controller, steering):
    controller.attached = [a for a in controller.attached if a.steering is not steering]
    if not controller.attached:
        controllers.pop(controller.transformer, None)
        controller.undo.close()


@contextmanager
def steer(
    pipe_or_transformer,
    *methods,
    steps: int | None = None,
    image_tokens: int | None = None,
    branches: tuple[str, ...] | None = None,
    allow_inactive: bool = False,
):
    """Apply methods to a diffusers pipeline, or to a transformer alone, inside a `with` block.

    Scales of several methods multiply, then biases add, then outputs are edited in the order of the methods. Contexts
    nest; leaving one restores the model exactly, also after an exception. Neutral methods and inactive steps leave the
    output bit-identical. Steering belongs to the transformer, so two pipelines that share one are both steered.

    steps: number of denoising steps, needed only for a bare transformer and a method whose window is in fractions.
    image_tokens: image tokens in HunyuanVideo's text stream, needed only without its pipeline.
    branches: what the calls of one step are, in order, for a loop of one's own that does not name them by
        `transformer.cache_context`: ("cond",), ("cond", "uncond"), ("both",).
    allow_inactive: a call of the pipeline in which a method never acts is no error.
    Yields a `Steering`, whose `report()` says where each method acted.
    Raises TypeError for a model of another family; ValueError for a method that the model cannot have; RuntimeError for a
    parallel set-up whose tokens are spread out, for a pass in which something kept a method from acting, and at the end of
    a call of the pipeline in which a method never acted.
    """
    with attach(
        pipe_or_transformer, methods, steps=steps, image_tokens=image_tokens, branches=branches,
        allow_inactive=allow_inactive,
    ) as steering:  # fmt: skip
        yield steering
