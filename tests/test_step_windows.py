"""In which steps methods act: `window` says what DyMoS's `steps` and low-pass guidance's `start` and `end` said before."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from families import make

from analysis.papers.table_schema import load_paper
from analysis.study.cells import check_methods
from analysis.study.parameters import load_parameters
from analysis.study.presets import load_presets
from methods import (
    AlignVid,
    DyMoS,
    EnhanceAVideo,
    FocalGuidance,
    LowPassGuidance,
    NormalizedAttentionGuidance,
    ReferenceNoise,
    SkipLayerGuidance,
    SkipUnconditional,
)
from methods.core.forward_context import ForwardContext
from methods.core.step_windows import check_window, in_window
from methods.dymos import PUBLISHED as DYMOS
from methods.families import describe
from methods.low_pass_guidance import PUBLISHED as LOW_PASS
from methods.registry import find_methods, from_dict

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")
NUMBERS = (4, 10, 30, 40, 50)

# Every shipped setting as it was written before: DyMoS's `steps`, and `schedule`, `start`, `end` and `rate` of ALG.
STEPS = {
    "dymos-one-step": 0.1, "dymos-analysis": 0.1, "dymos-half-steps": 0.5, "dymos-all-steps": 1.0,
    "wan2.2-i2v-a14b": 0.20, "wan2.1-i2v-14b": 0.25, "hunyuanvideo-1.5": 0.20, "cogvideox-5b": 0.24,
    "dymos-wan2.2": 0.2, "dymos-wan2.1": 0.25, "dymos-hunyuanvideo-1.5": 0.2, "dymos-cogvideox": 0.24,
}  # fmt: skip
ENDS = {"alg-first-step": 0.04, "alg-cogvideox": 0.04, "cogvideox-5b": 0.04, "hunyuanvideo-i2v": 0.04}
OTHERS = 0.2  # all the rest, of both
RATE = 10.0


def old_dymos(steps: float, step: int, number: int) -> bool:
    """A share of the steps from the first one, and the first one always."""
    if steps == 1 or step == 0:
        return True
    return (step + 1) / number <= steps + 1e-9


def old_low_pass(schedule: str, end: float, step: int, number: int, start: float = 0.0) -> float:
    """The strength of the released schedules over step / (steps - 1)."""
    p = step / max(1, number - 1)
    if schedule == "interval":
        return float(start - 1e-9 <= p <= end + 1e-9)
    if schedule == "linear":
        return max(0.0, 1 - p / end) if end else 0.0
    return math.exp(-RATE * p)


def contexts(number: int) -> list[ForwardContext]:
    return [ForwardContext(step, number, math.nan, "cond") for step in range(number)]


def shipped() -> dict[str, list]:
    """{place: its methods} of DyMoS and ALG: params.yaml, the presets, the papers' tables, what the classes publish."""
    found = {
        f"params.yaml {name}": [from_dict(part) for part in parts if "method" in part]
        for name, parts in PARAMETERS.methods.items()
    }
    for paper, presets in load_presets().items():
        for name, method in presets.methods.items():
            found[f"presets.yaml {paper} {name}"] = [
                from_dict(part) for part in method.settings or [] if None not in part.values()
            ]
    found |= {f"DyMoS.published {name}": [DyMoS.published(name)] for name in DYMOS}
    found |= {f"LowPassGuidance.published {name}": [LowPassGuidance.published(name)] for name in LOW_PASS}
    found |= {"a default": [DyMoS(1.0), LowPassGuidance()]}
    found = {place: [m for m in own if isinstance(m, (DyMoS, LowPassGuidance))] for place, own in found.items()}
    return {place: own for place, own in found.items() if own}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_shipped_setting_acts_in_the_steps_in_which_it_acted_before(number):
    model = describe(make("wan2.1-i2v")[0])
    places, acted = shipped(), 0
    assert len(places) > 30 and set(STEPS) | set(ENDS) <= {place.split()[-1] for place in places}
    for place, own in places.items():
        name = place.split()[-1]
        for method in own:
            for context in contexts(number):
                if isinstance(method, DyMoS):
                    now = method.active(model, context, model.blocks[0], "self")
                    before = old_dymos(STEPS.get(name, OTHERS), context.step, number)
                else:
                    now = method.strength(context)
                    before = old_low_pass(method.schedule, ENDS.get(name, OTHERS), context.step, number)
                assert now == before, (place, context.step)
                acted += bool(now)
    assert acted > len(places)


@pytest.mark.parametrize("number", NUMBERS)
def test_settings_of_the_papers_tables_act_as_before(number):
    """A row has settings of its own where the paper's model has others than its stand-in."""
    rows = [r for t in load_paper(ROOT / "papers/tables/dymos.yaml", PARAMETERS).tables.values() for r in t.rows]
    own = {r.row: from_dict(part) for r in rows if isinstance(r.real, list) for part in r.real}
    shares = {"Wan 2.1-14B | Ours": 0.25, "CogVideoX-5B | Ours": 0.24}
    assert set(shares) < set(own) and {type(m) for m in own.values()} == {DyMoS}
    for row, method in own.items():
        share = shares.get(row.removesuffix(", without guidance"), 0.2)
        acts = [in_window(method.window, context) for context in contexts(number)]
        assert acts == [old_dymos(share, step, number) for step in range(number)], row


@pytest.mark.parametrize("number", [1, 2, 3, *NUMBERS])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.01), (0.0, 0.5), (0.0, 1.0), (0.3, 0.7), (0.9, 1.0)])
def test_positions_and_shares_are_what_start_end_and_steps_were(number, start, end):
    before = [old_low_pass("interval", end, step, number, start) for step in range(number)]
    if any(before):
        assert [float(in_window(("position", start, end), context)) for context in contexts(number)] == before
    else:
        with pytest.raises(ValueError, match=f"has none of the {number} steps"):
            in_window(("position", start, end), contexts(number)[0])
    if start == 0:
        shares = [in_window((start, end), context) for context in contexts(number)]
        assert shares == [old_dymos(end, step, number) for step in range(number)]


def test_a_share_from_later_than_the_first_step_may_hold_none():
    with pytest.raises(ValueError, match="has none of the 4 steps"):
        in_window((0.01, 0.2), contexts(4)[0])
    with pytest.raises(ValueError, match="give steps="):
        in_window((0, 0.2), ForwardContext(0, None, 999.0, "cond"))


@pytest.mark.parametrize(
    "window",
    ["erly", 3, None, (), (0.5,), (0.5, 0.5), (0.4, 0.2), (-0.1, 0.5), (0, 1.1), ("a", "b"), (True, 1), (0, math.nan),
     ("position", 0.5, 0.2), ("place", 0.0, 0.2), ("noise", 0.2, 0.5), ("noise", 1.0), ("position", "0", 0.2),
     (0, 0.1, 0.2), ("noise", 1.0, 0.5, 0.2)],
)  # fmt: skip
def test_other_windows_are_refused(window):
    for build in (check_window, lambda w: DyMoS(1.0, window=w), lambda w: LowPassGuidance(window=w)):
        with pytest.raises(ValueError, match=r"allowed are|must satisfy"):
            build(window)


def test_the_schedules_of_low_pass_guidance_say_which_windows_they_have():
    for window in ("all", (0, 0.2), ("position", 0.1, 0.2), ("noise", 1.0, 0.2)):
        with pytest.raises(ValueError, match='"linear" falls'):
            LowPassGuidance(schedule="linear", window=window)
    for window in ("early", (0, 0.2), ("position", 0.0, 0.2)):
        with pytest.raises(ValueError, match='window="all", not'):
            LowPassGuidance(schedule="exponential", window=window)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "dymos", "gamma": 1.0, "steps": 0.2}, "dymos has no setting 'steps'; write window: [0, STEPS]"),
        ({"method": "lowpass", "end": 0.2}, "lowpass has no setting 'end'; write window: [\"position\", START, END]"),
        (
            {"method": "lowpass", "start": 0.1},
            "lowpass has no setting 'start'; write window: [\"position\", START, END]",
        ),
    ],
)
def test_the_old_spelling_is_refused_with_the_new_one(settings, words):
    from methods.command_line.method_settings import method_of

    sweep = PARAMETERS.sweeps["baseline"].model_copy(update={"methods": ["old"]})
    parameters = PARAMETERS.model_copy(update={"methods": {"old": [settings]}, "sweeps": {"baseline": sweep}})
    for read in (from_dict, method_of, lambda _: check_methods(parameters, "baseline")):
        with pytest.raises(ValueError) as error:
            read(settings)
        assert words in str(error.value)


def test_no_method_has_another_setting_for_when_it_acts():
    """CFG-Zero*'s `zero_steps` is a count of steps in the paper and in its code, of what it does and not of when it acts."""
    names = {(kind.name, name) for kind in find_methods().values() for name in kind.__dataclass_fields__}
    timed = {(kind, name) for kind, name in names if any(w in name for w in ("step", "start", "end", "time", "window"))}
    assert {("dymos", "window"), ("lowpass", "window"), ("alignvid", "window")} <= timed
    assert {entry for entry in timed if entry[1] != "window"} == {("cfgzero", "zero_steps")}


def test_lists_become_tuples_so_that_equal_settings_are_one_key():
    pairs = [
        lambda of: AlignVid(1.2, window=of(0, 0.5), blocks=of(1, 2), sites=of("k_text", "self")),
        lambda of: DyMoS(1.0, window=of(0, 0.5)),
        lambda of: EnhanceAVideo(window=of("noise", 1.0, 0.5), blocks=of(0, 1)),
        lambda of: FocalGuidance("x", weak=of(0, 1)),
        lambda of: LowPassGuidance(window=of("position", 0.0, 0.5)),
        lambda of: NormalizedAttentionGuidance(window=of(0, 0.5), blocks=of(0, 1)),
        lambda of: ReferenceNoise(of(0.1, 0.2)),
        lambda of: SkipLayerGuidance(1.0, blocks=of(0, 1), window=of(0, 0.5)),
        lambda of: SkipUnconditional(blocks=of(0, 1), window=of(0, 0.5)),
    ]
    for build in pairs:
        listed, tupled = build(lambda *v: list(v)), build(lambda *v: v)
        assert listed == tupled and len({listed, tupled, replace(listed)}) == 1
