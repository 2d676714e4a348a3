"""`python -m methods families`: the families of models that methods can steer, as far as the package itself says."""

from __future__ import annotations

import contextlib
import inspect
import re
from dataclasses import fields

from ..families import FAMILIES, REFUSED, Family, Model
from ..registry import find_methods, required

# By the first word of a setting's type.
PLACEHOLDERS = {"float": 1.0, "int": 1, "str": "FOLDER"}


def add_families(commands) -> None:
    """Add the command `families` to the sub-parsers of argparse."""
    commands.add_parser("families", help="the families of models that can be steered", description=__doc__)


def families(_options=None) -> None:
    """Print the table."""
    parts = [in_words(family) for family in FAMILIES.values()]
    parts += ["\n".join(["cannot be steered", *(f"  {n}: {why}" for n, why in REFUSED.items())])]
    print("\n\n".join(parts))


def in_words(family: Family) -> str:
    """A family in a few lines: what its classes, its pipelines in diffusers and its own functions say."""
    forms = models(family)
    names = lambda values: ", ".join(sorted(values)) or "none"  # noqa: E731
    lines = [
        family.class_name,
        f"  pipelines    {names(pipelines(family))}",
        f"  attention    {', '.join(f'{attribute} ({kind})' for attribute, kind in family.attention.items())}",
        f"  sites        {names(set().union(*(m.sites for m in forms)))}",
        f"  key groups   {names(set().union(*(m.groups for m in forms)))}",
        f"  guidance     {'an input of the model' if family.distilled_guidance else 'of two branches'}",
    ]
    lines += [f"  refused      {name}: {why}" for name, why in refused(forms).items()]
    return "\n".join(lines)


def pipelines(family: Family) -> list[str]:
    """Names of diffusers' pipelines that hold this transformer."""
    import diffusers

    word = family.class_name[:3]  # HunyuanSkyreels... holds a HunyuanVideo transformer
    found = []
    for name in dir(diffusers):
        if name.startswith(word) and name.endswith("Pipeline"):
            part = inspect.signature(getattr(diffusers, name).__init__).parameters.get("transformer")
            kinds = re.findall(r"\w+", str(part.annotation)) if part is not None else []
            if family.class_name in kinds:
                found.append(name)
    return found


def models(family: Family) -> list[Model]:
    """The forms of the transformer that the family has tiny models of; the family's own refusals are left out."""
    found = []
    for tiny in family.tiny.values():
        with contextlib.suppress(ValueError, TypeError):
            found.append(family.describe(tiny.make(1, (2, 1, 2), 1)[0]))
    return found


def refused(forms: list[Model]) -> dict[str, str]:
    """Methods that no form can have, with the reason. What a method needs beside the model (files, blocks) is left out."""
    found = {}
    for name, kind in find_methods().items():
        types = {f.name: str(f.type).split()[0] for f in fields(kind)}
        method = kind(**{setting: PLACEHOLDERS[types[setting]] for setting in required(kind)})
        reasons = [reason_against(method, model) for model in forms]
        if reasons and all(reasons):
            found[name] = reasons[-1]
    return found


def reason_against(method, model: Model) -> str | None:
    """Why a method cannot be attached to a model; None if it can, or if only a file of its own is missing or the tiny model
    has fewer blocks than its default names."""
    try:
        method.check(model)
    except OSError:
        return None
    except ValueError as error:
        small = str(error).startswith("no block")
        return None if small or PLACEHOLDERS["str"] in str(error) else str(error)
    return None
