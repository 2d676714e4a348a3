"""Methods as plain dictionaries and back, for parameter files and for the settings written beside a video."""

from __future__ import annotations

from dataclasses import asdict, fields

from .align_vid import AlignVid
from .dymos import DyMoS
from .focal_guidance import FocalGuidance
from .low_pass_guidance import LowPassGuidance

METHODS = {"alignvid": AlignVid, "dymos": DyMoS, "focal": FocalGuidance, "lowpass": LowPassGuidance}


def to_dict(method) -> dict:
    """{"method": name, setting: value, ...}; lists instead of tuples, so that YAML and JSON give it back unchanged."""
    name = next(n for n, c in METHODS.items() if type(method) is c)
    values = asdict(method)
    return {"method": name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_dict(settings: dict):
    """The method of a dictionary. Raises ValueError for an unknown method or setting, and for what the method refuses."""
    settings = dict(settings)
    name = settings.pop("method", None)
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; allowed are {', '.join(METHODS)}")
    known = [f.name for f in fields(METHODS[name])]
    if unknown := [k for k in settings if k not in known]:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    first = next((f.name for f in fields(METHODS[name]) if not f.kw_only), None)
    if first is not None and first not in settings:
        raise ValueError(f"{name} needs {first}")
    return METHODS[name](*[settings.pop(first)] if first else [], **settings)
