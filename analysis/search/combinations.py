"""The space that is searched: two or three methods, each with its strength, the steps and the blocks in which it acts.

A trial chooses a first, a second and a third method, the third possibly none. A choice that is taken, or does not go together
with the others, moves on to the next of the list that does: so every trial is a combination, and the choices of all trials
have one set of values, as samplers need.
"""

from __future__ import annotations

from dataclasses import dataclass

# In the order in which they are attached: what changes a prediction comes before what is added to it.
ORDER = ("jpeg", "blur", "refnoise", "amplitude", "lowpass", "alignvid", "dymos", "focal", "enhance", "nag", "cfgzero",
         "skiplayer", "pag")  # fmt: skip
# Which exclude each other: formulas of guidance, a low-pass pass and edits of the reference's latents.
APART = (("lowpass", "cfgzero"), ("lowpass", "refnoise"), ("lowpass", "amplitude"))
STEPS = {"first-fifth": (0.0, 0.2), "early": (0.0, 0.3), "first-half": (0.0, 0.5), "all": "all"}
BLOCKS = ("calibrated", "first_half", "all")
SKIPPED = (1, 2, 3, 4, 5, 6, 7)  # one of them, for the guidances away from a perturbed pass
STILL = "all stays still."  # the grammar's words for a video in which nothing happens


@dataclass(frozen=True)
class Combination:
    """What a trial tries: the methods' names, the parts of the setting as in params.yaml, and the blur in pixels."""

    names: tuple[str, ...]
    parts: tuple[dict, ...]
    blur: float


def suggest(trial, methods: list[str], focal: dict) -> Combination:
    """The combination of an Optuna trial. methods: the choices, of ORDER; focal: the parts of Focal Guidance, whose strengths
    are scaled together. Raises ValueError for a method that the space does not have."""
    if unknown := [m for m in methods if m not in ORDER]:
        raise ValueError(f"the search has no method {unknown[0]!r}; it has {', '.join(ORDER)}")
    chosen: list[str] = []
    for place, choices in (("first", methods), ("second", methods), ("third", [*methods, "none"])):
        wanted = trial.suggest_categorical(place, choices)
        if wanted != "none":
            start = methods.index(wanted)
            free = [m for m in methods[start:] + methods[:start] if _goes_with(m, chosen)]
            chosen += free[:1]
    chosen.sort(key=ORDER.index)
    blur = trial.suggest_float("blur.sigma", 0.25, 3.0, log=True) if "blur" in chosen else 0.0
    return Combination(tuple(chosen), tuple(_part(trial, m, focal) for m in chosen if m != "blur"), blur)


def _goes_with(method: str, chosen: list[str]) -> bool:
    return method not in chosen and not any({method, other} in map(set, APART) for other in chosen)


def _part(trial, name: str, focal: dict) -> dict:
    """The part of the setting of one method."""

    def number(key, low, high, *, log=False):
        return round(trial.suggest_float(f"{name}.{key}", low, high, log=log), 3)

    def window():
        found = STEPS[trial.suggest_categorical(f"{name}.window", list(STEPS))]
        return {"window": list(found) if isinstance(found, tuple) else found}

    def one_of(key, values):
        return trial.suggest_categorical(f"{name}.{key}", values)

    if name == "jpeg":
        return {"input": "jpeg", "quality": trial.suggest_int("jpeg.quality", 5, 90)}
    if name == "focal":
        scale = number("scale", 0.25, 2.0, log=True)
        return focal | {k: round(scale * focal[k], 3) for k in ("text", "latent", "cache")}
    own = {
        "refnoise": lambda: {"scale": number("scale", 0.02, 0.5, log=True)},
        "amplitude": lambda: {"amplitude": number("amplitude", 1.05, 2.0)},
        "lowpass": lambda: {"factor": number("factor", 0.2, 0.8)} | window(),
        "alignvid": lambda: (
            {"gamma": number("gamma", 1.1, 3.0, log=True), "blocks": one_of("blocks", BLOCKS)} | window()
        ),
        "dymos": lambda: {"gamma": number("gamma", 0.25, 4.0, log=True)} | window(),
        "enhance": lambda: {"weight": number("weight", 1.0, 10.0, log=True)} | window(),
        "nag": lambda: {"negative_prompt": STILL, "scale": number("scale", 2.0, 25.0, log=True)} | window(),
        "cfgzero": lambda: {"scale": one_of("scale", ("sample", "channel"))},
        "skiplayer": lambda: (
            {"scale": number("scale", 0.5, 4.0, log=True), "blocks": [one_of("block", SKIPPED)]} | window()
        ),
        "pag": lambda: {"scale": number("scale", 0.5, 6.0, log=True), "blocks": [one_of("block", SKIPPED)]} | window(),
    }
    return {"method": name} | own[name]()
