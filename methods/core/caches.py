"""diffusers' caches, which leave out attention calls or whole blocks: which are on, and which an extra pass would disturb."""

from __future__ import annotations

from torch import nn

# Hooks that keep one state for all passes of a step: a pass more would be counted as a step more.
WITHOUT_CONTEXTS = ("pyramid_attention_broadcast", "faster_cache")


def hook_names(transformer: nn.Module) -> list[str]:
    """Names of the hooks that diffusers or the user have put on a transformer and its parts, once each, in order."""
    registries = [getattr(m, "_diffusers_hook", None) for m in transformer.modules()]
    return list(dict.fromkeys(name for r in registries if r is not None for name in r.hooks))


def cache_hooks(transformer: nn.Module) -> str:
    """ " (hooks on it: ...)", or nothing."""
    names = hook_names(transformer)
    return f" (hooks on the transformer: {', '.join(names)})" if names else ""


def refuse_shared_caches(transformer: nn.Module) -> None:
    """Raise RuntimeError if a cache is on that would mix up an extra pass and the ordinary ones."""
    found = [name for name in hook_names(transformer) if name.startswith(WITHOUT_CONTEXTS)]
    if found:
        raise RuntimeError(
            f"a method runs the transformer once more in a step, which the cache {found[0]!r} would take for another step: "
            "call transformer.disable_cache() before the context is opened"
        )


def restore_context(transformer: nn.Module, name: str, arguments: dict) -> None:
    """Set the context of the caches as `transformer.cache_context(name, **arguments)` does on entering."""
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    _set_cache_context(transformer, CacheContext(name, **arguments))
