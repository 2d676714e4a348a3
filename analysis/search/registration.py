"""What a search is to be held to, written down before it is tested: papers/registered/<lineage>.yaml.

The file names the settings, the measure, the rule, the held-out prompts and seeds, how many pairs there are and the smallest
difference that so many would show. `confirm` runs only on a file that is in git as it was written.
"""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from ruamel.yaml import YAML

from ..report.loosening_curves import KEPT
from ..study.files import content_key, write_atomically
from ..study.parameters import Parameters
from ..study.results_layout import lineage_of
from ..study.significance import detectable_difference
from .trials import OBJECTIVES, cost_of, ended

FOLDER = Path("papers/registered")
MEASURE = "adherence"
RULE = (
    "A setting is supported if the 95 % interval of its change in adherence from the unsteered videos, paired by prompt and "
    "seed, lies above 0 and p of the same mean, corrected by Holm over the settings of this file, is below 5 % "
    "(analysis/study/significance.py). Fidelity and displacement are reported beside it and decide nothing."
)


def choose(study: optuna.Study, loss: float, count: int) -> list[FrozenTrial]:
    """The trials of the front of all objectives that lose at most `loss` dB of KEPT and raise adherence, most adherence first
    (then most fidelity, then the earlier one), `count` of them with different methods. Raises ValueError if there is none."""
    plain = {c: np.mean(v) for c, v in study.user_attrs["unsteered"].items()}
    found, names = [], set()
    for trial in sorted(study.best_trials, key=lambda t: (-t.values[0], -t.values[1], t.number)):
        values = dict(zip(OBJECTIVES, trial.values, strict=True))
        own = tuple(trial.user_attrs["names"])
        if values[KEPT] >= plain[KEPT] - loss and values[MEASURE] > plain[MEASURE] and own not in names:
            names.add(own)
            found.append(trial)
    if not found:
        raise ValueError(
            f"no combination of {ended(study)} raises adherence at a loss of at most {loss:g} dB: nothing to register"
        )
    return found[:count]


def register(
    study: optuna.Study, parameters: Parameters, backbone: str, weights: str, held_out: str, path: Path
) -> dict:
    """Write the registration of a finished search and return it. weights, held_out: what identifies the model and the held-out
    prompts. Raises ValueError for a search that has not ended."""
    search = parameters.search
    if (tried := ended(study)) < search.trials:
        raise ValueError(f"{tried} of {search.trials} trials have ended: let the search finish, and register it then")
    plain, settings = study.user_attrs["unsteered"], []
    for trial in choose(study, search.loss, search.registered):
        own = trial.user_attrs["per prompt"]
        change = {c: float(np.mean(own[c]) - np.mean(plain[c])) for c in OBJECTIVES}
        spread = np.subtract(own[MEASURE], plain[MEASURE])
        settings.append(
            {
                "name": "+".join(trial.user_attrs["names"]),
                "trial": trial.number,
                **trial.user_attrs["setting"],
                "tuning_change": {c: round(v, 4) for c, v in change.items()},
                "detectable": round(detectable_difference(spread, search.held_out.prompts), 4),
            }
        )
    content = {
        "lineage": lineage_of(backbone), "backbone": backbone, "weights": weights,
        "search": cost_of(study) | {"sampler": "TPE", "seed": search.seed, "made_for": study.user_attrs["made_for"]},
        "guidance_scale": search.guidance_scale, "tuning": search.tuning.model_dump(),
        "held_out": search.held_out.model_dump() | {"key": held_out},
        "measure": MEASURE, "unit": "share of prompts followed", "rule": RULE, "largest_loss": search.loss,
        "pairs": search.held_out.prompts, "videos_per_setting": search.held_out.prompts * len(search.held_out.seeds),
        "settings": settings,
    }  # fmt: skip
    content["digest"] = content_key(content)
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.dump(content, text)
    head = f"# Written by `python -m analysis register-combinations {content['lineage']}` before anything was confirmed; not to be edited.\n"
    write_atomically(path, lambda p: p.write_text(head + text.getvalue()))
    return content


def read_registration(path: Path) -> dict:
    """The registration as it was written and committed. Raises ValueError if it is missing, was edited since it was written, is
    not committed to git, or differs from what is."""
    if not path.is_file():
        raise ValueError(
            f"no {path}: write it by `python -m analysis register-combinations {path.stem}` and commit it first"
        )
    content = YAML(typ="safe", pure=True).load(path.read_text())
    rest = {k: v for k, v in content.items() if k != "digest"}
    if content.get("digest") != content_key(rest):
        raise ValueError(
            f"{path} was changed since it was written: its digest is {content.get('digest')}, of what it says {content_key(rest)}"
        )
    if _git("cat-file", "-e", f"HEAD:./{path.name}", folder=path.parent):
        raise ValueError(f"{path} is not committed: a registration counts when it is in git before its test")
    if _git("diff", "--quiet", "HEAD", "--", path.name, folder=path.parent):
        raise ValueError(f"{path} differs from the committed one: commit it, or take the committed one back")
    return content


def _git(*arguments: str, folder: Path) -> int:
    """Exit status of a git command in a folder. Raises ValueError without git."""
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True).returncode
    except FileNotFoundError:
        raise ValueError("git is not installed: nothing can say whether the registration is committed") from None
