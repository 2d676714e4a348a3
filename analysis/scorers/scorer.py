"""What a scorer is: its name, version, metrics, requirements and parameters, and the call that scores one video.

The docstring of this package is the contract.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from .video import NotScored, Video

INPUTS = ("image", "prompt", "id", "questions")


@dataclass(frozen=True)
class Metric:
    """One number of a video.

    unit: e.g. "dB", "px / frame", "share"; "" for a plain number. low, high: its range, None where it is open.
    what: what it measures and what it cannot see, in a sentence. better: "higher", "lower" or "" where neither is.
    published: the published metric that it is exactly, e.g. "VBench temporal_flickering". imitates: the one that it follows
        with another estimator: directions of change may be compared, values never. Which columns of the papers' tables it fills
        says papers/stand_ins.yaml.
    digits: decimals that the table has. proportion: every video has 0 or 1. per_item: returned as NAME/ITEM.
    """

    unit: str
    low: float | None
    high: float | None
    what: str
    better: str = ""
    published: str = ""
    imitates: str = ""
    digits: int = 6
    proportion: bool = False
    per_item: bool = False


@dataclass(frozen=True)
class Requires:
    """What a scorer needs beyond this package's own dependencies.

    packages: module -> distribution that has it, e.g. {"cv2": "opencv-python-headless"}, also of own dependencies whose
        version can move the values: the installed versions enter the key. weights: which, from where, how large; "" for none.
    licence: of code and weights, where it binds those who use the numbers. install: the command that installs it all.
    """

    packages: Mapping[str, str]
    weights: str = ""
    licence: str = ""
    install: str = ""

    def missing(self) -> str | None:
        """A sentence that names the packages that are not installed and how to get them; None if all are."""
        gone = [name for module, name in self.packages.items() if importlib.util.find_spec(module) is None]
        if not gone:
            return None
        return f"{', '.join(gone)} is not installed: {self.install or 'pip install ' + ' '.join(gone)}"

    def versions(self) -> dict[str, str]:
        """Distribution -> installed version, "" where the module comes from another distribution."""
        found = {}
        for name in self.packages.values():
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = ""
        return found


@dataclass(frozen=True)
class Sample:
    """What the manifest says of a video besides its file; None where it says nothing or the scorer declares no such input.

    image: path of the reference. questions: list of dictionaries, e.g. with "id", "question", "expected_answer".
    """

    image: Path | None = None
    prompt: str | None = None
    id: str | None = None
    questions: list[dict] | None = None


@dataclass(frozen=True)
class Scorer:
    """Base of all scorers; see the docstring of this package. A class without `name` is not found as a scorer."""

    version: ClassVar[str]
    requires: ClassVar[Requires] = Requires({})
    metrics: ClassVar[Mapping[str, Metric]]
    inputs: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[str] = "worker"
    batch: ClassVar[int] = 1

    def available(self) -> str | None:
        """None, or why it cannot run here."""
        return self.requires.missing()

    def fingerprint(self) -> str:
        """What decides its values besides version, parameters and inputs, such as a hash of its weights."""
        return ""

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        """Metric -> value. Raises NotScored where no metric can be had."""
        raise NotImplementedError

    def score_many(self, videos: list[tuple[Video, Sample]]) -> list[dict[str, float | NotScored] | NotScored]:
        """`score` for each of at most `batch` videos, in order; a NotScored is returned in place of one, not raised."""
        results = []
        for video, sample in videos:
            try:
                results.append(self.score(video, sample))
            except NotScored as reason:
                results.append(reason)
        return results

    def parameters(self) -> dict:
        """Field -> value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def spelled(self) -> str:
        """Its name with those parameters that are not the default, as the command line takes it and the table has it."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return self.name + (":" + ",".join(f"{k}={v}" for k, v in sorted(changed.items())) if changed else "")


def check_values(scorer: Scorer, values: dict[str, float | NotScored]) -> None:
    """Raises ValueError unless `values` has every declared metric, no other, and numbers inside their ranges."""
    plain = {name for name, m in scorer.metrics.items() if not m.per_item}
    if absent := plain - values.keys():
        raise ValueError(f"{scorer.name} returned no {', '.join(sorted(absent))}")
    for name, value in values.items():
        metric = scorer.metrics.get(name) or scorer.metrics.get(name.partition("/")[0])
        if metric is None or (metric.per_item != ("/" in name) and not isinstance(value, NotScored)):
            raise ValueError(
                f"{scorer.name} returned {name!r}, which it does not declare; it has {', '.join(scorer.metrics)}"
            )
        if isinstance(value, NotScored) or math.isnan(value):
            continue
        if (metric.low is not None and value < metric.low) or (metric.high is not None and value > metric.high):
            raise ValueError(f"{scorer.name} returned {name} = {value}, outside [{metric.low}, {metric.high}]")
