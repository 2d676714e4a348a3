"""Attention backends: PyTorch's own where a method acts or records, the user's everywhere else."""

from __future__ import annotations

from contextlib import contextmanager

# They all end in `F.scaled_dot_product_attention`, where methods hook in.
SEEN = {"native", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn"}


def unseen_backend(module) -> str | None:
    """Name of the backend of an attention module if its calls cannot be seen; None if they can.

    A processor has a backend of its own (`set_attention_backend`) or takes the global one (`attention_backend`); those
    that know nothing of backends call PyTorch's attention.
    """
    processor = getattr(module, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return None
    backend = processor._attention_backend
    if backend is None:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry

        backend, _ = _AttentionBackendRegistry.get_active_backend()
    name = getattr(backend, "value", backend)
    return None if name in SEEN else name


@contextmanager
def native_attention(module):
    """PyTorch's own attention in one module while the context is open."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    attributes = module.processor.__dict__
    before = {name: attributes[name] for name in ["_attention_backend"] if name in attributes}
    attributes["_attention_backend"] = AttentionBackendName.NATIVE
    try:
        yield
    finally:
        del attributes["_attention_backend"]
        attributes.update(before)
