"""Do the methods of a study exist, fit the checkpoint's transformer, and act in any of its steps? The transformer is built from
its configuration without memory for its weights."""

from __future__ import annotations

import json
from pathlib import Path

from ..study.input_edits import check_edit, split
from ..study.parameters import Parameters
from .findings import Finding

TRANSFORMERS = ("transformer", "transformer_2")


def method_findings(name: str, parameters: Parameters, folder: Path, asked: set[tuple[str, str]]) -> list[Finding]:
    """Of the methods that the sweeps of a backbone have."""
    from methods.registry import from_dict  # loads torch

    found, used = [], dict.fromkeys(m for s in parameters.sweeps.values() if s.backbone == name for m in s.methods)
    model = None
    for method in used:
        edits, steered = split(parameters.methods[method])
        for settings in [*edits, *steered]:
            try:
                if settings in edits:
                    check_edit(settings)
                    continue
                made = from_dict(settings)
                if clip := getattr(made, "clip", None):  # it loads what it needs when it is checked
                    if not Path(clip).is_dir():
                        raise ValueError(f"there is no folder {clip} of a CLIP model")
                    continue
                model = model or _describe(folder)
                made.check(model)
                if (name, "steps") not in asked:
                    _acts(made, parameters.backbones[name].steps)
            except (ValueError, TypeError) as error:
                found.append(Finding("blocks", name, f"{method}: {' '.join(str(error).split())}"))
            except (OSError, KeyError, AttributeError) as error:
                return [*found, Finding("note", name, f"its methods cannot be checked against {folder}: {error}")]
    return found


def _describe(folder: Path):
    import diffusers
    from accelerate import init_empty_weights

    from methods.families import describe

    config = json.loads((folder / "transformer/config.json").read_text())
    with init_empty_weights():
        return describe(getattr(diffusers, config["_class_name"]).from_config(config))


def _acts(method, steps: int) -> None:
    """Raise ValueError for a window in fractions of the steps that has none of them."""
    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import FRACTIONS, in_window

    window = getattr(method, "window", None)
    if (
        window is None or getattr(method, "variant", "paper") == "released"
    ):  # by the schedule's times, which nobody knows here
        return
    if not isinstance(window, str) or window in FRACTIONS:
        in_window(window, ForwardContext(step=0, steps=steps, timestep=1000.0, branch="cond"))
