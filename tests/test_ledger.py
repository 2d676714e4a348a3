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


def steps_of(backbone: str, kind) -> dict[str, list[int]]:
    """The steps of each setting of AlignVid's windows on a backbone's own schedule."""
    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import in_window
    from methods.registry import from_dict

    settings = PARAMETERS.backbones[backbone]
    scheduler = kind.from_pretrained(ROOT / settings.checkpoint, subfolder="scheduler")
    scheduler.set_timesteps(settings.steps)
    contexts = [ForwardContext(i, settings.steps, t, "cond") for i, t in enumerate(scheduler.timesteps.tolist())]
    names = [n for n in PARAMETERS.methods if re.fullmatch(r"alignvid(-released|-(early|middle|late)(-time|-all))?", n)]
    found = {}
    for name in names:
        (method,) = [from_dict(m) for m in PARAMETERS.methods[name]]
        by_time = method.variant == "released"
        found[name] = [c.step for c in contexts if in_window(method.window, c, by_time=by_time)]
    return found


def test_windows_by_time_are_the_codes_thresholds_on_each_schedule():
    from diffusers import CogVideoXDDIMScheduler, UniPCMultistepScheduler

    wan = steps_of("wan-i2v", UniPCMultistepScheduler)
    assert wan["alignvid"] == wan["alignvid-early-time"] == wan["alignvid-released"] == [0, 1, 2]
    assert (wan["alignvid-middle-time"], wan["alignvid-late-time"]) == ([3, 4, 5, 6], [7, 8, 9])
    cogvideox = steps_of("cogvideox-i2v", CogVideoXDDIMScheduler)
    assert cogvideox["alignvid"] == [0, 1, 2] and cogvideox["alignvid-early-time"] == cogvideox[
        "alignvid-released"
    ] == [0]
    assert (cogvideox["alignvid-middle-time"], cogvideox["alignvid-late-time"]) == ([1, 2, 3], [4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize("steps", [10, 20, 30, 40, 50])
def test_early_middle_and_late_are_thirty_percent_each(steps):
    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import in_window

    contexts = [ForwardContext(i, steps, 0.0, "cond") for i in range(steps)]
    for window in ("early", "middle", "late"):
        assert sum(in_window(window, c) for c in contexts) == 3 * steps // 10
    assert sum(in_window((0.7, 1.0), c) for c in contexts) == 3 * steps // 10 + 1  # as F.3 prints it


def test_a_window_without_a_step_is_refused():
    from types import SimpleNamespace

    import torch

    from methods.core.forward_context import ForwardContext
    from methods.core.step_windows import in_window

    with pytest.raises(ValueError, match="none of the 2 steps"):
        in_window("early", ForwardContext(0, 2, 999.0, "cond"))
    late = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.tensor([800.0, 400.0])))
    with pytest.raises(ValueError, match="none of the 2 steps"):
        in_window("early-by-time", ForwardContext(0, 2, 800.0, "cond", None, late))


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
