"""Ways to loosen the reference: each remedy as a curve over its strength, read off at one loss of fidelity and at one cost.

A point of a curve is a setting; what it does is taken per prompt, as the change from the unsteered video of the same prompt and
noise. Between two settings the curve is a straight line, of every prompt as of the mean. To read it off where the mean
fidelity has fallen by `loss`, at the share t of the way between settings i and i + 1, each prompt has the value

    v = y(t) - b (x(t) + loss),   b = (mean y_{i+1} - mean y_i) / (mean x_{i+1} - mean x_i),

whose mean is the curve's. The second term is what a prompt adds to the place where the curve is read (the first-order change
of t), so that an interval over the v holds the uncertainty of the matching, too; `significance` makes it from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ..study.input_edits import check_edit, split
from ..study.parameters import Parameters
from ..study.results_layout import lineage_of, study_of
from ..study.score_columns import COLUMNS
from ..study.significance import holm, mean_and_p, paired, prompt_means
from .score_tables import NoTables, sweep_table

REMEDIES = Path(__file__).parents[2] / "papers/remedies.yaml"
STUDY = "loosening"  # how the names of the sweeps begin
KEPT = "kept_psnr"  # fidelity of what must not change, in dB
GAINS = {"adherence": "all", "asked_px": "motion"}  # what is to rise, and on which prompts it is measured
UNSTEERED = "none"


@dataclass(frozen=True)
class Remedy:
    """An entry of papers/remedies.yaml, which says what each field is."""

    name: str
    label: str
    kind: str
    needs_guidance: bool
    settings: tuple[str, ...]
    default: dict[str, str] | None
    source: str
    code: str
    window: tuple[float, float] | None
    reported: tuple[tuple[str, ...], ...]

    def default_of(self, lineage: str) -> str | None:
        """The setting that the makers publish, as far as it is one of this lineage."""
        known = self.default or {}
        return known.get(lineage, known.get("all"))


def load_remedies(path: Path = REMEDIES) -> list[Remedy]:
    """The remedies in their order. Raises ValueError for an entry with other fields, or a default that is no setting of it."""
    found = []
    for entry in YAML(typ="safe", pure=True).load(path.read_text()):
        if set(entry) != set(Remedy.__dataclass_fields__):
            raise ValueError(f"{path}, {entry.get('name')}: fields are {', '.join(Remedy.__dataclass_fields__)}")
        lists = {
            k: tuple(map(tuple, v)) if k == "reported" else tuple(v) for k, v in entry.items() if isinstance(v, list)
        }
        found.append(Remedy(**(entry | lists)))
        if unknown := set((entry["default"] or {}).values()) - set(entry["settings"]):
            raise ValueError(f"{path}, {entry['name']}: the default {unknown.pop()!r} is none of its settings")
    return found


def point_of(setting: str, base: float) -> tuple[str, float]:
    """(setting, guidance scale) of a name such as `apg@5`, or of one without a scale at the scale `base`."""
    name, _, scale = setting.partition("@")
    return name, float(scale) if scale else base


def load_scores(parameters: Parameters, backbone: str) -> pd.DataFrame:
    """The scores of the study's sweeps on a backbone's lineage, a row per video, with columns `setting` (the name in
    params.yaml, or blur-S) and KEPT: the mean of the fidelity of background and objects, or of the background alone where no
    object has to stay. Raises NoTables where none is there."""
    tables = []
    for name, sweep in parameters.sweeps.items():
        if of_this_study(parameters, name) and sweep.backbone == backbone and sweep.record is None:
            tables.append(sweep_table(parameters, name))
    if not tables:
        raise NoTables(f"params.yaml has no sweep {STUDY} of {backbone} in a run of this size")
    scores = pd.concat(tables, ignore_index=True)
    blurred = scores["blur"] > 0
    scores["setting"] = scores["method"].where(~blurred, "blur-" + scores["blur"].map("{:g}".format))
    return with_kept(scores).drop_duplicates(["setting", "guidance_scale", "sample", "seed"])


def of_this_study(parameters: Parameters, sweep: str) -> bool:
    """Whether a sweep is one of the loosening study's: it stands apart and begins with STUDY, its lineage's name left out."""
    own = parameters.sweeps[sweep]
    return own.apart and study_of(sweep, lineage_of(own.backbone)).startswith(STUDY)


def with_kept(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with a column KEPT: the mean of the fidelity of background and objects, or of the background alone where no
    object has to stay, in dB."""
    return scores.assign(**{KEPT: scores[["background_psnr", "subject_psnr"]].mean(axis=1)})


def of_prompts(scores: pd.DataFrame, which: str, order: list[str]) -> pd.DataFrame:
    """The rows of the prompts that ask for motion ("motion"), or ("all") of the benchmark's first prompts, up to the last one
    of the other events that was run, so that all events have their share. order: the samples of the benchmark."""
    moves = scores["main_category"] == "motion"
    if which == "motion":
        return scores[moves]
    place = scores["sample"].map({sample: i for i, sample in enumerate(order)})
    return scores[~moves | (place <= place[~moves].max())]


@dataclass(frozen=True)
class Change:
    """What a setting changes, per prompt in one order: x of KEPT, in dB, y of a column, in its unit."""

    setting: str
    scale: float
    x: np.ndarray
    y: np.ndarray


def change(scores: pd.DataFrame, point: tuple[str, float], base: tuple[str, float], column: str) -> Change:
    """A point against another one on the prompts and seeds of both. Raises ValueError where one has a video that the other
    does not have, or one without a value."""
    groups = [scores[(scores["setting"] == s) & (scores["guidance_scale"] == g)] for s, g in (point, base)]
    values = [prompt_means(*paired(*groups, c)) for c in (KEPT, column)]
    return Change(*point, values[0], COLUMNS[column].factor * values[1])


def curve(
    scores: pd.DataFrame, remedy: Remedy, base: float, column: str, reference: float | None = None
) -> list[Change]:
    """The points of a remedy by growing strength, from the unsteered videos at guidance `base` on, as changes from those at
    guidance `reference` (`base` if not given). Empty if the lineage has none of its settings at this base."""
    made = set(scores[["setting", "guidance_scale"]].itertuples(index=False, name=None))
    points = [point_of(s, base) for s in remedy.settings]
    points = [p for p in points if p in made and p[1] >= base]
    if remedy.name == "guidance":
        points = [p for p in points if p[1] > base]
    elif remedy.needs_guidance and base == 1:
        points = []
    origin = (UNSTEERED, base if reference is None else reference)
    return [change(scores, p, origin, column) for p in [(UNSTEERED, base), *points]] if points else []


@dataclass(frozen=True)
class Reading:
    """A curve at a loss of fidelity: y per prompt there, and the settings that it lies between, the second at share t."""

    y: np.ndarray
    between: tuple[Change, Change]
    t: float


def read_off(points: list[Change], loss: float) -> Reading | None:
    """Where a curve first loses `loss` (above 0, in dB), or None if it never does, or has lost more before it begins."""
    if not loss > 0:
        raise ValueError(f"a loss of fidelity to read curves off at is above 0 dB, not {loss}")
    for one, two in pairwise(points):
        a, b = one.x.mean(), two.x.mean()
        if a >= -loss >= b and a > b:
            t = (a + loss) / (a - b)
            x, y = ((1 - t) * p + t * q for p, q in ((one.x, two.x), (one.y, two.y)))
            slope = (two.y.mean() - one.y.mean()) / (b - a)
            return Reading(y - slope * (x + loss), (one, two), float(t))
    return None


def matched_fidelity(
    scores: pd.DataFrame, remedies: list[Remedy], bases: list[float], losses: list[float], order: list[str]
) -> pd.DataFrame:
    """A row per guidance scale, gain (GAINS), loss and remedy: change, low, high, p, n, at which settings, and the change less
    that of more guidance at the same loss with its interval. Where a curve never loses so much, `reached` is False, the change
    is that of its strongest setting, and `lost` says how much that loses. p (Holm): over the remedies of one reading."""
    rows = []
    for column, which in GAINS.items():
        own = of_prompts(scores, which, order)
        for base in bases:
            curves = {r.name: curve(own, r, base, column) for r in remedies}
            for loss in losses:
                more = read_off(curves.get("guidance", []), loss)
                for remedy in [r for r in remedies if curves[r.name]]:
                    points = curves[remedy.name]
                    found = read_off(points, loss)
                    y = points[-1].y if found is None else found.y
                    row = {"guidance_scale": base, "gain": column, "loss": loss, "remedy": remedy.name}
                    row |= _at(found, points) | _stated(y, "change")
                    if found is not None and more is not None and remedy.name != "guidance":
                        row |= _stated(found.y - more.y, "against guidance")
                    rows.append(row)
    table = pd.DataFrame(rows)
    for name in ("change", "against guidance"):
        if f"{name} p" in table:
            family = table[f"{name} p"].where(table["reached"])
            table[f"{name} p (Holm)"] = family.groupby(
                [table[k] for k in ("guidance_scale", "gain", "loss")]
            ).transform(holm)
    return table


def _at(found: Reading | None, points: list[Change]) -> dict:
    one, two = (points[-1], points[-1]) if found is None else found.between
    return {
        "reached": found is not None, "lost": float(-points[-1].x.mean()), "from": one.setting, "from scale": one.scale,
        "to": two.setting, "to scale": two.scale, "share": 1.0 if found is None else found.t,
    }  # fmt: skip


def _stated(values: np.ndarray, name: str) -> dict:
    found = mean_and_p(values, np.arange(len(values)))
    named = {name: found["mean"], f"{name} low": found["low"], f"{name} high": found["high"], f"{name} p": found["p"]}
    return named | {"n": found["n"]}


def matched_cost(
    scores: pd.DataFrame,
    passes: pd.DataFrame,
    remedies: list[Remedy],
    bases: list[float],
    loss: float,
    order: list[str],
) -> pd.DataFrame:
    """A row per gain, remedy and guidance scale: the passes per video of the stronger setting next to the reading, and the
    change from the unsteered videos *without guidance* at this loss against them, so that rows of one cost can be compared
    whatever guidance they have. Curves that never lose so much, or have lost more before they begin, are left out."""
    rows = []
    for column, which in GAINS.items():
        own = of_prompts(scores, which, order)
        for base in bases:
            for remedy in remedies:
                found = read_off(curve(own, remedy, base, column, reference=min(bases)), loss)
                if found is None:
                    continue
                strong = found.between[1]
                row = {"gain": column, "passes": passes_of(passes, strong.setting, strong.scale), "remedy": remedy.name}
                rows.append(row | {"guidance_scale": base, "at": strong.setting} | _stated(found.y, "change"))
    table = pd.DataFrame(rows, columns=None if rows else ["gain", "passes", "remedy", "guidance_scale", "at", "change"])
    return table.sort_values(["gain", "passes", "change"], ascending=[True, True, False], ignore_index=True)


def passes_of(passes: pd.DataFrame, setting: str, scale: float) -> float:
    """The counted passes of a video under a setting. Raises ValueError if they were not counted."""
    blur = float(setting.removeprefix("blur-")) if setting.startswith("blur-") else 0.0
    method = UNSTEERED if blur else setting
    own = (passes["method"] == method) & (passes["guidance_scale"] == scale) & (passes["blur"] == blur)
    if not own.any():
        raise ValueError(f"the passes of {setting} at guidance {scale:g} were not counted: run count-passes again")
    return float(passes.loc[own, "passes"].iloc[0])


def refusals(parameters: Parameters, backbone: str, remedies: list[Remedy], scores: pd.DataFrame) -> dict[str, str]:
    """{remedy: why it has no curve} of those that have none on a lineage: what the method itself says of the model, or that no
    sweep of this size of the run has it."""
    from methods.command_line.checkpoint import open_checkpoint
    from methods.families import describe
    from methods.registry import from_dict

    model = describe(open_checkpoint(parameters.backbones[backbone].checkpoint).skeleton("transformer"), None)
    made, reasons = set(scores["setting"]), {}
    for remedy in remedies:
        names = [point_of(s, 1.0)[0] for s in remedy.settings]
        if made & set(names) - {UNSTEERED} or (remedy.name == "guidance" and scores["guidance_scale"].nunique() > 1):
            continue
        reasons[remedy.name] = "no sweep of the lineage has it in this size of the run"
        for name in [n for n in names if n in parameters.methods]:
            edits, parts = split(parameters.methods[name])
            for edit in edits:
                check_edit(edit)
            try:
                for part in parts:
                    from_dict(part).check(model)
            except ValueError as error:
                reasons[remedy.name] = " ".join(str(error).split())
    return reasons
