"""`python -m methods families`: the families of models that methods can steer, as far as the package itself says."""

from __future__ import annotations

import contextlib
import inspect
import re

import torch

from .. import families as package
from ..families import FAMILIES, Family, Model
from ..registry import find_methods, required

# Forms of a transformer that its configuration tells apart; each is tried on every class whose constructor has the names.
FORMS = (
    {},
    {"in_channels": 36, "out_channels": 16},
    {"in_channels": 36, "out_channels": 16, "image_dim": 1280, "added_kv_proj_dim": 5120},
    {"image_condition_type": "token_replace"},
    {"image_condition_type": "latent_concat"},
)
PLACEHOLDERS = {"float": 1.35, "int": 1, "str": "FOLDER"}


def add_families(commands) -> None:
    """Add the command `families` to the sub-parsers of argparse."""
    commands.add_parser("families", help="the families of models that can be steered", description=__doc__)


def families(_options=None) -> None:
    """Print the table."""
    parts = [in_words(family) for family in FAMILIES.values()]
    refused_classes = getattr(package, "REFUSED", {})
    parts += (
        ["\n".join(["cannot be steered", *(f"  {n}: {why}" for n, why in refused_classes.items())])]
        if refused_classes
        else []
    )
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
    """The forms of the transformer, described without weights; those that the family itself refuses are left out."""
    import diffusers

    kind = getattr(diffusers, family.class_name, None)
    takes = inspect.signature(kind.__init__).parameters if kind is not None else {}
    found = []
    for form in FORMS:
        if set(form) <= set(takes):
            with torch.device("meta"):
                transformer = kind(**form)
            with contextlib.suppress(ValueError, TypeError):
                found.append(family.describe(transformer))
    return found


def refused(forms: list[Model]) -> dict[str, str]:
    """Methods that no form can have, with the reason. What a method needs beside the model (files) is left out."""
    found = {}
    for name, kind in find_methods().items():
        hints = inspect.get_annotations(kind)
        method = kind(**{setting: PLACEHOLDERS[hints[setting]] for setting in required(kind)})
        reasons = [reason_against(method, model) for model in forms]
        if reasons and all(reasons):
            found[name] = reasons[-1]
    return found


def reason_against(method, model: Model) -> str | None:
    """Why a method cannot be attached to a model; None if it can, or if only a file of its own is missing."""
    try:
        method.check(model)
    except OSError:
        return None
    except ValueError as error:
        return None if PLACEHOLDERS["str"] in str(error) else str(error)
    return None
