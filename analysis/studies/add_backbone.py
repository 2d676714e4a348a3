"""`study add`: a backbone of one's own in a study, and its rows, which stand beside the paper's."""

from __future__ import annotations

from ruamel.yaml import YAML

from ..study.backbone_settings import family_of
from ..study.presets import REQUIRED
from .new_study import slug, write_yaml
from .set_values import set_values
from .settings import put
from .study import ROWS, Study, unstated


def add_backbone(
    study: Study, name: str, pipeline: str, methods: dict[str, list[dict]], settings: dict[str, object]
) -> list[str]:
    """Add a backbone with an unsteered row and one for each of `methods`; what still has to be stated of it.

    Raises ValueError for a name that is taken, a pipeline of no family, and settings that `set_values` refuses.
    """
    family_of(pipeline)
    document, own = YAML().load(study.parameters_file.read_text()), slug(name)
    if own in document["backbones"] or not own:
        raise ValueError(f"{name!r} is no name for another backbone; there are {', '.join(document['backbones'])}")
    if taken := [m for m in methods if m in document["methods"] and document["methods"][m] != methods[m]]:
        raise ValueError(f"{taken[0]!r} is another method of this study already")
    document["backbones"][own] = {"pipeline": pipeline}
    document["methods"].update(methods)
    samples = max((s["samples"] for s in document["sweeps"].values()), default=1)
    document["sweeps"][own] = {
        "backbone": own, "samples": samples, "seeds": None, "guidance_scale": None, "methods": ["none", *methods]
    }  # fmt: skip
    for key in REQUIRED:
        put(document, own, key, None, study.folder)
    before = study.parameters_file.read_text()
    write_yaml(document, study.parameters_file)
    try:
        missing = set_values(study, own, settings) if settings else unstated(study.raw())
        if study.of_table:
            _add_rows(study, name, own, list(methods))
    except BaseException:
        study.parameters_file.write_text(before)
        raise
    return [m for m in missing if m.startswith((f"backbones.{own}.", f"sweeps.{own}."))]


def _add_rows(study: Study, name: str, sweep: str, methods: list[str]) -> None:
    file = study.folder / ROWS
    document = YAML().load(file.read_text())
    rows = {name: {"sweep": sweep, "method": "none"}}
    rows |= {f"{name} + {m}": {"sweep": sweep, "method": m, "against": name} for m in methods}
    if taken := [r for r in rows if r in document["rows"]]:
        raise ValueError(f"the study has a row {taken[0]!r} already")
    document["rows"].update(rows)
    document.setdefault("backbones", {})[sweep] = name
    write_yaml(document, file)
