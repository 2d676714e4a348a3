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


def steps_of(backbone, window, *, by_time=False):
    """The steps of the backbone's own schedule in which a window acts, counted from 0."""
    import json

    import diffusers

    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import in_window

    folder = ROOT / PARAMETERS.backbones[backbone].checkpoint / "scheduler"
    kind = json.loads((folder / "scheduler_config.json").read_text())["_class_name"]
    scheduler, count = getattr(diffusers, kind).from_pretrained(folder), PARAMETERS.backbones[backbone].steps
    scheduler.set_timesteps(count)
    contexts = [ForwardContext(i, count, t, "cond", None) for i, t in enumerate(scheduler.timesteps.tolist())]
    return [c.step for c in contexts if in_window(window, c, by_time=by_time)]


def test_windows_by_time_and_by_fraction_as_the_ledger_says():
    from methods.registry import from_dict

    assert steps_of("wan-i2v", "early") == steps_of("wan-i2v", "early", by_time=True) == [0, 1, 2]
    for name in ("middle", "late"):
        chosen = from_dict(PARAMETERS.methods[f"alignvid-{name}-time"][0]).window
        by_time = steps_of("wan-i2v", name, by_time=True)
        assert steps_of("wan-i2v", chosen) == by_time != steps_of("wan-i2v", name)
        # On the other model the same settings are not the code's thresholds.
        assert steps_of("cogvideox-i2v", chosen) != steps_of("cogvideox-i2v", name, by_time=True)
    found = {name: steps_of("cogvideox-i2v", name, by_time=True) for name in ("early", "middle", "late")}
    assert found == {"early": [0], "middle": [1, 2, 3], "late": [4, 5, 6, 7, 8, 9]}
    assert steps_of("cogvideox-i2v", "early") == [0, 1, 2]
    said = (ROOT / "papers/ledger.md").read_text()
    assert "early is the first step alone, middle steps 2 to 4, late 5 to 10" in said


def test_low_pass_guidance_without_guidance_is_marked_in_every_table():
    """ALG's released pipelines filter under classifier-free guidance only, as the ledger says."""
    from analysis.papers.table_schema import load_paper

    for path in sorted((ROOT / "papers/tables").glob("*.yaml")):
        paper = load_paper(path, PARAMETERS)
        for row in (r for t in paper.tables.values() for r in t.rows if r.method):
            if any(m["method"] == "lowpass" for m in PARAMETERS.methods[row.method]):
                alone = row.scale(paper.backbones[row.backbone]) == 1
                assert alone == row.beside == ("this repository's own" in row.row)


def test_released_alignvid_differs_on_wan_in_the_reused_query_only():
    from methods import AlignVid

    released = AlignVid(1.35, variant="released")
    reused = AlignVid(1.35, sites=("q_image", "q_text", "k_text"))
    pairs = [AlignVid(1.35, sites=s) for s in (("k_image", "q_text"), ("k_image", "k_text"))]
    for site in ("image", "text", "self"):
        assert released._power(site) == reused._power(site)
        assert pairs[0]._power(site) == pairs[1]._power(site)
