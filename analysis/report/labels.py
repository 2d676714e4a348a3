"""Words for readers: what figures, tables and findings call a backbone, a setting, an event and a measure."""

from __future__ import annotations

import re

from methods.registry import find_methods

from ..study.parameters import Parameters

EVENTS = {"addition": "appear", "deletion": "disappear", "modification": "recolour", "motion": "move"}
OUTCOMES = ("followed", "still copy", "wrong")

# Backbones by lineage, the first part of their name.
LINEAGES = {"wan": "Wan-type model", "cogvideox": "CogVideoX-type model"}

# Settings of params.yaml that readers meet by name. Others are called after their method and what sets them apart.
SETTINGS = {
    "none": "unsteered",
    "alignvid": "AlignVid",
    "alignvid-released": "AlignVid, released code",
    "alignvid-energy": "AlignVid, energy-based γ",
    "alignvid-per-token-wan": "AlignVid, blocks by ratio per token",
    "alignvid-per-token-cogvideox": "AlignVid, blocks by ratio per token",
    "alignvid-middle": "AlignVid, middle steps",
    "alignvid-late": "AlignVid, late steps",
    "alignvid-always": "AlignVid, all steps",
    "alignvid-energy-absolute": "AlignVid, energy-based γ, not centred",
    "alignvid-reference-keys": "AlignVid, text and reference keys",
    "alignvid-reference-alone": "AlignVid, reference keys only",
    "alignvid-all-keys": "AlignVid, all keys",
    "dymos-0.6": "DyMoS, γ 0.6",
    "dymos-0.8": "DyMoS, γ 0.8",
    "dymos-1": "DyMoS, γ 1",
    "dymos--1": "DyMoS, γ −1",
    "dymos-linear": "DyMoS, linear schedule",
    "dymos-log": "DyMoS, logarithmic schedule",
    "dymos-released": "DyMoS, older release",
    "alg": "Low-pass guidance",
    "alg-first-step": "Low-pass guidance, first step",
    "focal-full": "Focal Guidance",
    "focal-fsg": "Focal Guidance without the cache",
    "focal-cache": "Focal Guidance, cache only",
    "focal-hidden-weak": "Focal Guidance, weak blocks by the paper's measure",
    "focal-pointing": "Focal Guidance, trained read-outs",
    "focal-joint-full": "Focal Guidance",
    "focal-joint-fsg": "Focal Guidance without the cache",
    "focal-joint-cache": "Focal Guidance, cache only",
}
# Methods by the name that params.yaml gives them -> (words, colour of the palette in matplotlibrc). A method that is not
# here is called by the words of its class and gets one of OTHER_COLOURS.
METHODS = {
    "alignvid": ("AlignVid", "C0"),
    "dymos": ("DyMoS", "C1"),
    "lowpass": ("Low-pass guidance", "C2"),
    "focal": ("Focal Guidance", "C3"),
}
UNSTEERED, GUIDANCE, COMBINATION = "unsteered", "guidance alone", "combination"
COLOURS = {UNSTEERED: "black", GUIDANCE: "C4", COMBINATION: "0.6"}
OTHER_COLOURS = ("C5", "#8B4513", "#6A3D9A", "#00A0A0", "#B0B000", "#E07B91", "#556B2F", "#A6761D", "#1B4F9C", "#D62790",
                 "#7F7F00", "#3CB371", "#B22222", "#708090")  # of further methods, in the order of their names  # fmt: skip


def backbone(name: str) -> str:
    """A backbone's name in words, such as "Wan-type model" for `wan-i2v`; unknown ones keep their name."""
    return LINEAGES.get(name.split("-")[0], name)


def setting(name: str, guidance_scale: float = 1.0, parameters: Parameters | None = None) -> str:
    """A setting's name in words, with its guidance scale unless that is 1 (none).

    A setting that is not in SETTINGS is spelled out from `parameters`, its method's name and its values; without
    parameters it keeps its name.
    """
    if name == "none" and guidance_scale != 1:
        return f"guidance {guidance_scale:g}"
    words = SETTINGS.get(name) or _spelled_out(name, parameters)
    return words if guidance_scale == 1 else f"{words}, guidance {guidance_scale:g}"


def _spelled_out(name: str, parameters: Parameters | None) -> str:
    parts = parameters.methods.get(name, []) if parameters else []
    if not parts:
        return name
    if len(parts) > 1:
        return " + ".join(_part(part) for part in parts)
    (values,) = parts
    shown = [_value(k, v) for k, v in values.items() if k not in HIDDEN]
    return ", ".join([_part(values), *shown]).replace("gamma ", "γ ").replace("_", " ")


def _value(key: str, value) -> str:
    if value is True:
        return key
    return f"{key} {value:g}".replace("-", "−") if isinstance(value, float) else f"{key} {value}"


def _part(part: dict) -> str:
    """What a part of a setting is, in words: its method, or what it does to an input."""
    return INPUTS[part["input"]] if "input" in part else method(part["method"])


INPUTS = {"jpeg": "JPEG", "h264": "H.264", "negative_prompt": "Negative prompt"}  # edits of the pipeline's inputs
HIDDEN = {"method", "input", "clip", "projection"}


def method(name: str) -> str:
    """A method's name in words by the name that params.yaml gives it: "AlignVid" for `alignvid`; of one that METHODS does
    not know the words of its class, "Query blur" for a class QueryBlur."""
    if name in METHODS:
        return METHODS[name][0]
    known = find_methods().get(name)
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", known.__name__)).capitalize() if known else name


def family(name: str, parameters: Parameters, guidance_scale: float = 1.0) -> str:
    """What a setting of params.yaml belongs to, in words: its method, UNSTEERED, GUIDANCE (no method at a guidance scale
    other than 1) or COMBINATION (more than one method)."""
    parts = parameters.methods[name]
    if not parts:
        return UNSTEERED if guidance_scale == 1 else GUIDANCE
    return _part(parts[0]) if len(parts) == 1 else COMBINATION


def family_order(family: str) -> tuple[int, str]:
    """Sorts families: unsteered and guidance, the methods of METHODS, others by name, combinations last."""
    known = [UNSTEERED, GUIDANCE, *(words for words, _ in METHODS.values())]
    place = known.index(family) if family in known else len(known) + (family == COMBINATION)
    return place, family


def colour(family: str) -> str:
    """The colour of a family, the same in every figure."""
    known = COLOURS | dict(METHODS.values())
    if family in known:
        return known[family]
    others = [*sorted(method(name) for name in find_methods() if name not in METHODS), *INPUTS.values()]
    return OTHER_COLOURS[others.index(family) % len(OTHER_COLOURS)] if family in others else "0.4"
