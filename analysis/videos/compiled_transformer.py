"""`load: {compile: ..., attention_backend: ...}` of a backbone: what can be known before anything is loaded, and doing it.

Methods act in both. Where one acts, or something is recorded, the attention of that call is PyTorch's own
(methods/core/backends.py), and the compiled code is left for it and entered again (methods/core/controller.py).
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import torch

from ..study.backbone_settings import Backbone, Compile, family_of

TRANSFORMERS = ("transformer", "transformer_2")  # Wan 2.2 has two
COMPILERS = ("g++", "c++", "clang++")


def check_compile(where: str, backbone: Backbone) -> None:
    """Raise ValueError, which begins with `where`, for a transformer without repeated blocks, and if nothing can be compiled here."""
    import diffusers

    name = family_of(backbone.pipeline)
    if backbone.load.compile.part == "blocks" and not getattr(getattr(diffusers, name), "_repeated_blocks", None):
        raise ValueError(
            f"{where}.part is blocks, and diffusers names none of {name}; say `compile: {{part: transformer}}`"
        )
    if torch.cuda.is_available():
        if find_spec("triton") is None:
            raise ValueError(f"{where} needs triton on a GPU, which is not installed")
    elif not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"{where} needs a C++ compiler on a CPU, and there is none of {', '.join(COMPILERS)}")


def check_backend(where: str, backbone: Backbone) -> None:
    """Raise ValueError, which begins with `where`, for a backend that this diffusers does not have, whose package is not installed,
    and for a transformer that takes none."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

    from methods.families import FAMILIES

    name, family = backbone.load.attention_backend, family_of(backbone.pipeline)
    known = [b.value for b in AttentionBackendName]
    if name not in known:
        raise ValueError(
            f"{where} is {name!r}, which this version of diffusers does not have; it has {', '.join(known)}"
        )
    try:
        _check_attention_backend_requirements(AttentionBackendName(name))
    except RuntimeError as error:
        raise ValueError(f"{where} is {name!r}: {error}") from None
    with torch.random.fork_rng(devices=[]):  # which is seeded there
        tiny, _ = next(iter(FAMILIES[family].tiny.values())).make(1, (2, 2, 2), 3)
    if not takes_backend(tiny):
        raise ValueError(
            f"{where} is {name!r}, which would change nothing: {family} calls PyTorch's attention itself; leave it out"
        )


def takes_backend(transformer: torch.nn.Module) -> bool:
    """Whether any attention of a transformer goes through diffusers' choice of a backend."""
    return any(hasattr(getattr(m, "processor", None), "_attention_backend") for m in transformer.modules())


def set_backend(pipe, name: str) -> None:
    """Give the transformers of a pipeline an attention backend. diffusers would make it the default of the whole process, too; that
    one stays as it was, for the next pipeline and for other parts of this one."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before, _ = registry.get_active_backend()
    try:
        for transformer in _transformers(pipe):
            transformer.set_attention_backend(name)
    finally:
        registry.set_active_backend(before)


def compile_transformers(pipe, how: Compile) -> None:
    """Compile the transformers of a pipeline in place; the work is done when they are called first."""
    for transformer in _transformers(pipe):
        compiled = transformer.compile_repeated_blocks if how.part == "blocks" else transformer.compile
        compiled(mode=how.mode)


def _transformers(pipe) -> list[torch.nn.Module]:
    return [found for part in TRANSFORMERS if (found := getattr(pipe, part, None)) is not None]
