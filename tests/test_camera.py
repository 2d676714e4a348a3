"""The camera's motion, told apart from that of objects."""

from dataclasses import replace

import numpy as np

from testbed.camera import camera_path, camera_shift, steady, velocity
from testbed.clips import training_clip
from testbed.world import FRAMES, SIZE, render

CLIPS = [training_clip(i, seed=4) for i in range(60)]
SMOOTH = [training_clip(i, seed=99) for i in range(200)]  # some with backgrounds that many shifts explain alike


def test_the_cameras_motion_is_read_off_the_background():
    errors = []
    for clip in CLIPS:
        video = clip.video()
        errors.append(np.hypot(*np.subtract(camera_shift(video[0], video[-1]), clip.ambient.pan)))
    assert np.median(errors) < 0.2 and np.quantile(errors, 0.95) < 1.5
    ends = [(clip, clip.video()[[0, -1]]) for clip in SMOOTH]
    assert max(np.hypot(*np.subtract(camera_shift(*pair), clip.ambient.pan)) for clip, pair in ends) < 2.5
    flat = np.full((SIZE, SIZE, 3), (214, 39, 40), np.uint8)  # no background at all
    assert camera_shift(flat, flat) == (0.0, 0.0)


def test_a_steady_video_shows_what_a_camera_that_stays_would_see():
    errors, before = [], []
    for clip in CLIPS[:40]:
        video = clip.video()
        still, seen = steady(video, camera_path(video))
        truth = render(clip.scene, clip.event, replace(clip.ambient, pan=(0.0, 0.0)))
        away = np.abs(still.astype(int) - truth).mean(-1)
        errors.append(away[seen].mean())
        before.append(np.abs(video.astype(int) - truth).mean())
        assert np.array_equal(still[0], video[0]) and seen[0].all() and seen.mean() > 0.7
        if clip.ambient.pan == (0.0, 0.0):
            assert np.abs(still.astype(int) - video).mean() < 1.0
    panned = [i for i, clip in enumerate(CLIPS[:40]) if np.hypot(*clip.ambient.pan) > 3]
    ratios = [errors[i] / before[i] for i in panned]
    assert len(panned) >= 5 and np.median(ratios) < 0.2 and max(ratios) < 0.5


def test_the_cameras_velocity_is_that_of_its_path():
    off = []
    for clip in CLIPS[:30]:
        found = velocity(camera_path(clip.video()))
        assert found.shape == (FRAMES - 1, 2)
        off.append(np.hypot(*(found - np.array(clip.ambient.pan) / (FRAMES - 1)).T).max())
    assert np.median(off) < 0.1 and np.quantile(off, 0.9) < 0.4  # pixels a frame
    there_and_back = np.stack([np.r_[np.arange(9.0), np.arange(7.0, -1, -1)], np.zeros(17)], axis=1)
    assert velocity(there_and_back)[:4, 0].min() > 0.7 and velocity(there_and_back)[-4:, 0].max() < -0.7
    assert np.array_equal(velocity(np.array([[0.0, 0.0], [2.0, 1.0]])), [[2.0, 1.0]])
