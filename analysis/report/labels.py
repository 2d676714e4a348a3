"""Words for readers: what figures, tables and findings call a backbone, a setting, an event and a measure."""

from __future__ import annotations

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
    "alignvid-text-keys": "AlignVid, text keys only",
    "alignvid-image-keys": "AlignVid, reference keys only",
    "alignvid-all-keys": "AlignVid, all keys",
    "dymos-0.6": "DyMoS, γ 0.6",
    "dymos-0.8": "DyMoS, γ 0.8",
    "dymos-1": "DyMoS, γ 1",
    "dymos-released": "DyMoS, older release",
    "alg": "Low-pass guidance",
    "alg-first-step": "Low-pass guidance, first step",
    "focal-full": "Focal Guidance",
    "focal-fsg": "Focal Guidance, binding only",
    "focal-cache": "Focal Guidance, cache only",
    "focal-joint-full": "Focal Guidance",
    "focal-joint-fsg": "Focal Guidance, binding only",
    "focal-joint-cache": "Focal Guidance, cache only",
}
# First parts of a setting's name -> (method, colour of the palette in matplotlibrc). Combinations are grey.
METHODS = {
    "none": ("unsteered", "black"),
    "guidance": ("guidance alone", "C4"),
    "alignvid": ("AlignVid", "C0"),
    "scale": ("AlignVid", "C0"),
    "dymos": ("DyMoS", "C1"),
    "alg": ("Low-pass guidance", "C2"),
    "focal": ("Focal Guidance", "C3"),
}


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
        return " + ".join(family(part["method"]) for part in parts)
    (values,) = parts
    shown = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items() if k not in HIDDEN]
    return ", ".join([family(values["method"]), *shown]).replace("gamma ", "γ ")


HIDDEN = {"method", "clip", "projection"}
OF_METHOD = {"alignvid": "AlignVid", "dymos": "DyMoS", "focal": "Focal Guidance", "lowpass": "Low-pass guidance"}


def family(name: str) -> str:
    """The method that a setting or an entry of `methods` belongs to, in words."""
    if "+" in name or name.startswith("all-"):
        return "combination"
    return OF_METHOD.get(name) or METHODS.get(name.split("-")[0], (name, "C5"))[0]


def colour(name: str) -> str:
    """The colour of a setting's method, the same in every figure."""
    return "0.6" if family(name) == "combination" else METHODS.get(name.split("-")[0], (name, "C5"))[1]
