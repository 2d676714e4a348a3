"""The scheduler: another class of diffusers, another flow shift, and the times that it will step through."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np

from .checkpoint import Checkpoint
from .numbers import number


@dataclass(frozen=True)
class Schedule:
    """kind: the scheduler's class. changed: settings that differ from the checkpoint's. config: all of them."""

    kind: type
    changed: dict
    config: dict

    def apply(self, pipe) -> None:
        """Give the pipeline this scheduler, if it is not its own."""
        if self.changed or type(pipe.scheduler) is not self.kind:
            pipe.scheduler = self.kind.from_config(pipe.scheduler.config, **self.changed)


def is_flow(kind: str, config: dict) -> bool:
    """Whether a scheduler integrates a flow (Wan, HunyuanVideo, LTX) rather than a diffusion (CogVideoX)."""
    return (
        "FlowMatch" in kind or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"
    )


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The settings of a scheduler's class."""
    return dict(inspect.signature(kind.__init__).parameters)


def shift_name(kind: type) -> str | None:
    """What a class calls its flow shift."""
    return next((n for n in ("flow_shift", "shift") if n in parameters(kind)), None)


def plan_schedule(checkpoint: Checkpoint, options, lines: list[str]) -> Schedule:
    """The scheduler with the changes of --scheduler and --flow-shift. Raises ValueError for what does not fit the model."""
    import diffusers

    own_name, config = checkpoint.component("scheduler"), checkpoint.config("scheduler")
    own = getattr(diffusers, own_name)
    kind, changed = own, {}
    if options.scheduler is not None and options.scheduler != own_name:
        kind = _other(checkpoint, options.scheduler, config)
        if is_flow(own_name, config) and "use_flow_sigmas" in parameters(kind):
            changed |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        old, new = shift_name(own), shift_name(kind)
        if old in config and new and old != new:
            changed[new] = config[old]
        known = {
            *parameters(kind),
            old,
            "use_flow_sigmas",
            "prediction_type",
        }  # flow matching is what a FlowMatch... does
        lost = [k for k in config if k in parameters(own) and k not in known]
        lost = [f"{k}={config[k]}" for k in lost if config[k] != parameters(own)[k].default]
        if lost:
            lines.append(f"note: {kind.__name__} has no {', '.join(lost)}, which the checkpoint's {own_name} has")
    shift = number("--flow-shift", options.flow_shift, above=0)
    if shift is not None:
        if shift_name(kind) is None or not is_flow(kind.__name__, config | changed):
            raise ValueError(f"--flow-shift {shift}: {kind.__name__} of this checkpoint has no flow shift")
        if config.get("use_dynamic_shifting"):
            raise ValueError(
                f"--flow-shift {shift}: {kind.__name__} of this checkpoint computes the shift from the size of the video "
                "(use_dynamic_shifting) and would ignore it"
            )
        changed[shift_name(kind)] = shift
    total = {k: v for k, v in (config | changed).items() if k in parameters(kind)}
    name = shift_name(kind)
    at = f", {name} {total[name]}" if name in total and is_flow(kind.__name__, total) else ""
    at = ", shift from the size of the video" if total.get("use_dynamic_shifting") else at
    lines.append(
        f"scheduler {kind.__name__}{at} ({'as asked' if changed or kind is not own else 'from the checkpoint'})"
    )
    return Schedule(kind, changed, total)


def _other(checkpoint: Checkpoint, name: str, config: dict) -> type:
    import diffusers

    own = checkpoint.component("scheduler")
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"--scheduler {name}: diffusers has no scheduler of that name; the checkpoint's is {own}")
    if is_flow(own, config):
        fits = "FlowMatch" in name or "use_flow_sigmas" in parameters(kind)
        wanted = (
            "one for flow models: FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler"
        )
    else:
        fits = "FlowMatch" not in name and name.startswith("CogVideoX") == own.startswith("CogVideoX")
        wanted = f"one of the kind of {own}" + (
            ": CogVideoXDDIMScheduler, CogVideoXDPMScheduler" if own.startswith("CogVideoX") else ""
        )
    if not fits:
        raise ValueError(f"--scheduler {name} does not fit this model, which needs {wanted}")
    if config.get("use_dynamic_shifting") and "mu" not in inspect.signature(kind.set_timesteps).parameters:
        raise ValueError(f"--scheduler {name} cannot take the shift that this pipeline computes from the video's size")
    return kind


def planned_scheduler(checkpoint: Checkpoint, schedule: Schedule, steps: int):
    """A scheduler with the times of so many steps set; None where they depend on what only the pipeline knows."""
    if schedule.config.get("use_dynamic_shifting"):
        return None
    scheduler = schedule.kind.from_config(schedule.config)
    takes = inspect.signature(scheduler.set_timesteps).parameters
    if "sigmas" in checkpoint.call and "sigmas" in takes:  # Hunyuan's pipelines give the sigmas themselves
        counted = (
            {"num_inference_steps": steps} if takes["num_inference_steps"].default is inspect.Parameter.empty else {}
        )
        scheduler.set_timesteps(**counted, sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])
    else:
        scheduler.set_timesteps(steps)
    return scheduler
