"""The ledger of paper against code: its rows are measured, and what it says of the code is so."""

import re
from pathlib import Path

import pytest

from analysis.papers.claim_schema import load_claims
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def claims():
    return load_claims(PARAMETERS, ROOT / "papers/claims.yaml")


def test_ledger_names_the_rows_that_are_measured(claims):
    named = set(re.findall(r"`([a-z0-9-]+)`", (ROOT / "papers/ledger.md").read_text()))
    assert {row.id for row in claims.ledger} <= named
    assert all(s.method in PARAMETERS.methods for row in claims.ledger for s in row.settings)


def test_windows_by_time_and_by_fraction_as_the_ledger_says():
    from diffusers import UniPCMultistepScheduler

    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import in_window
    from methods.registry import from_dict

    backbone = PARAMETERS.backbones["wan-i2v"]
    scheduler = UniPCMultistepScheduler.from_pretrained(ROOT / backbone.checkpoint, subfolder="scheduler")
    scheduler.set_timesteps(backbone.steps)

    def steps(window, by_time=False):
        times = enumerate(scheduler.timesteps.tolist())
        contexts = [ForwardContext(i, backbone.steps, time, "cond", None) for i, time in times]
        return [c.step for c in contexts if in_window(window, c, by_time=by_time)]

    assert steps("early") == steps("early", by_time=True) == [0, 1, 2]
    for name in ("middle", "late"):
        chosen = from_dict(PARAMETERS.methods[f"alignvid-{name}-time"][0])
        assert steps(chosen.window) == steps(name, by_time=True) != steps(name)


def test_released_alignvid_differs_on_wan_in_the_reused_query_only():
    from methods import AlignVid

    released = AlignVid(1.35, variant="released")
    reused = AlignVid(1.35, sites=("q_image", "q_text", "k_text"))
    pairs = [AlignVid(1.35, sites=s) for s in (("k_image", "q_text"), ("k_image", "k_text"))]
    for site in ("image", "text", "self"):
        assert released._power(site) == reused._power(site)
        assert pairs[0]._power(site) == pairs[1]._power(site)
