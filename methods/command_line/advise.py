"""`python -m methods advise MODEL`: what to try first on a pipeline whose videos leave the reference as it is.

Reads configuration files, and advice.yaml of this package: what a study of small models found, and what papers report.
"""

from __future__ import annotations

import re
from argparse import Namespace
from functools import cache
from pathlib import Path

from ..families import describe
from ..registry import from_dict
from .checkpoint import Checkpoint, open_checkpoint
from .guidance import default_guidance, guidance_argument, guided
from .noise_schedule import is_flow, plan_schedule, planned_scheduler
from .numbers import number, whole

ADVICE = Path(__file__).parents[1] / "advice.yaml"


def add_advise(commands) -> None:
    """Add the command `advise` to the sub-parsers of argparse."""
    p = commands.add_parser("advise", help="what to try first on a pipeline", description=__doc__)
    p.add_argument("model", help="folder of a diffusers pipeline, or a hub name")
    p.add_argument("--revision", help="revision of a hub name")
    p.add_argument("--steps", type=int, help="denoising steps; default: the pipeline's")
    p.add_argument("--guidance", type=float, help="guidance scale; default: the pipeline's")


def advise(options) -> None:
    """Print the remedies for a pipeline, the best first."""
    checkpoint = open_checkpoint(options.model, options.revision)
    whole("--steps", options.steps, 1)
    number("--guidance", options.guidance, at_least=0)
    print(in_words(checkpoint, options.steps, options.guidance))


@cache
def load_advice() -> dict:
    """The content of advice.yaml."""
    import yaml  # comes with huggingface_hub

    return yaml.safe_load(ADVICE.read_text())


def levels(checkpoint: Checkpoint, steps: int) -> tuple[str, list[float]]:
    """("flow" or "diffusion", the noise level of each step, from 1 at pure noise, and 0 at the end) of the checkpoint's own
    scheduler; no levels where only the pipeline knows its times."""
    name = checkpoint.component("scheduler") or ""
    kind = "flow" if is_flow(name, checkpoint.config("scheduler")) else "diffusion"
    schedule = plan_schedule(checkpoint, Namespace(scheduler=None, flow_shift=None), [])
    scheduler = planned_scheduler(checkpoint, schedule, steps)
    if scheduler is None:
        return kind, []
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    if kind == "flow" or cumulative is None:
        return kind, [float(t) / 1000 for t in scheduler.timesteps] + [0.0]
    return kind, [float((1 - cumulative[round(float(t))]) ** 0.5) for t in scheduler.timesteps] + [0.0]


def in_words(checkpoint: Checkpoint, steps: int | None, guidance: float | None) -> str:
    """The remedies that the pipeline takes, ranked, then those that it refuses, with the reason. Raises ValueError for a pipeline
    without a transformer, TypeError for one of a family that methods do not know."""
    if not checkpoint.transformers:
        raise ValueError(f"{checkpoint.pipeline.__name__} has no transformer, in which the remedies act")
    argument = guidance_argument(checkpoint)
    steps = steps or checkpoint.call["num_inference_steps"].default
    guidance = default_guidance(checkpoint) if guidance is None and argument else guidance
    is_guided = guided(checkpoint, {}, guidance)
    kind, noise = levels(checkpoint, steps)
    model = describe(next(iter(checkpoint.transformers.values())), None)
    found = load_advice()
    lines = [
        f"{checkpoint.model}: {checkpoint.pipeline.__name__}, {steps} steps, guidance {guidance}{'' if is_guided else ' (no unconditional pass)'}"
    ]
    if not found["measured"]:
        lines.append("what a small world found is not measured yet: the order is that of the list of remedies")
    taken, refused = [], []
    for remedy in ranked(found["remedies"], model.family, is_guided):
        why = refusal(remedy, model, is_guided)
        (refused if why else taken).append((remedy, why))
    for place, (remedy, _) in enumerate(taken, 1):
        lines += [f"{place}. {remedy['label']}: {code_for(remedy, kind, model)}"]
        if remedy["noise"]:
            lines.append(f"    acts {_where(remedy, kind, noise)}")
        own = [row for row in remedy["found"] if row["family"] == model.family] or remedy["found"]
        lines += [f"    small world, {_measured(row, found['loss'])}" for row in own] or [
            "    small world: not measured yet"
        ]
        lines += [f"    reported: {said}" for said in remedy["reported"]] + [f"    default from: {remedy['source']}"]
    lines += [f"not here: {remedy['label']}: {why}" for remedy, why in refused]
    return "\n".join(lines)


def ranked(remedies: list[dict], family: str, is_guided: bool) -> list[dict]:
    """Those with the largest clear gain in adherence first, of this family where it was measured and nearest to how the pipeline
    is guided; then the others in their order."""

    def gain(remedy: dict) -> float:
        rows = [
            r for r in remedy["found"] if r["clear"] and "adherence" in r["gain"] and (r["guidance"] > 1) == is_guided
        ]
        rows = [r for r in rows if r["family"] == family] or rows
        return max((r["change"] for r in rows), default=0.0)

    return sorted(remedies, key=lambda remedy: -gain(remedy))


def refusal(remedy: dict, model, is_guided: bool) -> str:
    """Why a pipeline does not take a remedy, "" if it does."""
    if remedy["needs_guidance"] and not is_guided:
        return "it needs guidance, which is off"
    try:
        for part in remedy["check"]:
            from_dict(part).check(model)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def code_for(remedy: dict, kind: str, model) -> str:
    """The line of code, with the window as a part of the noise path, and the blocks by their depth."""
    code = remedy["code"]
    if remedy["noise"]:
        high, low = part_of(remedy, kind)
        code = code.replace("{window}", f'("noise", {high:g}, {low:g})')
    count = len(model.blocks)
    return re.sub(r"\{block:([\d.]+)\}", lambda m: str(min(count - 1, int(float(m[1]) * count))), code)


def part_of(remedy: dict, kind: str) -> tuple[float, float]:
    """(high, low) noise level between which a remedy acts, for this kind of schedule or else the one that there is."""
    return tuple(remedy["noise"].get(kind) or next(iter(remedy["noise"].values())))


def steps_in(noise: list[float], high: float, low: float) -> list[int]:
    """Positions, from 0, of the steps whose noise level is at most `high` and above `low`, as windows by noise have it."""
    return [i for i, level in enumerate(noise[:-1]) if low < level <= high]


def _where(remedy: dict, kind: str, noise: list[float]) -> str:
    high, low = part_of(remedy, kind)
    inside = steps_in(noise, high, low)
    said = f"at noise {high:g} to {low:g}"
    if not noise:
        return f"{said}; its steps depend on the size of the video"
    return f"{said}: " + (
        f"steps {inside[0] + 1} to {inside[-1] + 1} of {len(noise) - 1}"
        if inside
        else f"in none of the {len(noise) - 1} steps: widen it"
    )


def _measured(row: dict, loss: float) -> str:
    where = f"{row['family'].split('Transformer')[0]} at guidance {row['guidance']:g}"
    said = f"{row['change']:+.1f} {row['gain']} ({row['low']:.1f} to {row['high']:.1f}, {row['prompts']} prompts)"
    lost = (
        f"where {loss:g} dB of fidelity are lost"
        if row["reached"]
        else f"at its strongest, which loses less than {loss:g} dB"
    )
    return f"{where}: {said} {lost}{'' if row['clear'] else ', not clear'}"
