"""What was steered: in which blocks, steps and branches each method acted, of those that a pipeline ran through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """Counts of attention calls while one `steer` or `record` context was open.

    seen: (step, steps, block, site, branch) -> calls of attention that were run.
    acted: (name of the method, step, block, site, branch) -> calls in which it acted; site "input" and "output" stand for
    edits of what the transformer or a block was given, and of what the transformer returned (block "").
    left_alone, made_native: calls by attention backend, those in which nothing acted, which stay the user's, and those that
    were computed by PyTorch's own attention because something acted.
    """

    methods: tuple[str, ...] = ()
    seen: Counter = field(default_factory=Counter)
    acted: Counter = field(default_factory=Counter)
    left_alone: Counter = field(default_factory=Counter)
    made_native: Counter = field(default_factory=Counter)

    def rows(self) -> list[dict]:
        """One dictionary per method, step, block, site and branch: calls in which it acted, of the calls seen."""
        found = []
        for method in self.methods:
            for (step, steps, block, site, branch), seen in self.seen.items():
                acted = self.acted[method, step, block, site, branch]
                found.append(
                    dict(method=method, step=step, steps=steps, block=block, site=site, branch=branch, acted=acted, seen=seen)
                )  # fmt: skip
            for (name, step, block, site, branch), acted in self.acted.items():
                if name == method and site in ("input", "output"):
                    found.append(
                        dict(method=method, step=step, steps=None, block=block, site=site, branch=branch, acted=acted, seen=acted)
                    )  # fmt: skip
        return found

    def to_frame(self):
        """`rows` as a pandas frame."""
        import pandas as pd

        columns = ["method", "step", "steps", "block", "site", "branch", "acted", "seen"]
        return pd.DataFrame(self.rows(), columns=columns)

    def __str__(self) -> str:
        total = sum(self.seen.values())
        lines = [self._line(method, total) for method in self.methods]
        for backend, count in sorted(self.left_alone.items()):
            lines.append(f"attention backend {backend}: {count} calls left as they are")
        for backend, count in sorted(self.made_native.items()):
            lines.append(f"attention backend {backend}: {count} calls made native, because something acted or recorded")
        return "\n".join(lines)

    def _line(self, method: str, total: int) -> str:
        keys = {key[1:]: n for key, n in self.acted.items() if key[0] == method}
        if not keys:
            return f"{method}: never acted, in {total} attention calls"
        calls = sum(n for (_, _, site, _), n in keys.items() if site not in ("input", "output"))
        steps, blocks, sites, branches = ({key[i] for key in keys} for i in range(4))
        of = max((key[1] for key in self.seen if key[1] is not None), default=None)
        order = [key[2] for key in self.seen]
        names = [b for b in dict.fromkeys(order) if b in blocks]
        parts = [f"steps {spans(sorted(steps))}" + (f" of {of}" if of else "")]
        if names:
            parts.append(f"{len(names)} of {len(set(order))} blocks ({', '.join(names)})")
        parts += [f"at {', '.join(sorted(sites))}", f"in {', '.join(sorted(branches))}"]
        return f"{method}: acted in {calls} of {total} attention calls; " + "; ".join(parts)


def spans(numbers: list[int]) -> str:
    """Sorted whole numbers as ranges: "0-2, 5"."""
    ranges: list[list[int]] = []
    for n in numbers:
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges)
