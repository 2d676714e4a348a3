"""What a check of a study finds: each thing with a level, so that all of it can be shown at once."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = {"blocks": "no video can be made until it is changed", "note": "to be known", "fine": "as it should be"}


@dataclass(frozen=True)
class Finding:
    """`level` is one of LEVELS; `about` names the backbone, benchmark or setting; `said` is a sentence."""

    level: str
    about: str
    said: str

    def __str__(self) -> str:
        return f"{self.level:6} {self.about}: {self.said}"


def blocks(found: list[Finding]) -> bool:
    """Whether anything keeps the study from being run."""
    return any(f.level == "blocks" for f in found)
