"""`study check`: everything that would stop a study, at once and before a model is loaded."""

from __future__ import annotations

import shutil
from copy import deepcopy

from ..study.parameters import Parameters, of_the_small_run
from ..study.presets import load_presets, presets_of_table, split_table
from .check_benchmark import benchmark_findings
from .check_checkpoint import checkpoint_findings, local_folder
from .check_methods import method_findings
from .check_packages import package_findings
from .findings import Finding
from .new_study import LEFT_OUT, slug
from .plan_study import disk_needed
from .settings import setting_of
from .study import Study, unstated
from .validate import problems_of

# What stands in for a setting that has to be stated, so that the others can be checked; what depends on it is not.
STAND_INS = {"checkpoint": "unstated", "dtype": "float32", "fps": 1, "steps": 1, "frames": 1, "width": 16, "height": 16,
             "negative_prompt": "", "seeds": [0], "guidance_scale": [1.0], "samples": 1}  # fmt: skip


def check_study(study: Study, scorers: list[str] | None = None) -> list[Finding]:
    """All findings: settings, benchmark, checkpoints, methods, packages, disk."""
    raw = study.raw()
    missing = unstated(raw)
    found = _settings(study, missing)
    wrong = problems_of(raw, missing)
    found += [Finding("blocks", "params.yaml", said) for said in wrong]
    found += _rows(study)
    if wrong:
        return found
    parameters = provisional(raw, missing)
    asked = {setting_of(path) for path in missing}
    used = dict.fromkeys(s.backbone for s in parameters.sweeps.values())
    with study.inside():
        found += benchmark_findings(study, parameters, asked)
        for name in used:
            if (name, "checkpoint") not in asked:
                found += checkpoint_findings(name, parameters.backbones[name], asked)
                folder = local_folder(parameters.backbones[name])
                if folder is not None:
                    found += method_findings(name, parameters, folder, asked)
        found += package_findings(parameters, scorers)
        if not missing and not any(f.level == "blocks" for f in found):
            found += _disk(parameters)
    return found


def provisional(raw: dict, missing: list[str]) -> Parameters:
    """The parameters with something in the place of what is not stated, to check the rest by."""
    raw = deepcopy(raw)
    unknown = {setting_of(path)[0] for path in missing if path.startswith("methods.")}
    raw["methods"] = {k: v for k, v in raw["methods"].items() if k not in unknown}
    for sweep in raw["sweeps"].values():
        if "methods" in sweep:
            sweep["methods"] = [m for m in sweep["methods"] if m not in unknown] or ["none"]
    for path in (path for path in missing if not path.startswith("methods.")):
        *parents, last = _path(raw, path)
        inside = raw
        for name in parents:
            inside = inside[name]
        if last in STAND_INS:
            inside[last] = STAND_INS[last]
        else:
            del inside[last]
    return of_the_small_run(Parameters.model_validate(raw))


def _path(raw: dict, dotted: str) -> list[str]:
    """The keys of a dotted path; keys may hold dots themselves, as `wan2.1` does."""
    keys, inside, words = [], raw, dotted.split(".")
    while words:
        count = next(n for n in range(1, len(words) + 1) if ".".join(words[:n]) in map(str, inside or {}))
        keys.append(".".join(words[:count]))
        inside, words = inside[keys[-1]], words[count:]
    return keys


def _settings(study: Study, missing: list[str]) -> list[Finding]:
    """What has to be stated, with what is known of it."""
    notes = {}
    if study.of_table:
        for preset in presets_of_table(study.of_table.table).values():
            notes |= {(slug(preset.backbone), key): note for key, note in preset.unstated.items()}
            notes |= {(preset.method, key): note for key, note in preset.asked.items()}
    found = []
    for path in missing:
        name, key = setting_of(path)
        if key == "seeds" or key == "guidance_scale":
            name = study.raw()["sweeps"].get(name, {}).get("backbone", name)
        note = notes.get((name, key), "it is null")
        option = f"--{key.replace('_', '-')}"
        own = ", or `own`" if key in ("scheduler", "flow_shift", "fit", "vae_dtype", "true_cfg_scale") else ""
        found.append(
            Finding(
                "blocks",
                name,
                f"{key} has to be stated: {note} (`python -m analysis study set {study.command} {name} {option} VALUE`{own})",
            )
        )
    return found


def _rows(study: Study) -> list[Finding]:
    if not study.of_table:
        return []
    paper, table = split_table(study.of_table.table)
    said = load_presets()[paper].tables[table].note
    found = [Finding("note", study.of_table.table, said)] if said else []
    left_out = [label for label, row in study.of_table.rows.items() if row.missing == LEFT_OUT]
    for label, row in study.of_table.rows.items():
        if row.missing and row.missing != LEFT_OUT:
            found.append(Finding("note", label, f"this row is not made: {row.missing}"))
    if left_out:
        found.append(Finding("note", "rows", f"{len(left_out)} are not made, as {LEFT_OUT}: {'; '.join(left_out)}"))
    return found


def _disk(parameters: Parameters) -> list[Finding]:
    needed, free = disk_needed(parameters), shutil.disk_usage(".").free
    said = f"about {needed / 1e9:.2f} GB are needed for the videos that are missing, {free / 1e9:.2f} GB are free"
    return [Finding("blocks" if needed > free else "fine", "disk", said)]
