"""The section `search` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Strict):
    """Prompts of the world that are drawn from a seed of their own, in equal parts of the five events or of those that `events`
    names, and the seeds of the noise that videos of them start from."""

    seed: int
    prompts: Annotated[int, Field(ge=5, multiple_of=5)]
    seeds: Annotated[list[int], Field(min_length=1)]
    events: Annotated[list[Literal["recolour", "appear", "disappear", "move", "push"]], Field(min_length=1)] | None = (
        None
    )

    @model_validator(mode="after")
    def _in_equal_parts(self) -> Split:
        if self.events and self.prompts % len(self.events):
            raise ValueError(f"{self.prompts} prompts are not equal parts of {len(self.events)} events")
        return self


class DymosGrid(_Strict):
    """Strengths of DyMoS and shares of the steps that are tried in every pair, and on which prompts."""

    prompts: Split
    gammas: Annotated[list[float], Field(min_length=1)]
    shares: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


class Lineage(_Strict):
    """A backbone to search on; methods of the space that it takes; and which setting of `methods` is its Focal Guidance."""

    methods: Annotated[list[str], Field(min_length=3)]
    focal: str


class Search(_Strict):
    """guidance_scale: of every video, the unsteered ones too. trials: combinations that are tried, seed: of the sampler. loss:
    how much fidelity of what must not change, in dB, the registered ones, and DyMoS's strength, may lose on the tuning prompts;
    registered: how many there are. dymos: what its strength and share of the steps are chosen from, for each backbone."""

    guidance_scale: Annotated[float, Field(ge=1)]
    trials: Annotated[int, Field(ge=1)]
    seed: int
    loss: Annotated[float, Field(gt=0)]
    registered: Annotated[int, Field(ge=1)]
    tuning: Split
    held_out: Split
    dymos: DymosGrid
    lineages: dict[str, Lineage]
