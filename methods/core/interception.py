"""Where methods hook in: SDPA intercepted inside an attention module, and attributes that can be restored."""

from __future__ import annotations

import copy
import functools
import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..families import Block, Layout, Model, attention_modules
from .attention_call import AttentionCall, BlockInput
from .forward_context import ForwardContext

SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class InterceptSDPA(TorchFunctionMode):
    """Lets methods act on `F.scaled_dot_product_attention` inside one attention module.

    methods: site -> the methods that are active there, for the sites of the module in the order in which it computes them.
    count: calls seen.
    """

    def __init__(
        self,
        module: nn.Module,
        methods: dict[str, list],
        model: Model,
        block: Block,
        context: ForwardContext,
        layout: Layout,
        block_input: BlockInput | None,
        inputs: dict,
    ):
        super().__init__()
        self.module, self.methods, self.sites, self.count = module, methods, list(methods), 0
        self.model, self.block, self.block_input, self.inputs = model, block, block_input, inputs
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
            if hasattr(method, "edit_attention_output"):
                out = method.edit_attention_output(call, out)
        for method in methods:
            if hasattr(method, "observe"):
                method.observe(call, out)
        return out

    def _call(self, site: str, arguments: dict) -> AttentionCall:
        if arguments.get("dropout_p") or arguments.get("is_causal") or arguments.get("enable_gqa"):
            raise RuntimeError("attention with dropout, a causal mask or grouped queries cannot be steered")
        arguments = _as_autocast(arguments)
        query, key, scale = arguments["query"], arguments["key"], arguments.get("scale")
        sequences = self.layout.sequences
        queries = sequences.get(f"{site} queries", sequences.get("joint" if site == "joint" else "video"))
        keys = queries if site in ("self", "joint") else sequences[site]
        for name, tokens, found in (("queries", queries, query.shape[2]), ("keys", keys, key.shape[2])):
            if len(tokens.frames) != found:
                raise RuntimeError(
                    f"block {self.block.name}, site {site}: {found} {name}, but the layout says {len(tokens.frames)}"
                )
        return AttentionCall(
            query, key, arguments["value"], arguments.get("attn_mask"),
            query.shape[-1] ** -0.5 if scale is None else scale, site, self.block, self.context, self.layout, queries, keys,
            self.layout.reference if keys is queries else None, block_input=self.block_input, model=self.model,
            module=self.module, inputs=self.inputs,
        )  # fmt: skip


def _as_autocast(arguments: dict) -> dict:
    """The arguments as SDPA computes with them under `torch.autocast`, which casts its tensors but not those of the kernels
    that give a log-sum-exp."""
    device = arguments["query"].device.type
    if not torch.is_autocast_enabled(device):
        return arguments
    dtype = torch.get_autocast_dtype(device)
    return {
        k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() and v.dtype != torch.float64 else v
        for k, v in arguments.items()
    }


class Wrapper:
    """A function that stands in the place of an attribute of one object; a copy of the object gets the attribute's own
    function back. bypassed: calls are passed through to what was there before.
    """

    def __init__(self, owner, name: str, function):
        functools.update_wrapper(self, getattr(owner, name))  # others read its signature
        self.before = owner.__dict__.get(name)
        self.owner, self.name, self.function, self.bypassed = owner, name, function, False

    def __call__(self, *args, **kwargs):
        return (self.__wrapped__ if self.bypassed else self.function)(*args, **kwargs)

    def __deepcopy__(self, memo):
        copied = memo.get(id(self.owner))
        if copied is None:  # the function alone is copied
            return self
        if self.before is not None:
            return copy.deepcopy(self.before, memo)
        return types.MethodType(getattr(type(copied), self.name), copied)


def replace_attribute(owner, name: str, function):
    """Set a function attribute on one instance; the returned undo restores `owner.__dict__` to what it was.

    If somebody else has wrapped the attribute by then, their wrapper stays, and our part of it passes calls through.
    """
    wrapper, was_set = Wrapper(owner, name, function), name in owner.__dict__
    owner.__dict__[name] = wrapper

    def undo():
        if owner.__dict__.get(name) is not wrapper:
            wrapper.bypassed = True
        elif was_set:
            owner.__dict__[name] = wrapper.before
        else:
            del owner.__dict__[name]

    return undo


def refuse_unseen(transformer: nn.Module) -> None:
    """Raise RuntimeError if the tokens of a transformer are spread over several devices."""
    for _, _, module in attention_modules(transformer):
        if getattr(getattr(module, "processor", None), "_parallel_config", None) is not None:
            raise RuntimeError("a transformer with context parallelism cannot be steered: its tokens are spread out")
