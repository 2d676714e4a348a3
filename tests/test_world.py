import numpy as np
import pytest

from testbed.benchmark import COUNTS, ambient_of, draw_benchmark
from testbed.captions import caption, event_caption, vocabulary
from testbed.clips import training_clip
from testbed.latents import unexecuted_clips
from testbed.models import SLOTS, build_llama_tokenizer, build_tokenizer
from testbed.oracle import Oracle
from testbed.world import (
    COLOURS,
    DIRECTIONS,
    DRIFT,
    EVENTS,
    FRAMES,
    MAX_OBJECTS,
    PAN,
    SHAPES,
    SIZE,
    STILL,
    coverage,
    final_objects,
    generator,
    held_out,
    render,
    sample_scene,
    state,
)

CLIPS = [training_clip(i, seed=4) for i in range(120)]
SAMPLES = [(*sample, ambient_of(*sample)) for sample in draw_benchmark(6, dict.fromkeys(COUNTS, 6))]


def test_a_clip_is_known_by_its_seed_and_begins_with_its_reference():
    assert training_clip(7, seed=4) == CLIPS[7] and {c.event.kind for c in CLIPS} == set(EVENTS)
    for clip in CLIPS[:20]:
        video = clip.video()
        assert video.shape == (FRAMES, SIZE, SIZE, 3) and (video[:1] == clip.video(frames=1)).all()


def test_the_unexecuted_share_is_drawn_for_each_clip():
    marked = unexecuted_clips(0, 200, seed=0, share=0.5)
    assert 70 < sum(marked) < 130 and marked[50:60] == unexecuted_clips(50, 10, seed=0, share=0.5)


@pytest.mark.parametrize("kind", EVENTS)
def test_events_do_what_they_say(kind):
    for i in range(20):
        rng = generator("test", kind, i)
        scene, event = sample_scene(rng, kind)
        clip, still = render(scene, event), render(scene, event, executed=False)
        assert clip.shape == (FRAMES, SIZE, SIZE, 3) and clip.dtype == np.uint8
        assert np.array_equal(clip[0], still[0]) and (still == still[0]).all()
        assert np.array_equal(clip[-1], clip[-4]), "the event has ended before the last quarter"
        assert np.array_equal(clip[-1], clip[0]) == (kind == "nothing")
        before, after = len(scene.objects), len(final_objects(scene, event))
        assert after - before == {"appear": 1, "disappear": -1}.get(kind, 0)
        assert max(before, after) <= MAX_OBJECTS
        colours = [o.colour for o in final_objects(scene, event)]
        assert len(set(colours)) == len(colours), "a colour names one object"


def test_moves_go_where_the_caption_says():
    for i in range(30):
        scene, event = sample_scene(generator("move", i), "move")
        old, new = scene.objects[event.target], event.result
        dx, dy = DIRECTIONS[event.direction]
        assert (new.x - old.x) * dx + (new.y - old.y) * dy >= 20
        assert event.direction in event_caption(scene, event)


def test_held_out_combinations_never_occur_in_training():
    seen = set()
    for i in range(3000):
        clip = training_clip(i, seed=5)
        event = clip.event
        thing = event.result if event.target is None else clip.scene.objects[event.target]
        if thing is not None:
            seen.add((thing.colour, thing.shape, event.kind))
    everything = {(c, s, k) for c in COLOURS for s in SHAPES for k in EVENTS if k != "nothing"}
    withheld = {x for x in everything if held_out(*x)}
    assert len(withheld) == 15 and not seen & withheld
    assert seen == everything - withheld


def test_captions_fit_their_slots():
    for clip in CLIPS:
        assert len(build_tokenizer()(clip.caption).input_ids) < SLOTS
        assert build_llama_tokenizer().unk_token_id not in build_llama_tokenizer()(clip.caption).input_ids


def test_ambient_motion_keeps_every_object_in_the_picture_and_is_heavy_tailed():
    pans = [np.hypot(*c.ambient.pan) for c in CLIPS]
    assert np.mean(np.array(pans) == 0) > 0.2 and max(pans) <= PAN["most"] and max(pans) > 3 * np.median(pans)
    for clip in CLIPS:
        assert all(np.hypot(*d) <= DRIFT["most"] + 1e-9 for d in clip.ambient.drifts)
        for frame in (0, 8, 16):
            for thing in state(clip.scene, clip.event, clip.ambient, frame):
                shape = thing.shape
                assert all(shape.radius - 1e-6 <= c <= SIZE - shape.radius + 1e-6 for c in (shape.x, shape.y))


def test_a_pushed_shape_moves_when_the_other_has_reached_it_and_no_sooner():
    pushes = [c for c in CLIPS if c.event.kind == "push"]
    assert len(pushes) > 10
    for clip in pushes:
        places = [[t.shape for t in state(clip.scene, clip.event, STILL, f)[:2]] for f in range(FRAMES)]
        apart = np.array([np.hypot(a.x - b.x, a.y - b.y) for a, b in places])
        moved = np.array([b.x != places[0][1].x or b.y != places[0][1].y for _, b in places])
        assert moved[-1] and not moved[0] and np.allclose(apart[moved], apart[-1])
        assert (apart[~moved] >= apart[-1] - 1e-9).all() and apart[0] > apart[-1] + 4
        assert np.minimum(coverage(places[-1][0]), coverage(places[-1][1])).sum() < 8  # square pixels, at the contact


def test_the_benchmark_has_the_papers_proportions_and_balanced_answers():
    assert COUNTS == {"recolour": 125, "appear": 122, "disappear": 120, "move": 100, "push": 100}
    for record, *_ in SAMPLES:
        answers = [q["expected_answer"] for q in record["questions"]]
        assert answers.count("yes") == answers.count("no") == 2


def test_the_oracle_is_right_about_the_truth_whatever_the_camera_does():
    for record, scene, event, ambient in SAMPLES:
        oracle, video = Oracle(), render(scene, event, ambient)
        for q in record["questions"]:
            assert oracle.answer(video, q["question"]).value == q["expected_answer"], (record["id"], q["question"])


def test_ambient_motion_alone_follows_no_prompt():
    for record, scene, event, ambient in SAMPLES:
        oracle, video = Oracle(), render(scene, event, ambient, executed=False)
        answers = [oracle.answer(video, q["question"]).value == q["expected_answer"] for q in record["questions"]]
        assert not all(answers)


def test_every_caption_is_made_of_the_vocabulary():
    words = set(vocabulary())
    for i in range(300):
        scene, event = sample_scene(generator("caption", i), EVENTS[i % len(EVENTS)])
        text = caption(scene, event, generator("words", i))
        assert set(text.replace(".", "").split()) <= words
