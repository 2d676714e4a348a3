import numpy as np
import pytest

from testbed.world import (
    COLOURS,
    DIRECTIONS,
    EVENTS,
    FRAMES,
    MAX_OBJECTS,
    SHAPES,
    SIZE,
    caption,
    event_caption,
    final_objects,
    generator,
    held_out,
    render,
    sample_scene,
    training_clip,
    vocabulary,
)  # fmt: skip


def test_a_clip_is_known_by_its_seed():
    a, b = training_clip(3, seed=1), training_clip(3, seed=1)
    assert a == b and np.array_equal(a.video(), b.video())
    assert training_clip(4, seed=1) != a


def test_the_neglected_share_changes_nothing_else():
    plain = [training_clip(i, seed=0) for i in range(200)]
    half = [training_clip(i, seed=0, unexecuted=0.5) for i in range(200)]
    assert all((a.scene, a.event, a.caption) == (b.scene, b.event, b.caption) for a, b in zip(plain, half, strict=True))
    assert all(c.executed for c in plain)
    assert 70 < sum(c.executed for c in half) < 130


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
        assert (new.x - old.x) * dx + (new.y - old.y) * dy >= 16
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
    assert len(withheld) == 12 and not seen & withheld
    assert seen == everything - withheld


def test_every_caption_is_made_of_the_vocabulary():
    words = set(vocabulary())
    for i in range(300):
        scene, event = sample_scene(generator("caption", i), EVENTS[i % len(EVENTS)])
        text = caption(scene, event, generator("words", i))
        assert set(text.replace(".", "").split()) <= words
