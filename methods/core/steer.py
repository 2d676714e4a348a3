"""`with steer(pipe, *methods)`: attach methods to a diffusers pipeline or transformer, and take them off again.

All methods act where query, key and value meet. While a context is open, the forward of every attention module is
wrapped: where no method is active it calls the module's own forward and nothing else; where one is, it runs it under a
function mode that rewrites `F.scaled_dot_product_attention`. A pre-hook on the transformer reads the token layout, the
denoising step and the guidance branch of each forward pass. Leaving the context puts every forward back.

What a method can do is written in `method_protocol.Method`.
"""

from __future__ import annotations

import functools
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..families import (
    Block,
    Layout,
    attention_modules,
    block_modules,
    describe,
    family_of,
    inputs_by_name,
    layout_of,
)
from .attention_call import BlockInput
from .forward_context import ForwardContext, StepCounter, read_context
from .interception import InterceptSDPA, refuse_unseen, replace_attribute


@dataclass(frozen=True)
class Attached:
    """A method on a transformer, with what the caller of `steer` said about the model.

    owner: the `with` block that attached it. steps, image_tokens: see `steer`.
    """

    owner: object
    method: object
    steps: int | None
    image_tokens: int | None


class Controller:
    """All that is attached to one transformer, and the forward pass that is running.

    called_module: what the pipeline calls, the transformer itself or its compiled version.
    in_extra_pass: a method is running the transformer once more.
    """

    def __init__(self, transformer: nn.Module, called_module: nn.Module):
        self.transformer, self.called_module, self.model = transformer, called_module, describe(transformer)
        self.attached: list[Attached] = []  # in the order in which they act
        self.pipe = lambda: None
        self.undo = ExitStack()
        self.counter = StepCounter()
        self.cache_context: str | None = None  # the name under which the pipeline runs the transformer
        self.in_extra_pass = self.blocks_wrapped = False
        self._end_pass()

    def _end_pass(self) -> None:
        self.context: ForwardContext | None = None
        self.layout: Layout | None = None
        self.block_input: BlockInput | None = None
        self.pipeline_inputs: dict | None = None  # what the pipeline gave,
        self.model_inputs: dict | None = None  # and what the transformer was given

    # Installing --------------------------------------------------------------------------------------------------
    def install(self) -> None:
        """Wrap every attention module and watch the transformer's forward."""
        refuse_unseen(self.transformer)
        for block, kind, module in attention_modules(self.transformer):
            self.undo.callback(replace_attribute(module, "forward", self._wrapped_attention(module, block, kind)))
        if hasattr(self.transformer, "cache_context"):
            self.undo.callback(replace_attribute(self.transformer, "cache_context", self._noted_cache_context()))
        for handle in (
            self.called_module.register_forward_pre_hook(self._before, with_kwargs=True),
            self.called_module.register_forward_hook(self._after, with_kwargs=True),
        ):
            self.undo.callback(handle.remove)

    def wrap_blocks(self) -> None:
        """Wrap the blocks too, for methods with `edit_block` or `reads_block_input`."""
        if not self.blocks_wrapped:
            self.blocks_wrapped = True
            for block, module in block_modules(self.transformer):
                self.undo.callback(replace_attribute(module, "forward", self._wrapped_block(module, block)))

    def _wrapped_attention(self, module, block, kind):
        original = module.forward
        sites = {"self": ["self"], "joint": ["joint"], "cross": ["image", "text"]}[kind]
        if kind == "cross" and getattr(module, "add_k_proj", None) is None:
            sites = ["text"]

        @torch.compiler.disable
        @functools.wraps(original)
        def forward(*args, **kwargs):
            if forward.bypassed:
                return original(*args, **kwargs)
            methods = {site: self._active_methods(block, site) for site in sites}
            if not any(methods.values()):
                return original(*args, **kwargs)
            where = self.model, block, self.context, self.layout_now(), self.block_input
            with InterceptSDPA(methods, *where) as intercepted:
                out = original(*args, **kwargs)
            if intercepted.count != len(sites):
                raise RuntimeError(
                    f"block {block.name}: {intercepted.count} calls of scaled dot-product attention instead of "
                    f"{len(sites)}: a cache or an attention backend kept the method from acting"
                )
            return out

        return forward

    def _wrapped_block(self, module, block):
        original = module.forward

        @torch.compiler.disable
        def edited(hidden_states, encoder_hidden_states):
            for method in [a.method for a in self.attached if hasattr(a.method, "edit_block")]:
                hidden_states = method.edit_block(
                    self.model, self.context_now(), block, self.layout_now().grid, hidden_states, encoder_hidden_states
                )
            self.block_input = BlockInput(hidden_states, encoder_hidden_states)
            return hidden_states

        @functools.wraps(original)
        def forward(hidden_states, encoder_hidden_states, *args, **kwargs):
            if not forward.bypassed:
                hidden_states = edited(hidden_states, encoder_hidden_states)
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)

        return forward

    def _active_methods(self, block: Block, site: str) -> list:
        context = self.context_now()
        return [a.method for a in self.attached if a.method.active(self.model, context, block, site)]

    def _noted_cache_context(self):
        original = self.transformer.cache_context

        @contextmanager
        def cache_context(name, **kwargs):
            self.cache_context = name
            try:
                with original(name, **kwargs):
                    yield
            finally:
                self.cache_context = None

        return cache_context

    # Each forward pass of the transformer ------------------------------------------------------------------------
    def context_now(self) -> ForwardContext:
        """The context of the forward pass that runs. Raises RuntimeError if none does."""
        if self.context is None:
            raise RuntimeError("the attention ran outside a forward of the transformer; steer before compiling it")
        return self.context

    def layout_now(self) -> Layout:
        """The layout of the forward pass that runs, worked out when a method first acts in it."""
        if self.layout is None:
            self.layout = layout_of(self.transformer, self.model_inputs, self._image_tokens())
        return self.layout

    def _image_tokens(self) -> int | None:
        stated = next((a.image_tokens for a in self.attached if a.image_tokens is not None), None)
        if stated is not None:
            return stated
        return family_of(self.transformer).image_tokens(self.transformer, self.pipe(), self.context.branch)

    def _before(self, _, args, kwargs):
        inputs = inputs_by_name(self.transformer, args, kwargs)
        if not self.in_extra_pass:
            self.context, self.pipeline_inputs = self._next_context(float(inputs["timestep"].max())), inputs
            for method in [a.method for a in self.attached if hasattr(a.method, "edit_inputs")]:
                inputs = method.edit_inputs(self.model, inputs, self.context)
        self.model_inputs, self.layout, self.block_input = inputs, None, None
        return (), inputs

    def _next_context(self, timestep: float) -> ForwardContext:
        steps = next((a.steps for a in self.attached if a.steps is not None), None)
        self.counter.advance(self.pipe(), timestep, steps)
        return read_context(self.counter, self.transformer, self.pipe(), self.cache_context, timestep)

    def _after(self, _, args, kwargs, output):
        if self.in_extra_pass:
            return None
        for method in [a.method for a in self.attached if hasattr(a.method, "edit_output")]:
            output = method.edit_output(self.model, self.pipeline_inputs, self.context, output, self._run_extra_pass)
        self._end_pass()
        return output

    def _run_extra_pass(self, inputs, branch):
        context, self.in_extra_pass = self.context, True
        self.context = replace(context, branch=branch)
        try:
            return self.called_module(**(inputs | {"return_dict": False}))[0]
        finally:
            self.context, self.in_extra_pass = context, False


_controllers: weakref.WeakKeyDictionary[nn.Module, Controller] = weakref.WeakKeyDictionary()


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
def attach(target, methods, *, steps: int | None = None, image_tokens: int | None = None):
    """Attach methods or recorders to a pipeline or transformer while the context is open; see `steer`."""
    owner, pipe = object(), None if isinstance(target, nn.Module) else target
    found = transformers_of(target)
    for transformer, _ in found:
        model = describe(transformer)
        for method in methods:
            method.check(model)
    with ExitStack() as undo:
        for method in methods:
            if hasattr(method, "watch"):
                undo.callback(method.watch(pipe))
        for transformer, called_module in found:
            controller = _controllers.get(transformer)
            if controller is None:
                controller = Controller(transformer, called_module)
                controller.install()
                _controllers[transformer] = controller
            if pipe is not None:
                controller.pipe = weakref.ref(pipe)
            controller.attached += [Attached(owner, method, steps, image_tokens) for method in methods]
            if any(hasattr(m, "edit_block") or getattr(m, "reads_block_input", False) for m in methods):
                controller.wrap_blocks()
            undo.callback(_detach, controller, owner)
        yield


def _detach(controller, owner):
    controller.attached = [a for a in controller.attached if a.owner is not owner]
    if not controller.attached:
        _controllers.pop(controller.transformer, None)
        controller.undo.close()


@contextmanager
def steer(pipe_or_transformer, *methods, steps: int | None = None, image_tokens: int | None = None):
    """Apply methods to a diffusers pipeline, or to a transformer alone, inside a `with` block.

    Scales of several methods multiply, then biases add. Contexts nest; leaving one restores the model exactly, also
    after an exception. Neutral methods and inactive steps leave the output bit-identical.

    steps: number of denoising steps, needed only for a bare transformer and a method whose window is in fractions.
    image_tokens: image tokens in HunyuanVideo's text stream, needed only without its pipeline.
    Raises TypeError for a model of another family, ValueError for a method that the model cannot have, RuntimeError for
    an attention backend or a parallel set-up whose calls cannot be seen.
    """
    with attach(pipe_or_transformer, methods, steps=steps, image_tokens=image_tokens):
        yield pipe_or_transformer
