"""What papers/claims.yaml may say: settings, tests, claims. Everything typed, unknown keys and names refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..attention.recording_summaries import MEASURES, TEXT_SHARE
from ..study.parameters import Parameters
from ..study.score_columns import COLUMNS


class Measure(NamedTuple):
    """What a measure is called, its unit, and the factor from a table's values to that unit."""

    label: str
    unit: str
    factor: float = 1.0


SCORES = COLUMNS
# What stands for a measure of Wan's branches where text and video share one softmax.
JOINT = {"words in text attention": "text in joint attention", "entropy, words": "entropy, text and reference"}
# Compared as ratios.
ATTENTION = {
    name: Measure(f"{name} ({JOINT[name]})" if name in JOINT else name, "%", 100)
    for name in [*MEASURES.values(), TEXT_SHARE]
}
FRAMES = {
    "dominance": Measure("attention to the reference frame", "points", 100),
    "neighbours": Measure("attention to neighbouring frames", "points", 100),
    "twin_distance": Measure("distance to the twin's attention", "nats"),
    "twin_motion_gap": Measure("distance to the twin's motion (flow)", "px / frame"),
}
LAYERS = {
    "morans_i": Measure("Moran's I", ""),
    "std": Measure("standard deviation", ""),
}
KNOWN = SCORES | ATTENTION | FRAMES | LAYERS
# Of a model: what it was tuned from, and what post-training made of it, with parts of Focal Guidance on, and without.
SIBLINGS = ("text-to-video", "tuned-full", "tuned-fsg", "tuned-cache", "control")
# part of the blocks -> (first, end) of so many equal parts
PARTS = {"all": (0, 1, 1), "first third": (0, 1, 3), "middle third": (1, 2, 3), "last third": (2, 3, 3)}

Sign = Literal["higher", "lower"]


class Strict(BaseModel):
    """Refuses unknown keys, and changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(Strict):
    """What was run, as in a sweep. model: "" for the one that is judged, else its sibling of that name. reference: "twin"
    for videos that start from the first frames of the text-to-video twin's. window, blocks: a part of what was recorded."""

    method: str = "none"
    guidance_scale: float = 1.0
    blur: float = 0.0
    prompts: Literal["own", "shuffled"] = "own"
    reference: Literal["own", "twin"] = "own"
    model: Literal["", *SIBLINGS] = ""
    window: Literal["all", "early"] = "all"
    blocks: Literal[*PARTS] = "all"

    def __str__(self) -> str:
        said = [self.method] * (self.method != "none") + [f"{self.model} model"] * bool(self.model)
        said += [f"blur {self.blur:g}"] * (self.blur > 0)
        said += [f"guidance {self.guidance_scale:g}"] * (self.guidance_scale != 1)
        said += ["from the twin's frame"] * (self.reference == "twin") + ["others' prompts"] * (self.prompts != "own")
        said += ["early steps"] * (self.window == "early") + [f"{self.blocks} of the blocks"] * (self.blocks != "all")
        return ", ".join(said) or "unsteered"


class Difference(Strict):
    """`measure` of `a` minus that of `b`, or of each of several `b`, lies on the claimed side of `line` (in the measure's
    unit). beyond (c, d): the difference a - b less the difference c - d. harmless: it says that a method costs little, which
    is undecided where the method changes nothing, or freezes the video."""

    kind: Literal["difference"]
    measure: str
    a: Setting
    b: Setting | Annotated[tuple[Setting, ...], Field(min_length=2)]
    sign: Sign
    line: float = 0.0
    beyond: tuple[Setting, Setting] | None = None
    harmless: bool = False

    @property
    def against(self) -> tuple[Setting, ...]:
        """What `a` is compared with: one setting, or each of several."""
        return self.b if isinstance(self.b, tuple) else (self.b,)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that it reads."""
        return (self.a, *self.against, *(self.beyond or ()))

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that it reads, as in KNOWN."""
        return (self.measure,)

    def __str__(self) -> str:
        text = f"{KNOWN[self.measure].label}: {self.a} against {'; '.join(map(str, self.against))}"
        return text + (f"; less {self.beyond[0]} against {self.beyond[1]}" if self.beyond else "")


class Trend(Strict):
    """`measure` rises ("higher") or falls over `levels`, by the rank correlation within each prompt."""

    kind: Literal["trend"]
    measure: str
    levels: Annotated[tuple[Setting, ...], Field(min_length=3)]
    sign: Sign
    line: float = Field(0.0, ge=0.0, le=0.0)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that it reads."""
        return self.levels

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that it reads, as in KNOWN."""
        return (self.measure,)

    def __str__(self) -> str:
        ends = f"{self.levels[0]} to {self.levels[-1]}"
        return f"{KNOWN[self.measure].label} over {len(self.levels)} levels: {ends}"


class Correlation(Strict):
    """Over prompts, `x` and `y` of setting `a`, or their changes from `b` to `a`, go together ("higher") or apart."""

    kind: Literal["correlation"]
    x: str
    y: str
    a: Setting
    b: Setting | None = None
    sign: Sign
    line: float = Field(0.0, ge=0.0, le=0.0)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that it reads."""
        return (self.a, self.b) if self.b else (self.a,)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that it reads, as in KNOWN."""
        return (self.x, self.y)

    def __str__(self) -> str:
        labels = " with ".join(KNOWN[m].label for m in (self.x, self.y))
        return f"{labels}: {self.a}" + (f", change from {self.b}" if self.b else "")


class FirstHalf(Strict):
    """More than half of the blocks that AlignVid's calibration lists as foreground-sensitive lie in the first half."""

    kind: Literal["first-half"]
    sign: Literal["higher"] = "higher"
    line: float = Field(50.0, ge=50.0, le=50.0)
    settings: tuple[()] = ()
    measures: tuple[()] = ()

    def __str__(self) -> str:
        return "share of the calibrated blocks that lie in the first half"


class Cost(Strict):
    """A setting of results/bench/attention-*.csv, on in `share` of blocks and steps, adds at most `line` % to the time of
    all of them, at the longest sequence that was timed."""

    kind: Literal["cost"]
    setting: str
    share: Annotated[float, Field(gt=0, le=1)]
    line: float
    sign: Literal["lower"] = "lower"
    settings: tuple[()] = ()
    measures: tuple[()] = ()

    def __str__(self) -> str:
        return f"time of a block under {self.setting}, on in {100 * self.share:g} % of blocks and steps"


class Claim(Strict):
    """One sentence, where a paper says it, the test that decides it, the family within which Holm corrects, and the
    notebook, or the notebooks, that show more."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    paper: str
    where: str
    claim: str
    family: str
    notebook: Annotated[tuple[str, ...], BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)]
    test: Annotated[Difference | Trend | Correlation | FirstHalf | Cost, Field(discriminator="kind")]


class LedgerRow(Strict):
    """A difference between a paper and its code, or a choice it leaves open, as two settings: `a` is compared with `b`."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    paper: str
    difference: str
    a: Setting
    b: Setting

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The two settings."""
        return (self.a, self.b)


class Claims(Strict):
    """All of claims.yaml. papers: name -> title. models: the models that are judged -> their siblings by name.
    stand_ins: of a model, the method that is run where a claim names another."""

    papers: dict[str, str]
    models: Annotated[dict[str, dict[Literal[*SIBLINGS], str]], Field(min_length=1)]
    stand_ins: dict[str, dict[str, str]] = {}
    claims: tuple[Claim, ...]
    ledger: tuple[LedgerRow, ...]

    @model_validator(mode="after")
    def _names_are_known(self):
        for entry in (entries := (*self.claims, *self.ledger)):
            if entry.paper not in self.papers:
                raise ValueError(f"{entry.id}: paper {entry.paper!r} is not one of {list(self.papers)}")
            measures = entry.test.measures if isinstance(entry, Claim) else ()
            if unknown := [m for m in measures if m not in KNOWN]:
                raise ValueError(f"{entry.id}: no measure {unknown[0]!r}; there are {', '.join(KNOWN)}")
        if unknown := set(self.stand_ins) - set(self.models):
            raise ValueError(f"stand_ins: {min(unknown)!r} is not one of the models {list(self.models)}")
        ids = [entry.id for entry in entries]
        if twice := [i for i in ids if ids.count(i) > 1]:
            raise ValueError(f"the id {twice[0]!r} is given twice")
        return self


def load_claims(parameters: Parameters, path: Path | str = "papers/claims.yaml") -> Claims:
    """Read and check claims.yaml against params.yaml. Raises ValueError that lists what is wrong."""
    if not Path(path).is_file():
        raise ValueError(f"no claims at {path}; run from the repository's root")
    try:
        found = Claims.model_validate(YAML(typ="safe", pure=True).load(Path(path).read_text()))
    except YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {problems}") from None
    named = [("backbone", b, parameters.backbones) for m, s in found.models.items() for b in (m, *s.values())]
    settings = [s for c in found.claims for s in c.test.settings] + [s for row in found.ledger for s in row.settings]
    named += [("method", s.method, parameters.methods) for s in settings]
    named += [
        ("method", m, parameters.methods) for own in found.stand_ins.values() for pair in own.items() for m in pair
    ]
    for kind, name, known in named:
        if name not in known:
            raise ValueError(f"{path}: {kind} {name!r} is not in params.yaml, which has {', '.join(known)}")
    return found
