import cv2
import numpy as np
import pytest

from testbed.benchmark import draw_benchmark
from testbed.oracle import QUESTIONS, Oracle, displacement, parse_ends, parse_frame, understand
from testbed.world import render

SAMPLES = draw_benchmark(11, {"appear": 25, "disappear": 25, "recolour": 25, "move": 25})


def right_share(change=lambda video: video, executed=True):
    right = []
    for record, scene, event in SAMPLES:
        video, oracle = change(render(scene, event, executed=executed)), Oracle()
        right += [oracle.answer(video, q["question"]).value == q["expected_answer"] for q in record["questions"]]
    return np.mean(right)


def test_truth_is_answered_without_a_mistake():
    assert right_share() == 1.0


def test_a_still_copy_follows_no_prompt():
    for record, scene, event in SAMPLES:
        video, oracle = render(scene, event, executed=False), Oracle()
        assert not all(oracle.answer(video, q["question"]).value == q["expected_answer"] for q in record["questions"])
    assert 0.2 < right_share(executed=False) < 0.5


@pytest.mark.parametrize("name", ["noise", "blur", "jpeg"])
def test_degraded_truth_is_still_understood(name):
    rng = np.random.default_rng(0)
    change = {
        "noise": lambda v: (v + rng.normal(0, 8, v.shape)).clip(0, 255).astype(np.uint8),
        "blur": lambda v: np.stack([cv2.GaussianBlur(f, (0, 0), 0.8) for f in v]),
        "jpeg": lambda v: np.stack([cv2.imdecode(cv2.imencode(".jpg", f)[1], 1) for f in v]),
    }[name]
    assert right_share(change) > 0.97


def test_questions_are_understood_and_others_refused():
    for record, _, _ in SAMPLES:
        for question in record["questions"]:
            kind, _ = understand(question["question"])
            assert QUESTIONS[kind][0] == question["category"]
    with pytest.raises(ValueError, match="Is it art"):
        understand("Is it art?")


def test_an_object_that_was_never_there_is_unknown():
    _, scene, event = SAMPLES[0]
    absent = next(c for c in ("red", "green", "blue", "cyan") if c not in {o.colour for o in scene.objects})
    answer = Oracle().answer(render(scene, event), f"Does the {absent} circle disappear during the video?")
    assert answer.value == "unknown" and answer.margin == 0


def test_displacement_is_the_distance_travelled():
    for _, scene, event in SAMPLES:
        start, ends = parse_ends(render(scene, event))
        assert len(ends) == 4
        if event.kind == "move":
            old, new = scene.objects[event.target], event.result
            true = np.hypot(new.x - old.x, new.y - old.y) / len(scene.objects)
            assert displacement(start, ends) == pytest.approx(true, abs=1.0)
        else:
            assert displacement(start, ends) < 0.5


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="32"):
        parse_frame(np.zeros((32, 32, 3), np.uint8))
