"""Where methods hook in: SDPA intercepted inside an attention module, and attributes that can be restored."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..families import Block, Layout, Model, attention_modules
from .attention_call import AttentionCall, BlockInput
from .forward_context import ForwardContext

BACKENDS = {"native", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn"}  # all end in SDPA
SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class InterceptSDPA(TorchFunctionMode):
    """Lets methods act on `F.scaled_dot_product_attention` inside one attention module.

    methods: site -> the methods that are active there, for the sites of the module in the order in which it computes them.
    count: calls seen.
    """

    def __init__(
        self,
        methods: dict[str, list],
        model: Model,
        block: Block,
        context: ForwardContext,
        layout: Layout,
        block_input: BlockInput | None,
    ):
        super().__init__()
        self.methods, self.sites, self.count = methods, list(methods), 0
        self.model, self.block, self.block_input = model, block, block_input
        self.context, self.layout = context, layout

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        site = self.sites[min(self.count, len(self.sites) - 1)]
        self.count += 1
        methods = self.methods[site]
        if not methods:
            return func(*args, **kwargs)
        call = self._call(site, dict(zip(SDPA_ARGUMENTS, args, strict=False)) | kwargs)
        editing = [m for m in methods if hasattr(m, "edit")]
        for method in editing:
            method.edit(call)
        out = call.compute() if editing else func(*args, **kwargs)
        for method in methods:
            if hasattr(method, "observe"):
                method.observe(call, out)
        return out

    def _call(self, site: str, arguments: dict) -> AttentionCall:
        if arguments.get("dropout_p") or arguments.get("is_causal") or arguments.get("enable_gqa"):
            raise RuntimeError("attention with dropout, a causal mask or grouped queries cannot be steered")
        query, key, scale = arguments["query"], arguments["key"], arguments.get("scale")
        queries = self.layout.sequences["joint" if site == "joint" else "video"]
        keys = queries if site in ("self", "joint") else self.layout.sequences[site]
        for name, tokens, found in (("queries", queries, query.shape[2]), ("keys", keys, key.shape[2])):
            if len(tokens.frames) != found:
                raise RuntimeError(
                    f"block {self.block.name}, site {site}: {found} {name}, but the layout says {len(tokens.frames)}"
                )
        return AttentionCall(
            query, key, arguments["value"], arguments.get("attn_mask"),
            query.shape[-1] ** -0.5 if scale is None else scale, site, self.block, self.context, self.layout, queries, keys,
            self.layout.reference if keys is queries else None, block_input=self.block_input, model=self.model,
        )  # fmt: skip


def replace_attribute(module: nn.Module, name: str, function):
    """Set an attribute on one instance; the returned undo restores `module.__dict__` to what it was.

    If somebody else has wrapped the attribute by then, their wrapper stays, and `function.bypassed` tells our part of it
    to pass calls through.
    """
    function.bypassed = False
    was_set, before = name in module.__dict__, module.__dict__.get(name)
    module.__dict__[name] = function

    def undo():
        if module.__dict__.get(name) is not function:
            function.bypassed = True
        elif was_set:
            module.__dict__[name] = before
        else:
            del module.__dict__[name]

    return undo


def refuse_unseen(transformer: nn.Module) -> None:
    """Raise RuntimeError if the attention of a transformer runs where its calls cannot be seen."""
    for block, _, module in attention_modules(transformer):
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
