"""The one schema of all benchmarks, that of OmitI2V, and what can be wrong with a sample.

Fields are named in files as OmitI2V's `meta.json` names them (`image-path`), in Python with underscores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from .specs import Spec

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
NO_ANSWER, NO_QUESTIONS = "question without answer", "no questions"


class _Schema(BaseModel):
    model_config = ConfigDict(
        frozen=True, populate_by_name=True, alias_generator=lambda name: name.replace("_", "-"), extra="ignore"
    )


class Question(_Schema):
    """A question about a video. expected_answer: "yes" or "no", in lower case. category: of the question, not the sample."""

    id: Text
    question: Text
    expected_answer: Literal["yes", "no"] = Field(alias="expected_answer")
    category: str = ""


class Sample(_Schema):
    """A prompt and its reference.

    image_path: of an image, or of a video whose first frame is the reference, inside the benchmark's folder. resolution: width
    and height in pixels, as the file states it; what the image has is in `Benchmark.sizes`. expected_change: in words.
    main_category, sub_category, domain: groups that means are taken over. subject_box: x, y, width and height of the subject in
    pixels of the upright image. sha256: of the image, where the benchmark publishes it. questions may be empty.
    """

    id: Text
    prompt: Text
    image_path: Text
    resolution: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    expected_change: str = ""
    main_category: str = ""
    sub_category: str = ""
    domain: str = ""
    questions: tuple[Question, ...] = ()
    subject_box: tuple[float, float, float, float] | None = None
    sha256: str = ""

    @field_validator("image_path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path!r} is not inside the benchmark's folder")
        return path

    def record(self) -> dict[str, Any]:
        """The sample as `meta.json` holds it: names with hyphens, lists, nothing that is not given of what OmitI2V lacks."""
        found = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {k: v for k, v in found.items() if k != "sha256" or v}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a benchmark's folder. kind: such as "missing image"; where: the sample or file; what: in words;
    stops: whether the benchmark cannot be used as it is, or this is only to be known."""

    kind: str
    where: str
    what: str
    stops: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Benchmark:
    """The samples of a folder, and all that is wrong with it.

    name: of the format (a file of benchmarks/); version: of the format, the choices made in reading it and the contents of its
    list. samples: those whose fields are sound, in the list's order. sizes: (width, height) of each upright image by id, where
    images were looked at. score: "macro" (share of right answers), "all right", or "none" where it has no questions.
    """

    name: str
    version: str
    folder: Path
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    spec: Spec
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def score(self) -> str:
        """How answers are counted: "macro", "all right" or "none"."""
        return self.spec.score

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems for which the benchmark cannot be used as it is."""
        return tuple(p for p in self.problems if p.stops)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The samples as dictionaries, named as in OmitI2V's file."""
        return [s.record() for s in self.samples]

    def image(self, sample: Sample) -> Path:
        """Where a sample's reference is."""
        return self.folder / sample.image_path

    def video_name(self, sample: Sample, seed: int = 0) -> str:
        """What the benchmark's own scripts want the sample's video to be called."""
        return self.spec.video_name.format(id=sample.id, prompt=sample.prompt, seed=seed)

    def require(self, shown: int = 20) -> Benchmark:
        """Itself; raises ValueError that lists what is wrong, the first `shown` of it, if anything stops it."""
        if not (errors := self.errors):
            return self
        kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(p.kind for p in errors).items())
        more = f"; and {len(errors) - shown} more" if len(errors) > shown else ""
        listed = "; ".join(map(str, errors[:shown]))
        raise ValueError(f"{self.folder} is not a whole {self.spec.title} ({kinds}): {listed}{more}")


def parse(records: list, spec: Spec, file: str) -> tuple[list[Sample], list[Problem], list[tuple[str, str]]]:
    """The samples among `records` (of `file`) whose fields are sound; every problem of every one of them; and (sample, image) of
    those that are not sound, so that their images are looked at all the same."""
    samples, problems, seen, others = [], [], Counter(), []
    for i, record in enumerate(records):
        where = f"{file}[{i}]"
        if not isinstance(record, dict):
            problems.append(Problem("wrong field", where, f"is {type(record).__name__}, not a sample with fields"))
            continue
        name = record.get("id")
        where = name if isinstance(name, str) and name else where
        try:
            sample = Sample.model_validate(record)
        except ValidationError as error:
            problems += [_problem(where, e) for e in error.errors()]
            seen[where] += 1
            image = record.get("image-path")
            if isinstance(image, str) and not any(e["loc"][0] == "image-path" for e in error.errors()):
                others.append((where, image))
            continue
        seen[sample.id] += 1
        if seen[sample.id] > 1:
            problems.append(
                Problem("duplicate id", sample.id, f"there is another sample of this id before {file}[{i}]")
            )
            continue
        if spec.questions == "required" and not sample.questions:
            problems.append(Problem(NO_QUESTIONS, sample.id, "has no questions, so nothing could be scored"))
        twice = [q for q, n in Counter(q.id for q in sample.questions).items() if n > 1]
        problems += [Problem("duplicate id", sample.id, f"question {q} is there twice") for q in twice]
        samples.append(sample)
    return samples, problems, others


def _problem(where: str, error: dict) -> Problem:
    path = [str(x) for x in error["loc"]]
    name = ".".join(path)
    if path[0] == "questions" and path[-1] == "expected_answer" and (error["type"] == "missing" or not error["input"]):
        return Problem(NO_ANSWER, where, f"{name} is missing; yes or no is allowed")
    said = "is missing" if error["type"] == "missing" else f"is {_short(error['input'])}: {error['msg']}"
    return Problem("wrong field", where, f"{name} {said}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
