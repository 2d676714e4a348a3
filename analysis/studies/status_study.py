"""`study status`: what is made, failed, missing and corrupt, sweep by sweep, with the reasons. No model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ..study.parameters import Parameters
from ..videos.records import count_states, mixed_machines, reasons, sweep_states


@dataclass(frozen=True)
class SweepStatus:
    """Where a sweep stands: `counts` by state, `reasons` (state, reason, how many), what its videos were made with if not all
    were made alike, and what there is to say of their time and memory."""

    sweep: str
    counts: dict[str, int]
    reasons: list[tuple[str, str, int]]
    mixed: list[str]
    cost: str

    @property
    def whole(self) -> bool:
        """Whether every video of the sweep is made."""
        return self.counts["ok"] == sum(self.counts.values())

    def lines(self) -> list[str]:
        """In words, for a terminal."""
        counted = ", ".join(
            f"{n} {'made' if state == 'ok' else state}" for state, n in self.counts.items() if n or state == "ok"
        )
        said = [f"{self.sweep}: {counted}{f'; {self.cost}' if self.cost else ''}"]
        said += [f"  {count} {state}: {reason}" for state, reason, count in self.reasons]
        return said + [f"  not all made alike: {what}" for what in self.mixed]


def study_status(parameters: Parameters, *, deep: bool = False) -> list[SweepStatus]:
    """The status of every sweep, in the study's folder. deep: checksums are compared, which reads every file."""
    return [_status(name, sweep_states(parameters, name, deep=deep)) for name in parameters.sweeps]


def _status(name: str, states) -> SweepStatus:
    made = [s.record for s in states if s.state == "ok" and s.record]
    seconds, peaks = [r.seconds for r in made if r.seconds], [r.peak_gib for r in made if r.peak_gib]
    cost = f"{sum(seconds) / len(seconds):.3g} s a video" if seconds else ""
    cost += f", at most {max(peaks):.3g} GiB" if peaks else ""
    return SweepStatus(name, count_states(states), reasons(states), mixed_machines(states), cost)
