"""The schema of params.yaml: every key typed, unknown keys refused, errors that name the key and what is allowed."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator
from ruamel.yaml import YAML

from .backbone_settings import Backbone
from .results_layout import FULL, FULL_RUNS, SMALL, SMALL_RUNS, lineage_of, study_of
from .search_settings import Search

Scale = Annotated[float, Field(ge=0.0, le=30.0, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0.0, le=1000.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(_Strict):
    """Where the samples are and the seed they are drawn from; a benchmark of other people needs no seed."""

    folder: Path
    seed: int = 0


class Recorded(_Strict):
    """What is recorded of the attention while a video is made; see methods/core/record.py."""

    entropy: bool = False
    groups: bool = False
    frames: bool = False
    largest: bool = False
    norm: bool = False
    queries: Annotated[int, Field(ge=1)] | None = None


class FullSize(_Strict):
    """The samples and seeds of a sweep's full-size run."""

    samples: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]


class Sweep(_Strict):
    """A grid of cells: every method, guidance scale and blur, on the first `samples` samples (of `categories`, the main
    ones of the benchmark, if given), for every seed; `full` says how many there are in the full-size run. A sweep without
    `samples` is of the full-size run alone, one without `full` of the small one. `benchmark` is a name in `benchmarks`, for a
    sweep on other samples than those of `benchmark`. A sweep that stands `apart` is read by its own study only, not gathered
    with the others into what notebooks compare, and at full size made by a pipeline of its own."""

    backbone: str
    samples: Annotated[int, Field(ge=1)] | None = None
    seeds: Annotated[list[int], Field(min_length=1)]
    guidance_scale: Annotated[list[Scale], Field(min_length=1)]
    blur: Annotated[list[Sigma], Field(min_length=1)] = [0.0]
    methods: Annotated[list[str], Field(min_length=1)] = ["none"]
    prompts: Literal["own", "shuffled"] = "own"
    categories: list[str] = []
    reference: str = "own"
    record: Recorded | None = None
    full: FullSize | None = None
    benchmark: str | None = None
    apart: bool = False

    @model_validator(mode="after")
    def _has_a_size(self):
        if self.samples is None and self.full is None:
            raise ValueError("a sweep has `samples`, `full` or both")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler):
        # Settings written from params.yaml stay the bytes that they were before these fields existed.
        own = {"benchmark": None, "apart": False}
        return {k: v for k, v in handler(self).items() if k not in own or v != own[k]}


class Parameters(_Strict):
    """All of params.yaml. `testbed` and `notebooks` are read by their own programs. `full_size` is set by
    `load_parameters`: then videos and results have folders of their own."""

    benchmark: Benchmark
    benchmarks: dict[str, Benchmark] = {}
    backbones: dict[str, Backbone]
    methods: dict[str, list[dict]]
    sweeps: dict[str, Sweep]
    search: Search | None = None
    testbed: dict
    notebooks: dict[str, dict]
    full_size: bool = False

    @property
    def runs(self) -> Path:
        """Where the sweeps' videos lie, a folder each."""
        return FULL_RUNS if self.full_size else SMALL_RUNS

    @property
    def results(self) -> Path:
        """Where scores, tables and figures go."""
        return FULL if self.full_size else SMALL

    def benchmark_of(self, sweep: str) -> Benchmark:
        """The benchmark of a sweep's samples. Raises ValueError for an unknown sweep."""
        if sweep not in self.sweeps:
            raise ValueError(f"unknown sweep {sweep!r}; params.yaml has {list(self.sweeps)}")
        name = self.sweeps[sweep].benchmark
        return self.benchmark if name is None else self.benchmarks[name]

    @model_validator(mode="after")
    def _names_exist(self):
        places = {}
        for name, sweep in self.sweeps.items():
            if sweep.backbone not in self.backbones:
                raise ValueError(f"sweeps.{name}.backbone is {sweep.backbone!r}, not one of {list(self.backbones)}")
            if unknown := [m for m in sweep.methods if m not in self.methods]:
                raise ValueError(f"sweeps.{name}.methods has {unknown[0]!r}, not one of {list(self.methods)}")
            if sweep.reference != "own" and sweep.reference not in self.sweeps:
                raise ValueError(f"sweeps.{name}.reference is {sweep.reference!r}: own, or one of {list(self.sweeps)}")
            if sweep.benchmark is not None and sweep.benchmark not in self.benchmarks:
                raise ValueError(f"sweeps.{name}.benchmark is {sweep.benchmark!r}, not one of {list(self.benchmarks)}")
            if sweep.reference != "own" and self.sweeps[sweep.reference].benchmark != sweep.benchmark:
                raise ValueError(f"sweeps.{name} and its reference {sweep.reference} have different benchmarks")
            lineage = lineage_of(sweep.backbone)
            place = (lineage, study_of(name, lineage))
            if place in places:
                raise ValueError(f"sweeps.{name} and sweeps.{places[place]} would share the folder {'/'.join(place)}")
            places[place] = name
        return self


@lru_cache(maxsize=4)
def _parsed(text: str):
    # Parsing takes half a second, and a notebook asks for the parameters once per film strip.
    return YAML(typ="safe", pure=True).load(text)


def of_the_small_run(parameters: Parameters) -> Parameters:
    """The parameters with those sweeps that have `samples`."""
    small = {name: sweep for name, sweep in parameters.sweeps.items() if sweep.samples is not None}
    return parameters.model_copy(update={"sweeps": small})


def load_parameters(path: Path | str = "params.yaml", *, full: bool = False, apart: bool = False) -> Parameters:
    """Read and check params.yaml (YAML 1.2, as DVC reads it). Raises ValueError that lists what is wrong.

    full: the sweeps that have a full-size run, with its samples and seeds, but for those that stand apart; with `apart` these
    alone. Else all those that have a small one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no parameter file {path}; run from the repository's root")
    try:
        parameters = Parameters.model_validate(deepcopy(_parsed(path.read_text())))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None
    if not full:
        return of_the_small_run(parameters)
    sweeps = {
        name: sweep.model_copy(update={"samples": sweep.full.samples, "seeds": sweep.full.seeds})
        for name, sweep in parameters.sweeps.items()
        if sweep.full is not None and sweep.apart == apart
    }
    return parameters.model_copy(update={"sweeps": sweeps, "full_size": True})


def sweeps_by_backbone(parameters: Parameters, study: str) -> dict[str, str]:
    """{backbone: sweep} of one study on several lineages, such as `baseline` and `cogvideox-baseline`, in the order of
    params.yaml."""
    return {
        sweep.backbone: name
        for name, sweep in parameters.sweeps.items()
        if study_of(name, lineage_of(sweep.backbone)) == study
    }
