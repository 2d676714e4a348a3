"""`study set`: state settings of a study's backbones and methods in its params.yaml, which keeps its comments."""

from __future__ import annotations

import os
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from ..study.presets import OWN
from .new_study import write_yaml
from .settings import OF_SWEEPS, PLACES, comment, put
from .study import Study, unstated

ALL, STATED = "all", "stated with `study set`"


def read_settings(words: list[str]) -> dict[str, object]:
    """{setting: value} of `--vae-dtype float32 --steps=40`; values are read as YAML. Raises ValueError for anything else."""
    found, words = {}, list(words)
    while words:
        name = words.pop(0)
        if not name.startswith("--") or len(name) < 3:
            raise ValueError(f"{name!r}: settings are given as --KEY VALUE")
        name, equals, text = name[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"--{name} needs a value")
            text = words.pop(0)
        try:
            found[name.replace("-", "_")] = YAML(typ="safe", pure=True).load(text) if text else ""
        except YAMLError:
            found[name.replace("-", "_")] = text
    if not found:
        raise ValueError(f"nothing to set; there are {', '.join([*PLACES, *OF_SWEEPS])}, and the settings of methods")
    return found


def read_methods(given: list[str]) -> dict[str, list[dict]]:
    """{name: settings} of NAME={"method": ...}, or NAME=[...] for several. Raises ValueError for anything else, and for settings
    that a method refuses."""
    from methods.registry import from_dict  # loads torch

    found = {}
    for text in given:
        name, _, settings = text.partition("=")
        try:
            own = YAML(typ="safe", pure=True).load(settings)
        except YAMLError:
            own = None
        own = [own] if isinstance(own, dict) else own
        if not name or name == "none" or not isinstance(own, list) or not own:
            raise ValueError(f'--method {text}: give NAME={{"method": "alignvid", "gamma": 1.35, ...}}')
        for one in own:
            from_dict(one)
        found[name] = own
    return found


def set_values(study: Study, name: str, settings: dict[str, object]) -> list[str]:
    """Write settings of a backbone, of `all` backbones, or of a method; the names of what still has to be stated.

    A checkpoint `NAME@REVISION` sets both. Raises ValueError for unknown names and values that the schema refuses; the file
    is left as it was then.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    before = study.parameters_file.read_text()
    document = yaml.load(before)
    backbones, methods = document["backbones"], document["methods"]
    if name != ALL and name not in backbones and name not in methods:
        raise ValueError(
            f"no backbone or method {name!r}; there are {', '.join([ALL, *backbones])} and {', '.join(methods)}"
        )
    if name in methods and name not in backbones:
        _set_method(methods, name, settings)
    else:
        for backbone in backbones if name == ALL else [name]:
            for key, value in _split_revision(settings).items():
                if key == "checkpoint" and isinstance(value, str) and Path(value).is_dir():
                    value = os.path.abspath(value)
                put(document, backbone, key, value, study.folder)
                comment(document, backbone, key, STATED)
    write_yaml(document, study.parameters_file)
    missing = unstated(study.raw())
    try:
        _validate(study, missing)
    except ValueError:
        study.parameters_file.write_text(before)
        raise
    return missing


def _split_revision(settings: dict) -> dict:
    text = settings.get("checkpoint")
    if isinstance(text, str) and "@" in text and not Path(text).is_dir():
        name, _, revision = text.rpartition("@")
        return settings | {"checkpoint": name, "revision": revision}
    return settings


def _set_method(methods: dict, name: str, settings: dict) -> None:
    if len(methods[name]) != 1:
        raise ValueError(f"{name} has {len(methods[name])} methods; edit params.yaml")
    for key, value in settings.items():
        if value == OWN:
            methods[name][0].pop(key, None)
        else:
            methods[name][0][key] = value
    methods.ca.items.pop(name, None)
    methods.yaml_add_eol_comment(STATED, name)
    if None not in methods[name][0].values():  # else something has to be stated still
        from methods.registry import from_dict  # loads torch

        from_dict(dict(methods[name][0]))


def _validate(study: Study, missing: list[str]) -> None:
    """Raise ValueError for values that the schema refuses, apart from those that are still to be stated."""
    from .validate import problems_of

    if wrong := problems_of(study.raw(), missing):
        raise ValueError(f"{study.parameters_file}: {'; '.join(wrong)}")
