"""The section `search` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Strict):
    """Prompts of the world that are drawn from a seed of their own, in equal parts of the four events, and the seeds of the
    noise that videos of them start from."""

    seed: int
    prompts: Annotated[int, Field(ge=4, multiple_of=4)]
    seeds: Annotated[list[int], Field(min_length=1)]


class Lineage(_Strict):
    """A backbone to search on; methods of the space that it takes; and which setting of `methods` is its Focal Guidance."""

    methods: Annotated[list[str], Field(min_length=3)]
    focal: str


class Search(_Strict):
    """guidance_scale: of every video, the unsteered ones too. trials: combinations that are tried, seed: of the sampler. loss:
    how much fidelity of what must not change, in dB, the registered ones may lose on the tuning prompts; registered: how
    many there are."""

    guidance_scale: Annotated[float, Field(ge=1)]
    trials: Annotated[int, Field(ge=1)]
    seed: int
    loss: Annotated[float, Field(gt=0)]
    registered: Annotated[int, Field(ge=1)]
    tuning: Split
    held_out: Split
    lineages: dict[str, Lineage]
