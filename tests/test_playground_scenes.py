"""Scenes of the playground: which prompts are understood, and which scenes the world never shows."""

import pytest

from analysis.playground.scenes import build_event, build_scene, questions_about
from testbed.oracle import Oracle
from testbed.world import EVENT_PHRASES, render

TWO = [("red", "circle", 18, 18), ("blue", "square", 46, 44)]


def test_every_phrase_is_understood_and_other_prompts_are_not_asked_about():
    scene = build_scene(TWO, 0)
    for kind, phrases in EVENT_PHRASES.items():
        for phrase in phrases:
            text = phrase.format(new="green triangle", old="red circle", colour="cyan", direction="up")
            asked, why = questions_about(scene, f"we see a red circle and a blue square. {text}")
            assert len(asked) == (5 if kind == "nothing" else 4) and not why, text
            assert questions_about(scene, text.rstrip("."))[0] == asked
    still, _ = questions_about(scene, "nothing changes.")
    video = render(scene, build_event(scene, "nothing"))
    assert all(Oracle().answer(video, q["question"]).value == q["expected_answer"] for q in still)
    for text, said in {
        "": "does not end with an event",
        "the red circle moves left. a blue square.": "does not end with an event",
        "the green circle disappears.": "the scene has no green circle; it has a red circle and a blue square",
        "the red circle turns blue.": "already",
    }.items():
        asked, why = questions_about(scene, text)
        assert not asked and said in why


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([], "1 to 3 shapes, not 0"),
        ([("red", "circle", 18, 18), ("red", "square", 46, 46)], "two shapes are red"),
        ([("red", "circle", 18, 18), ("blue", "square", 20, 20)], "the red circle and the blue square are 3 pixels"),
        ([("pink", "circle", 18, 18)], "no pink circle; it has red"),
        ([("red", "star", 18, 18)], "no red star"),
        ([("red", "circle", 2, 18)], "at 2, 18; 12 to 52"),
        ([("red", "circle", float("nan"), 18)], "at nan, 18"),
    ],
)
def test_a_scene_that_the_world_never_shows_is_refused(shapes, said):
    with pytest.raises(ValueError, match=said):
        build_scene(shapes, 0)


def test_a_full_scene_takes_no_further_shape():
    scene = build_scene([*TWO, ("green", "triangle", 18, 48)], 0)
    with pytest.raises(ValueError, match="3 shapes already"):
        build_event(scene, "appear", colour="cyan", shape="circle")
