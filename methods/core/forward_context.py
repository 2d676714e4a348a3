"""Where a forward pass of the transformer stands: denoising step, time, guidance branch and guidance scale."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ..families import family_of

# What diffusers' pipelines call their branches in `transformer.cache_context(name)`.
BRANCHES = {"pred_cond": "cond", "pred_uncond": "uncond", "cond_uncond": "both"}


@dataclass(frozen=True)
class ForwardContext:
    """One forward pass of the transformer.

    step: from 0, of `steps` (None if unknown). timestep: in 0..1000, as the model is given it.
    branch: of classifier-free guidance, "cond", "uncond", or "both" ([uncond, cond] in one batch).
    guidance: its scale, if the pipeline tells it. pipe: the pipeline that runs, if it was steered.
    """

    step: int
    steps: int | None
    timestep: float
    branch: str
    guidance: float | None = None
    pipe: object | None = field(default=None, repr=False, compare=False)

    @property
    def fraction(self) -> float:
        """(step + 1) / steps, the t / T of the papers, in (0, 1]. Raises ValueError if the number of steps is unknown."""
        if self.steps is None:
            raise ValueError("a window in fractions of the steps needs their number: steer a pipeline, or give steps=")
        return (self.step + 1) / self.steps

    def conditional(self, batch: int) -> slice:
        """The samples of a batch of that size that belong to the conditional branch."""
        return slice({"cond": 0, "uncond": batch, "both": batch // 2}[self.branch], batch)


class StepCounter:
    """Follows a sampling loop from one forward pass to the next.

    step: of the current pass, from 0. steps: of the loop, None if unknown. earlier_calls: passes before it at this step.
    """

    def __init__(self):
        self.step, self.steps, self.earlier_calls = -1, None, 0
        self._calls, self._last_time, self._last_schedule = 0, None, None

    def advance(self, pipe, timestep: float, steps: int | None) -> None:
        """Note that a forward pass begins. timestep: as the model is given it; steps: as the user says."""
        now = getattr(pipe, "current_timestep", None)
        if now is not None:  # exact, while the model may be given a rounded time
            schedule = pipe.scheduler.timesteps
            if now is not self._last_time or schedule is not self._last_schedule:
                self.step, self._calls = int((schedule == now).nonzero().flatten()[0]), 0
            self._last_time, self._last_schedule, steps = now, schedule, len(schedule)
        elif self._last_time is None or timestep != self._last_time:
            # Time decreases within a sampling loop; an increase starts another loop.
            restarted = not isinstance(self._last_time, float) or timestep > self._last_time
            self.step, self._calls, self._last_time = 0 if restarted else self.step + 1, 0, timestep
        self.steps, self.earlier_calls, self._calls = steps, self._calls, self._calls + 1


def read_context(
    counter: StepCounter, transformer: nn.Module, pipe, cache_context: str | None, timestep: float
) -> ForwardContext:
    """The context of the forward pass that `counter` has just been advanced to.

    cache_context: the name under which the pipeline runs it (`transformer.cache_context(name)`), None if it gives none.
    """
    branch = _branch(cache_context, counter.earlier_calls, pipe)
    return ForwardContext(counter.step, counter.steps, timestep, branch, _guidance_scale(pipe, transformer), pipe)


def _branch(cache_context: str | None, earlier_calls: int, pipe) -> str:
    if cache_context is None:  # pipelines that give no name run the conditional branch first
        return "uncond" if earlier_calls % 2 else "cond"
    branch = BRANCHES.get(cache_context, cache_context)
    return "cond" if branch == "both" and not guided(pipe) else branch


def guided(pipe) -> bool:
    """Whether a pipeline runs the unconditional branch too; CogVideoX's pipelines only tell the scale."""
    scale = getattr(pipe, "guidance_scale", None)
    return getattr(pipe, "do_classifier_free_guidance", scale is None or scale > 1)


def _guidance_scale(pipe, transformer: nn.Module) -> float | None:
    if family_of(transformer).distilled_guidance:
        return None
    scale = getattr(pipe, "guidance_scale", None)
    if transformer is getattr(pipe, "transformer_2", None):  # Wan 2.2 A14B has one scale per expert
        scale = getattr(pipe, "_guidance_scale_2", None) or scale
    return scale
