"""`with steer(pipe, *methods)`: put methods on a diffusers pipeline or transformer, and take them off again.

All methods act where query, key and value meet. While a context is open, the forward of every attention module is
wrapped: a module in which no method is active calls its own forward and nothing else; an active one runs it under a
function mode that rewrites `F.scaled_dot_product_attention`. A pre-hook on the transformer reads the token layout, the
denoising step and the guidance branch of each call. Leaving the context puts every forward back.

To write a method: a frozen dataclass with
    check(model)                          raise ValueError if it cannot work on this Model
    active(model, moment, block, site)    does it act there now? False must mean: changes nothing
    edit(call)                            change an AttentionCall
A method may also change the video tokens that enter a block (Wan, CogVideoX), and what the transformer is given and returns:
    edit_block(model, moment, block, grid, hidden, context) -> hidden
        hidden (B, L, C), context: the image and text tokens that the block is given; grid: latent frames, rows and columns of tokens
    edit_inputs(model, inputs, moment) -> inputs
    edit_output(model, inputs, moment, output, run) -> output
        inputs are those the pipeline gave; run(inputs, branch) calls the transformer once more, returns its prediction
    watch(pipe) -> undo                   called once when a pipeline is steered
"""

from __future__ import annotations

import functools
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from .attention_call import AttentionCall, Moment, guided
from .token_layout import COGVIDEOX, FRAMEPACK, HUNYUAN, WAN, Block, Layout, bind, blocks_of, layout_of

BACKENDS = {"native", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn"}  # all end in SDPA
SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclass(frozen=True)
class Model:
    """What a method may ask about the transformer it is put on.

    sites: "self", "image" and "text" or "joint"; groups: names of methods.layout.GROUPS that its keys can belong to.
    """

    transformer: nn.Module
    family: str
    blocks: tuple[Block, ...]
    sites: frozenset[str]
    groups: frozenset[str]
    image_to_video: bool


def describe(transformer: nn.Module) -> Model:
    """The Model of a transformer. Raises TypeError for a class outside the five families."""
    found, config, family = blocks_of(transformer), transformer.config, type(transformer).__name__
    groups, conditioned = {"text", "video"}, True
    if family == WAN:
        # One 5B model serves both tasks: whether a reference is given shows only in the call.
        conditioned = config.in_channels > config.out_channels or config.in_channels == 48
        image = config.added_kv_proj_dim is not None
        groups |= {"text_padding"} | ({"image"} if image else set())
        sites = {"self", "text"} | ({"image"} if image else set())
    else:
        sites = {"joint"}
        if family == HUNYUAN:
            conditioned = config.image_condition_type is not None
        elif family == COGVIDEOX:
            conditioned = config.in_channels > config.out_channels
        if family != COGVIDEOX:
            groups |= {"text_padding"} | ({"image"} if conditioned else set())
        if family == FRAMEPACK:
            groups |= {"history"}
    if conditioned:
        groups |= {"reference"}
    blocks = tuple(dict.fromkeys(b for b, _, _ in found))
    return Model(transformer, family, blocks, frozenset(sites), frozenset(groups), conditioned)


class Controller:
    """All that is attached to one transformer: methods and recorders in order, the wrapped forwards, the last call."""

    def __init__(self, transformer: nn.Module, entrance: nn.Module):
        self.transformer, self.entrance, self.model = transformer, entrance, describe(transformer)
        self.entries: list[tuple[object, object, int | None, int | None]] = []  # (owner, method, steps, image tokens)
        self.pipe = lambda: None
        self.undo = ExitStack()
        self.layout: Layout | None = None
        self.moment: Moment | None = None
        self.context: str | None = None
        self.given: dict | None = None  # what the pipeline gave in this call, and
        self.inputs: dict | None = None  # what the transformer got
        self.inside = self.blocks_wrapped = False  # inside: a method is running the transformer once more
        self.last_time, self.step, self.calls_at_step, self.grid_of_times = None, -1, 0, None

    # Installing --------------------------------------------------------------------------------------------------
    def install(self) -> None:
        refuse_unseen(self.transformer)
        for block, kind, module in blocks_of(self.transformer):
            self.undo.callback(replace_attribute(module, "forward", self._wrapped(module, block, kind)))
        if hasattr(self.transformer, "cache_context"):
            self.undo.callback(replace_attribute(self.transformer, "cache_context", self._context_noted()))
        for handle in (
            self.entrance.register_forward_pre_hook(self._before, with_kwargs=True),
            self.entrance.register_forward_hook(self._after, with_kwargs=True),
        ):
            self.undo.callback(handle.remove)

    def wrap_blocks(self) -> None:
        """Wrap the blocks too, for methods with edit_block."""
        if not self.blocks_wrapped:
            self.blocks_wrapped = True
            name = "blocks" if self.model.family == WAN else "transformer_blocks"
            for index, module in enumerate(getattr(self.transformer, name)):
                wrapped = self._wrapped_block(module, self.model.blocks[index])
                self.undo.callback(replace_attribute(module, "forward", wrapped))

    def _wrapped_block(self, module, block):
        original = module.forward

        @torch.compiler.disable
        def edited(hidden, context):
            for _, method, *_ in self.entries:
                if hasattr(method, "edit_block"):
                    grid = self.layout_now().grid
                    hidden = method.edit_block(self.model, self.moment_now(), block, grid, hidden, context)
            return hidden

        @functools.wraps(original)
        def forward(hidden_states, encoder_hidden_states, *args, **kwargs):
            if not forward.dead:
                hidden_states = edited(hidden_states, encoder_hidden_states)
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)

        return forward

    def _wrapped(self, module, block, kind):
        original = module.forward
        sites = {"self": ["self"], "joint": ["joint"], "cross": ["image", "text"]}[kind]
        if kind == "cross" and getattr(module, "add_k_proj", None) is None:
            sites = ["text"]

        @torch.compiler.disable
        @functools.wraps(original)
        def forward(*args, **kwargs):
            if forward.dead or not any(self._active(block, site) for site in sites):
                return original(*args, **kwargs)
            with Tap(self, block, sites) as tap:
                out = original(*args, **kwargs)
            if tap.count != len(sites):
                raise RuntimeError(
                    f"block {block.name}: {tap.count} calls of scaled dot-product attention instead of {len(sites)}: a "
                    "cache or an attention backend kept the method from acting"
                )
            return out

        return forward

    def _active(self, block: Block, site: str) -> list:
        return [e[1] for e in self.entries if e[1].active(self.model, self.moment_now(), block, site)]

    def _context_noted(self):
        original = self.transformer.cache_context

        @contextmanager
        def cache_context(name, **kwargs):
            self.context = name
            try:
                with original(name, **kwargs):
                    yield
            finally:
                self.context = None

        return cache_context

    # Each forward of the transformer -----------------------------------------------------------------------------
    def moment_now(self) -> Moment:
        if self.moment is None:
            raise RuntimeError("the attention ran outside a forward of the transformer; steer before compiling it")
        return self.moment

    def _before(self, _, args, kwargs):
        inputs = bind(self.transformer, args, kwargs)
        if not self.inside:
            self.moment, self.given = self._moment(inputs), inputs
            for _, method, *_ in self.entries:
                if hasattr(method, "edit_inputs"):
                    inputs = method.edit_inputs(self.model, inputs, self.moment)
        self.inputs, self.layout = inputs, None
        return (), inputs

    def layout_now(self) -> Layout:
        """The layout of the forward that runs, worked out when a method first acts in it."""
        if self.layout is None:
            self.layout = layout_of(self.transformer, self.inputs, self._image_tokens())
        return self.layout

    def _after(self, _, args, kwargs, output):
        if self.inside:
            return None
        for _, method, *_ in self.entries:
            if hasattr(method, "edit_output"):
                output = method.edit_output(self.model, self.given, self.moment, output, self._run)
        self.moment = self.layout = self.given = self.inputs = None
        return output

    def _run(self, inputs, branch):
        moment, self.inside = self.moment, True
        self.moment = replace(moment, branch=branch)
        try:
            return self.entrance(**(inputs | {"return_dict": False}))[0]
        finally:
            self.moment, self.inside = moment, False

    def _moment(self, inputs) -> Moment:
        """Step, number of steps, time and branch of the call that begins."""
        pipe, timestep = self.pipe(), float(inputs["timestep"].max())
        now = getattr(pipe, "current_timestep", None)
        steps = next((n for *_, n, _ in self.entries if n is not None), None)
        if now is not None:  # exact, while the model may be given a rounded time
            times = pipe.scheduler.timesteps
            if now is not self.last_time or times is not self.grid_of_times:
                self.calls_at_step = 0
                self.step = int((times == now).nonzero().flatten()[0])
            self.last_time, self.grid_of_times, steps = now, times, len(times)
        else:
            if self.last_time is None or timestep != self.last_time:
                # Time runs down within a sampling loop; a higher one begins another loop.
                again = not isinstance(self.last_time, float) or timestep > self.last_time
                self.step, self.calls_at_step = 0 if again else self.step + 1, 0
            self.last_time = timestep
        branch = {"pred_cond": "cond", "pred_uncond": "uncond", "cond_uncond": "both"}.get(self.context, self.context)
        if branch == "both" and not guided(pipe):
            branch = "cond"
        if branch is None:  # pipelines that do not say run the conditional branch first
            branch = "uncond" if self.calls_at_step % 2 else "cond"
        self.calls_at_step += 1
        scale = getattr(pipe, "guidance_scale", None)
        if self.transformer is getattr(pipe, "transformer_2", None):  # Wan 2.2 A14B: a scale per expert
            scale = getattr(pipe, "_guidance_scale_2", None) or scale
        if self.model.family in (HUNYUAN, FRAMEPACK):
            scale = None  # there `guidance_scale` is the distilled one
        return Moment(self.step, steps, timestep, branch, scale, pipe)

    def _image_tokens(self) -> int | None:
        """Image tokens in HunyuanVideo's text stream, by the rule of its pipeline or as the caller says."""
        given = next((n for *_, n in self.entries if n is not None), None)
        encoder = getattr(self.pipe(), "text_encoder", None)
        vision = getattr(getattr(encoder, "config", None), "vision_config", None)
        if given is not None or self.model.family != HUNYUAN or vision is None:
            return given
        replace = self.transformer.config.image_condition_type == "token_replace"
        # The negative prompt is always thinned by 2, whatever the model.
        thinning = 4 if replace and self.moment.branch != "uncond" else 2
        return -(-((vision.image_size // vision.patch_size) ** 2) // thinning)


class Tap(TorchFunctionMode):
    """Rewrites `F.scaled_dot_product_attention` inside one attention module."""

    def __init__(self, controller: Controller, block: Block, sites: list[str]):
        super().__init__()
        self.controller, self.block, self.sites, self.count = controller, block, sites, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        site = self.sites[min(self.count, len(self.sites) - 1)]
        self.count += 1
        active = self.controller._active(self.block, site)
        if not active:
            return func(*args, **kwargs)
        call = self._call(site, dict(zip(SDPA_ARGUMENTS, args, strict=False)) | kwargs)
        for method in active:
            if hasattr(method, "edit"):
                method.edit(call)
        out = call.compute() if any(hasattr(m, "edit") for m in active) else func(*args, **kwargs)
        for method in active:
            if hasattr(method, "observe"):
                method.observe(call, out)
        return out

    def _call(self, site, a) -> AttentionCall:
        if a.get("dropout_p") or a.get("is_causal") or a.get("enable_gqa"):
            raise RuntimeError("attention with dropout, a causal mask or grouped queries cannot be steered")
        layout, query = self.controller.layout_now(), a["query"]
        queries = layout.sequences["joint" if site == "joint" else "video"]
        keys = queries if site in ("self", "joint") else layout.sequences[site]
        for name, tokens, have in (("queries", queries, query.shape[2]), ("keys", keys, a["key"].shape[2])):
            if len(tokens.frames) != have:
                raise RuntimeError(
                    f"block {self.block.name}, site {site}: {have} {name}, but the layout says {len(tokens.frames)}"
                )
        scale = query.shape[-1] ** -0.5 if a.get("scale") is None else a["scale"]
        return AttentionCall(
            query, a["key"], a["value"], a.get("attn_mask"), scale, site, self.block, self.controller.moment, layout,
            queries, keys, layout.reference if keys is queries else None,
        )  # fmt: skip


def replace_attribute(module: nn.Module, name: str, function):
    """Set an attribute on one instance; the returned undo restores `module.__dict__` to what it was.

    If somebody else wrapped the attribute meanwhile, it stays, and `function.dead` tells our part to pass calls through.
    """
    function.dead = False
    had, before = name in module.__dict__, module.__dict__.get(name)
    module.__dict__[name] = function

    def undo():
        if module.__dict__.get(name) is not function:
            function.dead = True
        elif had:
            module.__dict__[name] = before
        else:
            del module.__dict__[name]

    return undo


def refuse_unseen(transformer: nn.Module) -> None:
    """Raise RuntimeError if the attention of a transformer runs where its calls cannot be seen."""
    for block, _, module in blocks_of(transformer):
        processor = getattr(module, "processor", None)
        backend = getattr(processor, "_attention_backend", None)
        backend = getattr(backend, "value", backend)
        if backend is not None and backend not in BACKENDS:
            raise RuntimeError(
                f"block {block.name} uses the attention backend {backend!r}, whose calls cannot be seen; call "
                f'transformer.set_attention_backend("native") first (allowed: {", ".join(sorted(BACKENDS))})'
            )
        if getattr(processor, "_parallel_config", None) is not None:
            raise RuntimeError("a transformer with context parallelism cannot be steered: its tokens are spread out")


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
    """Attach methods or recorders to a pipeline or transformer while the context is open."""
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
        for transformer, entrance in found:
            controller = _controllers.get(transformer)
            if controller is None:
                controller = Controller(transformer, entrance)
                controller.install()
                _controllers[transformer] = controller
            if pipe is not None:
                controller.pipe = weakref.ref(pipe)
            controller.entries += [(owner, m, steps, image_tokens) for m in methods]
            if any(hasattr(m, "edit_block") for m in methods):
                controller.wrap_blocks()
            undo.callback(_detach, controller, owner)
        yield


def _detach(controller, owner):
    controller.entries = [e for e in controller.entries if e[0] is not owner]
    if not controller.entries:
        _controllers.pop(controller.transformer, None)
        controller.undo.close()


@contextmanager
def steer(pipe_or_transformer, *methods, steps: int | None = None, image_tokens: int | None = None):
    """Apply methods to a diffusers pipeline, or to a transformer alone, inside a `with` block.

    Scales of several methods multiply, then biases add. Contexts nest; leaving one restores the model exactly, also
    after an exception. Neutral methods and inactive steps leave the output bit-identical.

    steps: number of denoising steps, needed only when a bare transformer is given to a method with a window in
    fractions. image_tokens: image tokens in HunyuanVideo's text stream, needed only without its pipeline.
    Raises TypeError for a model of another family, ValueError for a method that the model cannot have, RuntimeError for
    an attention backend or a parallel set-up whose calls cannot be seen.
    """
    with attach(pipe_or_transformer, methods, steps=steps, image_tokens=image_tokens):
        yield pipe_or_transformer
