from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analysis.scoring.instrument_checks import check, summary, truth
from analysis.scoring.objects import (
    Asked,
    asked_of,
    changed,
    displaced,
    integrity,
    object_measures,
    onset_and_return,
    subject_psnr,
)
from analysis.scoring.score_video import motion
from testbed.benchmark import draw_benchmark
from testbed.world import COLOURS, render

KINDS = ("appear", "disappear", "recolour", "move")
SAMPLES = draw_benchmark(5, dict.fromkeys(KINDS, 8))


def reference(scene, event):
    return render(scene, event, executed=False, frames=1)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_asked_change_is_read_off_the_questions(kind):
    for record, scene, event in (s for s in SAMPLES if s[2].kind == kind):
        asked = asked_of(record["questions"])
        thing = event.result if kind == "appear" else scene.objects[event.target]
        assert (asked.event, asked.colour) == (kind, thing.colour)
        assert asked.other == (event.result.colour if kind == "recolour" else "")


def test_displacement_and_onset_are_the_worlds():
    for record, scene, event in SAMPLES:
        video = render(scene, event)
        found, known = object_measures(video, reference(scene, event), record["questions"]), truth(scene, event, 17)
        assert found["onset"] == pytest.approx(known["onset"], abs=2)
        assert found["returned"] == 0 and (found["object_integrity"] == 1 or np.isnan(found["object_integrity"]))
        if event.kind == "move":
            assert found["asked_px"] == pytest.approx(known["asked_px"], abs=0.5)
        else:
            assert np.isnan(found["asked_px"])


def test_a_still_copy_has_no_displacement_and_no_onset():
    for record, scene, event in SAMPLES:
        found = object_measures(render(scene, event, executed=False), reference(scene, event), record["questions"])
        assert found["onset"] == 17 and found["returned"] == 0 and not found["asked_px"] > 0.01


def test_a_shape_that_fades_in_displaces_nothing():
    """Decoded, its optical flow is half that of a shape that crosses a quarter of the frame."""
    for _, scene, event in (s for s in SAMPLES if s[2].kind == "appear"):
        assert displaced(render(scene, event), scene.objects[0].colour).max() == 0


def test_a_shape_that_breaks_up_still_has_one_place():
    _, scene, event = next(s for s in SAMPLES if s[2].kind == "move")
    video, colour = render(scene, event), scene.objects[event.target].colour
    whole = displaced(video, colour)
    y = round(event.result.y)
    video[-4:, y - 2 : y + 2, :] = video[0, :1, :1]  # a gap of four rows through its middle
    assert displaced(video, colour)[-1] == pytest.approx(whole[-1], abs=1.5)


def test_a_lost_object_is_as_far_as_when_it_was_last_seen():
    _, scene, event = next(s for s in SAMPLES if s[2].kind == "move")
    video, colour = render(scene, event), scene.objects[event.target].colour
    whole = displaced(video, colour)
    video[10:] = video[0, :1, :1]
    assert displaced(video, colour)[-1] == pytest.approx(whole[9])
    assert np.isnan(displaced(np.full_like(video, 120), colour)).all()


def test_a_video_that_goes_back_is_said_to_return():
    for record, scene, event in SAMPLES:
        video = render(scene, event)
        back = np.concatenate([video[::2], np.repeat(video[:1], 8, axis=0)])
        found = object_measures(back, reference(scene, event), record["questions"])
        assert found["returned"] == 1 and found["onset"] < 17
    assert onset_and_return(np.array([0, 1, 0, 1, 1, 0, 0, 0], bool)) == (3, 1)
    assert onset_and_return(np.array([0, 0, 0, 1], bool)) == (4, 0)  # once is no onset


def test_integrity_sees_a_lost_form_colour_and_area():
    record, scene, event = next(s for s in SAMPLES if s[2].kind == "appear" and len(s[1].objects) == 1)
    video, ref, asked = render(scene, event), reference(scene, event), asked_of(record["questions"])
    assert integrity(video, ref, asked) == 1
    gone = video.copy()
    thing = scene.objects[0]
    rows, columns = (slice(int(c - thing.radius - 2), int(c + thing.radius + 2)) for c in (thing.y, thing.x))
    gone[-4:, rows, columns] = video[0, 0, 0]
    assert integrity(gone, ref, asked) == 0 and subject_psnr(gone, ref, asked) < 15
    spare = next(c for c in COLOURS if c not in (thing.colour, event.result.colour))
    other = Asked("recolour", thing.colour, spare)
    painted = video.copy()
    mask = np.abs(video[-1].astype(int) - COLOURS[thing.colour]).max(-1) < 3
    painted[:, mask] = COLOURS[spare]
    assert integrity(painted, ref, asked) == 0 and integrity(painted, ref, other) == 1


def test_subject_fidelity_follows_the_object():
    record, scene, event = next(s for s in SAMPLES if s[2].kind == "move")
    asked = asked_of(record["questions"])
    assert subject_psnr(render(scene, event), reference(scene, event), asked) > 25
    assert changed(render(scene, event), asked).any()


def test_temporal_flickering_is_vbenchs_formula():
    video = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    by_pairs = [np.mean(np.abs(a.astype(np.float64) - b)) for a, b in pairwise(video)]
    assert motion(video)["temporal_flickering"] == pytest.approx((255 - np.mean(by_pairs)) / 255, abs=1e-6)
    quarters = [motion(video)[f"flow_q{i}"] for i in range(1, 5)]
    assert np.mean(quarters) == pytest.approx(motion(video)["flow_px"])


def test_the_table_of_instruments_states_error_per_event():
    rows = pd.DataFrame([r for s in SAMPLES[:8] for r in check(*s, lambda video: video)])
    table = summary(rows)
    moves = table[(table["measure"] == "asked_px") & (table["event"] == "move") & (table["video"] == "true")]
    assert moves["n"].item() == 2 and moves["mean_error"].item() < 0.5
