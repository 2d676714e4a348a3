"""All that is attached to one transformer: its attention and its forward passes, watched while a context is open."""

from __future__ import annotations

import inspect
import threading
import weakref
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

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
from .backends import native_attention, unseen_backend
from .caches import cache_hooks, refuse_shared_caches, restore_context
from .forward_context import ForwardContext, StepCounter, UnknownBranch, read_context
from .interception import InterceptSDPA, Wrapper, refuse_unseen, replace_attribute


@dataclass(frozen=True)
class Attached:
    """A method on a transformer, with what the caller of `steer` said about the model.

    steering: the `with` block that attached it. pipe: a weak reference to the pipeline that was steered, or None.
    steps, image_tokens, branches: see `steer`.
    """

    steering: object
    method: object
    name: str
    pipe: object = None
    steps: int | None = None
    image_tokens: int | None = None
    branches: tuple[str, ...] | None = None


class Controller:
    """All that is attached to one transformer, and the forward pass that is running.

    called_module: what the pipeline calls, the transformer itself or its compiled version.
    in_extra_pass: a method is running the transformer once more; alone: the method that acts in it by itself, if one does.
    entered: (position of the block, attribute) of the attention modules that the pass has run.
    """

    def __init__(self, transformer: nn.Module, called_module: nn.Module):
        self.transformer, self.called_module = transformer, called_module
        self.family, self.attentions = family_of(transformer), attention_modules(transformer)
        self.attached: list[Attached] = []  # in the order in which they act
        self.undo = ExitStack()
        self.counter = StepCounter()
        self.cache_context: str | None = None  # the name under which the pipeline runs the transformer
        self.in_extra_pass = self.blocks_wrapped = False
        self.alone = self.thread = None
        self._end_pass()

    def __deepcopy__(self, memo):
        return self  # hooks that were copied with the transformer; they look whose they are

    def _end_pass(self) -> None:
        self.context: ForwardContext | None = None
        self.layout: Layout | None = None
        self.block_input: BlockInput | None = None
        self.pipeline_inputs: dict | None = None  # what the pipeline gave,
        self.model_inputs: dict | None = None  # and what the transformer was given
        self.prediction: torch.Tensor | None = None  # what the transformer itself returned, before methods edit it
        self.entered: set[tuple[int, str]] = set()

    @property
    def pipe(self):
        """The pipeline that the innermost context with one was opened for; None for a bare transformer."""
        return next((a.pipe() for a in reversed(self.attached) if a.pipe is not None and a.pipe() is not None), None)

    @property
    def model(self):
        """What methods may ask about the transformer."""
        return describe(self.transformer, self.pipe)

    # Installing --------------------------------------------------------------------------------------------------
    def install(self) -> None:
        """Wrap every attention module and watch the transformer's forward."""
        refuse_unseen(self.transformer)
        for block, kind, module in self.attentions:
            self.undo.callback(replace_attribute(module, "forward", self._wrapped_attention(module, block, kind)))
        if hasattr(self.transformer, "cache_context"):
            self.plain_cache_context = self.transformer.cache_context
            self.undo.callback(replace_attribute(self.transformer, "cache_context", self._noted_cache_context))
        for handle in (
            self.called_module.register_forward_pre_hook(self._before, with_kwargs=True),
            self.called_module.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ):
            self.undo.callback(handle.remove)

    def wrap_blocks(self) -> None:
        """Wrap the blocks too, for methods with `edit_block`, `skip_block` or `reads_block_input`."""
        if not self.blocks_wrapped:
            self.blocks_wrapped = True
            for block, module in block_modules(self.transformer):
                self.undo.callback(replace_attribute(module, "forward", self._wrapped_block(module, block)))

    def _wrapped_attention(self, module, block, kind):
        original, sites = module.forward, sites_of(module, kind)

        @torch.compiler.disable
        def forward(*args, **kwargs):
            self.entered.add((block.index, kind))
            active = {site: self._active(block, site) for site in sites}
            acting = any(active.values())
            if acting and (block.index, kind) in self.family.left_out(self.transformer, self.model_inputs):
                return original(*args, **kwargs)
            backend = unseen_backend(module)
            self._count(block, active, backend, acting)
            if not acting:
                return original(*args, **kwargs)
            methods = {site: [a.method for a in found] for site, found in active.items()}
            where = self.model_now, block, self.context, self.layout_now(), self.block_input, self.model_inputs
            native = native_attention(module) if backend else nullcontext()
            with native, InterceptSDPA(module, methods, *where) as intercepted:
                out = original(*args, **kwargs)
            if intercepted.count != len(sites):
                raise RuntimeError(
                    f"block {block.name}: {intercepted.count} calls of scaled dot-product attention instead of "
                    f"{len(sites)}: a cache or an attention backend kept {acting_names(active)} from acting"
                    f"{cache_hooks(self.transformer)}"
                )
            return out

        return forward

    def _count(self, block, active, backend, acting) -> None:
        context, branch = self.context, self._pass_name()
        for steering in {a.steering for a in self.attached}:
            report = steering.counts
            for site, found in active.items():
                report.seen[context.step, context.steps, block.name, site, branch] += 1
                for a in found:
                    if a.steering is steering:
                        report.acted[a.name, context.step, block.name, site, branch] += 1
            if backend:
                (report.made_native if acting else report.left_alone)[backend] += 1

    def _note(self, attached: Attached, site: str) -> None:
        """Count an edit of what the transformer was given ("input") or returned ("output")."""
        attached.steering.counts.acted[attached.name, self.context.step, "", site, self._pass_name()] += 1

    def _pass_name(self) -> str:
        """What the report calls the pass that runs: an extra pass by its name, another by its branch."""
        return self.context.extra or (self.context.branch if self._branch_known else "?")

    def _wrapped_block(self, module, block):
        original = module.forward

        @torch.compiler.disable
        def edited(hidden_states, encoder_hidden_states):
            for a in self._acting("edit_block"):
                new = a.method.edit_block(
                    self.model_now,
                    self.context_now(),
                    block,
                    self.layout_now().grid,
                    hidden_states,
                    encoder_hidden_states,
                )
                if new is not hidden_states:
                    self._note(a, "input")
                hidden_states = new
            self.block_input = BlockInput(hidden_states, encoder_hidden_states)
            return hidden_states

        @torch.compiler.disable
        def skipped():
            found = [
                a for a in self._acting("skip_block") if a.method.skip_block(self.model_now, self.context_now(), block)
            ]
            for a in found:
                self._note(a, "input")
            self.entered.update((block.index, kind) for kind in self.family.attention.values() if found)
            return bool(found)

        names = list(inspect.signature(type(module).forward).parameters)[1:]
        video, text = self.family.block_inputs

        def forward(*args, **kwargs):
            inputs = dict(zip(names, args, strict=False)) | kwargs
            inputs[video] = edited(inputs[video], inputs[text])
            if skipped():
                left = tuple(inputs[name] for name in self.family.block_outputs)
                return left if len(left) > 1 else left[0]
            return original(**inputs)

        return forward

    def _acting(self, hook: str) -> list[Attached]:
        """What is attached, has a hook of that name and may act in this pass."""
        return [a for a in self.attached if hasattr(a.method, hook) and self._takes_part(a.method)]

    def _takes_part(self, method) -> bool:
        return self.alone is None or method is self.alone or getattr(method, "joins_extra_passes", False)

    def _active(self, block: Block, site: str) -> list[Attached]:
        context = self.context_now()
        return [
            a for a in self.attached
            if self._takes_part(a.method) and a.method.active(self.model_now, context, block, site)
        ]  # fmt: skip

    @contextmanager
    def _noted_cache_context(self, name, **kwargs):
        self.cache_context, self.cache_arguments = name, kwargs
        try:
            with self.plain_cache_context(name, **kwargs):
                yield
        finally:
            self.cache_context = None

    # Each forward pass of the transformer ------------------------------------------------------------------------
    def context_now(self) -> ForwardContext:
        """The context of the forward pass that runs. Raises RuntimeError if none does."""
        if self.context is None:
            raise RuntimeError("the attention ran outside a forward of the transformer; steer before compiling it")
        return self.context

    def layout_now(self) -> Layout:
        """The layout of the forward pass that runs, worked out when a method first acts in it."""
        if self.layout is None:
            stated = next((a.image_tokens for a in self.attached if a.image_tokens is not None), None)
            if stated is None:
                branch = self.context_now().branch if self._branch_known else "cond"
                stated = self.family.image_tokens(self.transformer, self.pipe, branch)
            self.layout = layout_of(self.transformer, self.model_inputs, stated, self.pipe)
        return self.layout

    def _before(self, module, args, kwargs):
        if module is not self.called_module:  # a copy, which is not steered
            return None
        inputs = inputs_by_name(self.transformer, args, kwargs)
        self.entered = set()
        if not self.in_extra_pass:
            if self.context is not None and self.thread != threading.get_ident():
                raise RuntimeError(
                    "two threads run one steered transformer at the same time: give each thread a pipeline of its own"
                )
            self.thread = threading.get_ident()
            self._refuse_recomputing()
            self.model_now = self.model
            self._read_context(inputs)
            self.pipeline_inputs = inputs
            for a in self._acting("edit_inputs"):
                new = a.method.edit_inputs(self.model_now, inputs, self.context)
                if new is not inputs:
                    self._note(a, "input")
                inputs = new
        self.model_inputs, self.layout, self.block_input = inputs, None, None
        return (), inputs

    def _read_context(self, inputs: dict) -> None:
        """Set the context of the pass that begins."""
        pipe, name = self.pipe, self.cache_context
        time = float(inputs["timestep"].max()) * self.family.time_scale
        steps = next((a.steps for a in self.attached if a.steps is not None), None)
        branches = next((a.branches for a in self.attached if a.branches is not None), None)
        self.counter.advance(pipe, time, steps, name, branches)
        self.context = read_context(self.counter, self.transformer, pipe, name, time, branches)
        self._branch_known = not isinstance(self.context, UnknownBranch)

    def _refuse_recomputing(self) -> None:
        keeps = any(getattr(a.method, "keeps_context", False) for a in self.attached)
        if torch.is_grad_enabled() and getattr(self.transformer, "gradient_checkpointing", False) and not keeps:
            raise RuntimeError(
                "gradient checkpointing computes blocks a second time, after the forward in which a method acts has ended, "
                "and gradients would be those of another function: call transformer.disable_gradient_checkpointing()"
            )

    def _after(self, module, args, kwargs, output):
        if module is not self.called_module or self.in_extra_pass or self.thread != threading.get_ident():
            if module is self.called_module and self.in_extra_pass and output is not None:
                self._check_entered()
            return None
        if output is None or self.context is None:  # the forward ended with an exception
            self._end_pass()
            return None
        self._check_entered()
        edited = self.model_inputs
        self.prediction = output if torch.is_tensor(output) else output[0]
        for a in self._acting("edit_output"):

            def run(inputs, branch, name=None, *, method=a.method):
                return self._run_extra_pass(method, inputs, branch, name)

            run.controller, run.edited_inputs = self, edited
            new = a.method.edit_output(self.model_now, self.pipeline_inputs, self.context, output, run)
            if new is not output:
                self._note(a, "output")
            output = new
        self._end_pass()
        return output

    def _check_entered(self) -> None:
        """Raise RuntimeError if the pass did not run an attention in which a method was to act."""
        away = [(b, kind, m) for b, kind, m in self.attentions if (b.index, kind) not in self.entered]
        left_out = self.family.left_out(self.transformer, self.model_inputs) if away else ()
        for block, kind, module in away:
            due = {site: self._active(block, site) for site in sites_of(module, kind)}
            if (block.index, kind) in left_out or not any(due.values()):
                continue
            reason = "the forward of its attention was put back by another library while the context was open"
            if isinstance(module.__dict__.get("forward"), Wrapper) or module.__dict__.get("forward") is None:
                reason = "a cache or another hook skipped it" if cache_hooks(self.transformer) else "it was not run"
            raise RuntimeError(
                f"block {block.name} was passed over in step {self.context.step}, where {acting_names(due)} had to act: "
                f"{reason}{cache_hooks(self.transformer)}. Take it off before the context is opened"
            )

    def _run_extra_pass(self, method, inputs, branch, name):
        """One more pass of the transformer, see `method_protocol.Method.edit_output`."""
        refuse_shared_caches(self.transformer)
        before = self.context, self.alone, self.entered, self.model_inputs, self.layout
        self.in_extra_pass, self.alone = True, method if name is not None else None
        c = self.context
        self.context = ForwardContext(c.step, c.steps, c.timestep, branch, c.guidance, c.pipe, name or c.extra)
        try:
            with self._cache_of_its_own(name or f"extra {branch}"):
                out = self.called_module(**(inputs | {"return_dict": False}))
                return out[0] if isinstance(out, tuple) else out  # Kandinsky's gives the tensor
        finally:
            self.in_extra_pass = False
            self.context, self.alone, self.entered, self.model_inputs, self.layout = before

    @contextmanager
    def _cache_of_its_own(self, name: str):
        """Caches keep what they hold by the name of the pass: an extra pass must not move those of the ordinary ones."""
        if not hasattr(self, "plain_cache_context"):
            yield
            return
        with self.plain_cache_context(name):
            yield
        if self.cache_context is not None:  # what the pipeline had set
            restore_context(self.transformer, self.cache_context, self.cache_arguments)


def sites_of(module: nn.Module, kind: str) -> list[str]:
    """The sites of an attention module in the order in which it computes them."""
    if kind != "cross":
        return [kind]
    return ["text"] if getattr(module, "add_k_proj", None) is None else ["image", "text"]


def acting_names(active: dict[str, list[Attached]]) -> str:
    """Names of the methods of `active`, once each."""
    return ", ".join(dict.fromkeys(a.name for found in active.values() for a in found))


controllers: weakref.WeakKeyDictionary[nn.Module, Controller] = weakref.WeakKeyDictionary()
