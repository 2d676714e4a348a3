"""Why a cell of a paper's table has no number, and the command that makes the row's video."""

from __future__ import annotations

import json

from ..study.parameters import Parameters
from ..study.score_columns import MOTION
from .real_rows import preset_runs
from .table_schema import Metric, Model, Row

OLDER = "scored before this column existed"
RATE = "python -m analysis rate MANIFEST.csv --pairs 60 --raters 5 -o FOLDER"


def sweeps_of(row: Row, model: Model, parameters: Parameters) -> list[str]:
    """The sweeps of params.yaml that make the videos of a row, on samples' own references unless the row names one."""
    scale = row.scale(model)
    return [
        name
        for name, s in parameters.sweeps.items()
        if (row.sweep == name if row.sweep else s.reference == "own" and s.prompts == "own")
        and (s.backbone == model.stand_in and row.method in s.methods and scale in s.guidance_scale and 0.0 in s.blur)
    ]


def command(row: Row, model: Model, parameters: Parameters, published: dict, paper: str) -> str:
    """What makes a video of this row on the paper's backbone, with `methods` alone; "" where nothing here can.

    Steps and guidance are the paper's own, where published.csv has them; the guidance is the row's, where a row is about
    one, and else the scale at which the stand-in is measured.
    """
    settings = row.real if row.real is not None else parameters.methods.get(row.method)
    if model.model is None or settings is None:
        return ""
    own = {name: published[(paper, *where)]["value"] for name, where in model.settings.items()}
    guidance = own.get("guidance", model.guidance_scale) if row.guidance_scale is None else row.guidance_scale
    words = ["python -m methods generate", f"--model {model.model}"]
    words += ["--image IMAGE.png"] if model.image else []
    words += ["--prompt PROMPT"] + ([f"--steps {own['steps']}"] if "steps" in own else []) + [f"--guidance {guidance}"]
    words += [f"--pipe {name}={value}" for name, value in model.options.items()]
    words += [f"--method '{json.dumps(s)}'" for s in settings]
    return " ".join([*words, "-o VIDEO.mp4"])


def study_command(paper: str, table: str, row: Row) -> str:
    """What begins a study that fills a row with videos of the paper's own model; "" for a row without presets."""
    if not preset_runs(paper, table, row.row):
        return ""
    return f"python -m analysis study new NAME --table {paper}/{table.removeprefix('table')} --benchmark DIR"


def explain(
    found: dict, row: Row, model: Model, metric: Metric, parameters: Parameters, real: str, study: str = ""
) -> dict:
    """Why a cell has no number, and what would give it one: a sweep, if one has the row's setting and was not run or not
    scored since; else `study`, which fills the row with videos of the paper's backbone, or, where the paper's table has no
    presets, `real`, which makes one such video. A cell with a number has `real`, too; what people rate has the rating sheet."""
    state, reason = found["measured"], found.get("reason", "")
    if any(name.startswith("human_") for name in metric.real):
        return {"reason": metric.none, "command": RATE}
    if state == "no stand-in":
        return {"reason": metric.none, "command": (study if metric.real else "") or real}
    if state != "not run":
        return {"command": real}
    todo = [
        s for s in sweeps_of(row, model, parameters) if metric.measured in MOTION or not parameters.sweeps[s].categories
    ]
    todo.sort(key=lambda s: parameters.sweeps[s].record is not None)  # what is recorded takes longer
    if reason:
        return {"command": f"python -m analysis score {todo[0]}" if reason == OLDER and todo else ""}
    if todo:
        return {
            "reason": f"no scores of {row.method} at guidance {row.scale(model)} on {model.stand_in}",
            "command": f"python -m analysis generate {todo[0]} && python -m analysis score {todo[0]}",
        }
    needed = f"needs {model.model}" if model.model and not model.stand_in else ""
    if model.stand_in and row.method:
        needed = f"no sweep of params.yaml has {row.method} at guidance {row.scale(model)} on {model.stand_in}"
    reasons = [needed] if model.stand_in and row.method else [needed, model.note]
    return {
        "reason": row.why or "; ".join(filter(None, reasons)) or "no sweep of params.yaml has it",
        "command": study or real,
    }
