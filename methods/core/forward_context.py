"""Where a forward pass of the transformer stands: denoising step, time, guidance branch and guidance scale."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ..families import family_of

# What diffusers' pipelines and guiders call their branches in `transformer.cache_context(name)`. A guider's further
# passes, such as `pred_cond_seg`, are extra passes over the condition.
BRANCHES = {
    "cond": "cond",
    "uncond": "uncond",
    "both": "both",
    "pred_cond": "cond",
    "pred_uncond": "uncond",
    "cond_uncond": "both",
}


@dataclass(frozen=True)
class ForwardContext:
    """One forward pass of the transformer.

    step: from 0, of `steps` (None if unknown). timestep: in 0..1000, as the model is given it.
    branch: of classifier-free guidance, "cond", "uncond", or "both" ([uncond, cond] in one batch).
    guidance: its scale, if the pipeline tells it. pipe: the pipeline that runs, if it was steered.
    extra: name of a pass beside those of classifier-free guidance, such as a guider's "pred_cond_seg" or one that a method
    runs; None for an ordinary one.
    """

    step: int
    steps: int | None
    timestep: float
    branch: str
    guidance: float | None = None
    pipe: object | None = field(default=None, repr=False, compare=False)
    extra: str | None = None

    @property
    def fraction(self) -> float:
        """(step + 1) / steps, the t / T of the papers, in (0, 1]. Raises ValueError if the number of steps is unknown."""
        return (self.step + 1) / self._number_of_steps()

    @property
    def position(self) -> float:
        """step / (steps - 1), 0 in the first step and 1 in the last. Raises ValueError if the number of steps is unknown."""
        return self.step / max(1, self._number_of_steps() - 1)

    def _number_of_steps(self) -> int:
        if self.steps is None:
            raise ValueError("a window in fractions of the steps needs their number: steer a pipeline, or give steps=")
        return self.steps

    @property
    def noise(self) -> float:
        """Noise level in [0, 1]: sigma of flow matching, sqrt(1 - alpha_bar) of a diffusion schedule. 1 is pure noise, so
        that a level means the same for every scheduler and number of steps."""
        cumulative = getattr(getattr(self.pipe, "scheduler", None), "alphas_cumprod", None)
        if cumulative is None:
            return self.timestep / 1000
        return float((1 - cumulative[round(self.timestep)]) ** 0.5)

    def conditional(self, batch: int) -> slice:
        """The samples of a batch of that size that belong to the conditional branch."""
        return slice({"cond": 0, "uncond": batch, "both": batch // 2}[self.branch], batch)


class UnknownBranch(ForwardContext):
    """The context of a second call at one time outside a pipeline: the next video, or the negative prompt? Reading its
    `branch` raises ValueError."""

    def __getattribute__(self, name):
        if name == "branch":
            raise ValueError(
                "the transformer was called twice at one time, and nothing says which call is which: name them with `with "
                'transformer.cache_context("cond")`, or give steer their order, branches=("cond",) or ("cond", "uncond")'
            )
        return super().__getattribute__(name)

    def __repr__(self):
        return f"UnknownBranch(step={self.step}, steps={self.steps}, timestep={self.timestep})"


class StepCounter:
    """Follows a sampling loop from one forward pass to the next.

    step: of the current pass, from 0. steps: of the loop, None if unknown. calls: names of the passes of this step so far,
    None for one without a name. both: whether the loop runs both branches in one batch, decided in its first step, because
    pipelines with a dynamic guidance scale pass through 1 later. by_time: steps are told by the time alone.
    """

    def __init__(self):
        self.step, self.steps, self.calls, self.both, self.by_time = -1, None, [], False, False
        self._last_time, self._last_schedule, self._fresh = None, None, True

    def advance(self, pipe, timestep: float, steps: int | None, name: str | None, branches: tuple[str, ...] | None):
        """Note that a forward pass begins. timestep: as the model is given it; steps, branches: as the user says; name: the
        one that the pass was given. Raises RuntimeError for more passes than a sampling loop makes in one step."""
        current, self.by_time = getattr(pipe, "current_timestep", None), False
        if current is not None:  # exact, while the model may be given a rounded time
            self._follow_pipeline(pipe, current)
            self._refuse_more(name)
        elif _tells_no_time(pipe) and hasattr(getattr(pipe, "scheduler", None), "step_index"):
            self._follow_scheduler(pipe.scheduler)
            self._refuse_more(name)
        else:
            self.by_time = True
            self._follow_time(timestep, steps, name, branches)
        if not self.calls and (self.step == 0 or self._fresh):
            self.both, self._fresh = guided(pipe), False
        self.calls.append(name)

    def _follow_pipeline(self, pipe, now) -> None:
        schedule = pipe.scheduler.timesteps
        # Video-to-video starts in the middle of the schedule: its steps are the last `num_timesteps`. The sampler may visit
        # one time twice, so the position is counted and only looked up at the start.
        used = getattr(pipe, "num_timesteps", None)
        first = len(schedule) - used if isinstance(used, int) and 0 < used <= len(schedule) else 0
        if now is not self._last_time or schedule is not self._last_schedule:
            following = first + self.step + 1
            goes_on = schedule is self._last_schedule and following < len(schedule) and schedule[following] == now
            self.step = self.step + 1 if goes_on else int((schedule[first:] == now).nonzero().flatten()[0])
            self.calls = []
        self._last_time, self._last_schedule, self.steps = now, schedule, len(schedule) - first

    def _follow_scheduler(self, scheduler) -> None:
        begin = getattr(scheduler, "begin_index", None) or 0
        step = scheduler.step_index - begin if scheduler.step_index is not None else 0
        if step != self.step or scheduler.timesteps is not self._last_schedule:
            self.step, self.calls = step, []
        self._last_schedule, self.steps = scheduler.timesteps, len(scheduler.timesteps) - begin

    def _follow_time(self, timestep: float, steps, name, branches) -> None:
        # Time decreases within a sampling loop; an increase starts another loop. Neighbouring times may be equal once
        # rounded to the model's dtype: a name that comes again, or a call after the last of `branches`, is a new step.
        again = name is not None and name in self.calls
        full = name is None and branches is not None and len(self.calls) == len(branches)
        last = self._last_time if isinstance(self._last_time, float) else None
        if last is None or timestep != last or again or full:
            restarted = last is None or timestep > last or (steps is not None and self.step + 1 == steps)
            self.step, self.calls, self._last_time = 0 if restarted else self.step + 1, [], timestep
        self.steps = steps

    def _refuse_more(self, name: str | None) -> None:
        if self.calls.count(name) >= (1 if name is not None else 2):
            raise RuntimeError(
                f"the transformer was called again in step {self.step} ({name or 'without a name'}): another pipeline or "
                "thread runs it too. Steering belongs to the transformer: give the other pipeline a copy of its own"
            )


def read_context(
    counter: StepCounter,
    transformer: nn.Module,
    pipe,
    name: str | None,
    timestep: float,
    branches: tuple[str, ...] | None = None,
) -> ForwardContext:
    """The context of the forward pass that `counter` has just been advanced to.

    name: the one under which the pipeline runs it (`transformer.cache_context(name)`), None if it gives none.
    branches: the order of unnamed passes in a step, if the user gave it.
    """
    index, family = len(counter.calls) - 1, family_of(transformer)
    values = dict(
        step=counter.step,
        steps=counter.steps,
        timestep=timestep,
        guidance=_guidance_scale(pipe, transformer),
        pipe=pipe,
    )
    if name is None:
        if branches is None and counter.by_time and index:
            return UnknownBranch(branch="cond", **values)
        # Pipelines that give no name run the conditional branch first.
        order = branches or ("cond", "uncond")
        return ForwardContext(branch=order[index % len(order)], **values)
    branch = BRANCHES.get(name)
    if branch is None:
        known = family.extra_passes.get(name)
        return ForwardContext(branch=known or ("uncond" if name.startswith(("uncond", "pred_uncond")) else "cond"),
                              extra=name, **values)  # fmt: skip
    return ForwardContext(branch="cond" if branch == "both" and not counter.both else branch, **values)


def _tells_no_time(pipe) -> bool:
    """Whether a pipeline never says at which time it is, as modular pipelines; their schedulers count the steps."""
    return pipe is not None and not hasattr(type(pipe), "current_timestep")


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
