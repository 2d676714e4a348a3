"""Scorers without weights: against independent implementations, hand-made truth and VBench's own rules."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from videos_of_others import noisy, panned, texture, write

from analysis.scorers.dynamic_degree_supported_flow import rule
from analysis.scorers.flow_of_pairs import top_flow
from analysis.scorers.reference_fidelity import fitted, ssim
from analysis.scorers.registry import make_scorer
from analysis.scorers.scorer import Sample, check_values
from analysis.scorers.static_filter_supported_flow import is_static
from analysis.scorers.video import NotScored, Video
from analysis.scoring.optical_flow import pair_scores

NOTHING = Sample()


class Frames(Video):
    """Frames that are in no file."""

    def __init__(self, frames, fps=16.0):
        super().__init__(Path("frames.mkv"))
        self._given = (frames, None if fps is None else np.arange(len(frames)) / fps, fps)

    def _decoded(self):
        return self._given


def score(name, video, sample=NOTHING):
    scorer = make_scorer(name)
    values = scorer.score(video, sample)
    check_values(scorer, values)
    return values


# Flickering and sharpness


def test_temporal_flickering_is_vbenchs_on_the_file(tmp_path):
    """VBench reads the file with OpenCV and averages absolute differences in float32."""
    path = write(tmp_path / "a.mp4", noisy(panned(9, 64, 96), 6))
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1].astype(np.float32))
    differences = [np.abs(a - b).mean(dtype=np.float64) for a, b in pairwise(frames)]
    assert score("temporal_flickering", Video(path))["temporal_flickering"] == pytest.approx(
        1 - np.mean(differences) / 255, abs=1e-9
    )
    assert score("temporal_flickering", Frames(np.repeat(frames[0].astype(np.uint8)[None], 3, 0))) == {
        "temporal_flickering": 1.0
    }


def test_sharpness_is_the_variance_of_the_laplacian():
    video = panned(8, 40, 48)
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in video]).astype(np.float64)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    laplacian = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:] - 4 * grey
    variance = laplacian.var((1, 2))
    values = score("sharpness", Frames(video))
    assert values["laplacian_variance"] == pytest.approx(variance.mean())
    assert values["sharpness_kept"] == pytest.approx(variance[-2:].mean() / variance[0])
    blurred = video.copy()
    blurred[4:] = [cv2.GaussianBlur(f, (0, 0), 2) for f in video[4:]]
    assert score("sharpness", Frames(blurred))["sharpness_kept"] < 0.7
    assert score("sharpness", Frames(noisy(video, [[[[0]]]] * 4 + [[[[25]]]] * 4)))["sharpness_kept"] > 1.5
    flat = score("sharpness", Frames(np.full((4, 20, 20, 3), 90, np.uint8)))["sharpness_kept"]
    assert flat.status == "undefined"


# Fidelity to the reference


@pytest.mark.parametrize("size", [(11, 11), (40, 57), (64, 33)])
def test_ssim_and_psnr_equal_scikit_image(size, tmp_path):
    a = texture(*size)
    b = noisy(a, 12)
    greys = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
    theirs = structural_similarity(
        *greys, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(*greys) == pytest.approx(theirs, abs=1e-6)
    cv2.imwrite(str(tmp_path / "r.png"), a[..., ::-1])
    values = score("reference_fidelity", Frames(np.stack([a, b])), Sample(image=tmp_path / "r.png"))
    noise = peak_signal_noise_ratio(a, b)
    assert values["first_psnr"] == 99 and values["min_psnr"] == values["last_psnr"] == pytest.approx(noise)
    assert values["mean_psnr"] == pytest.approx((99 + noise) / 2)
    assert values["first_ssim"] == pytest.approx(1) and values["last_ssim"] == pytest.approx(theirs, abs=1e-6)


def test_a_reference_of_another_size_is_fitted_as_it_is_said():
    image = np.zeros((60, 200, 3), np.uint8)
    image[:, 70:130] = texture(60, 60)
    assert np.array_equal(fitted(image, 60, 60, "crop"), image[:, 70:130])
    assert fitted(image, 30, 100, "exact").shape == (30, 100, 3)
    assert fitted(image, 60, 60, "stretch").shape == (60, 60, 3)
    with pytest.raises(NotScored, match="200x60 and the video 60x60, another ratio"):
        fitted(image, 60, 60, "exact")
    with pytest.raises(ValueError, match="fit is 'pad'; allowed are exact, crop, stretch"):
        make_scorer("reference_fidelity:fit=pad")


def test_a_turned_photograph_is_upright(tmp_path):
    from PIL import Image

    picture = texture(20, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(picture)).save(tmp_path / "r.png", exif=exif)
    values = score("reference_fidelity", Frames(picture[None]), Sample(image=tmp_path / "r.png"))
    assert values["first_psnr"] == 99


# Flow: VBench's rules, the truth of translations, and no motion where nothing moves


@pytest.mark.parametrize(("fps", "interval"), [(30, 4), (24, 3), (16, 2), (10, 1), (8, 1), (4, 1), (20, 2), (60, 8)])
def test_frames_are_sampled_by_vbenchs_rule(fps, interval):
    picked = Frames(np.zeros((50, 2, 2, 3), np.uint8), fps).every(8)
    assert picked.tolist() == list(range(0, 50, interval))


@pytest.mark.parametrize(("frames", "count"), [(41, 10), (46, 12), (61, 15), (81, 20)])
def test_dynamic_degree_counts_as_vbench_does(frames, count):
    scores = np.zeros(frames - 1)
    scores[: count - 1] = 11.26  # 6 px at 256 are 11.25 at 480
    assert rule(scores, frames, 480) == (False, 0.0)
    scores[count - 1] = 11.26
    assert rule(scores, frames, 480) == (True, pytest.approx(11.26 / 11.25))
    assert rule(np.minimum(scores, 11.25), frames, 480) == (False, 1.0)  # above, not at least


def test_vbenchs_rule_is_not_asked_of_three_frames():
    with pytest.raises(NotScored, match="below 4"):
        score("dynamic_degree_supported_flow", Frames(panned(3, 48, 48)))
    with pytest.raises(NotScored, match="frames per second are not known"):
        score("dynamic_degree_supported_flow", Frames(panned(8, 48, 48), fps=None))


def vbench_static(scores, frames, short_side):
    """Line by line as VBench's `check_static`, `scores` ending with the two of the ends."""
    threshold, allowed, above = 3.0 * (short_side / 256.0), round(2 * (frames / 16.0)), 0
    for value in scores[:-2]:
        above += value > threshold
        if above > allowed:
            return False
    return all(not value > threshold * allowed * 2 for value in scores[-2:])


def test_the_static_filter_decides_as_vbenchs():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        frames, side = int(rng.integers(2, 82)), int(rng.choice([64, 256, 480]))
        scores = rng.exponential(rng.uniform(0.2, 3), frames + 1) * side / 256
        wanted = vbench_static(scores, frames, side)
        assert is_static(scores[:-2], scores[-2:], frames, side) == wanted
        seen.add(wanted)
    assert seen == {True, False}


@pytest.mark.parametrize("side", [0, 128])
def test_flow_is_the_translation(side):
    video = Frames(panned(5, 160, 192, dx=4, dy=3))
    values = score(f"optical_flow:side={side}", video)
    assert values["flow_px"] == pytest.approx(5, rel=0.1)
    assert [values[f"flow_q{i}"] for i in range(1, 5)] == pytest.approx([values["flow_px"]] * 4, rel=0.1)
    assert values["flow_speed"] == pytest.approx(values["flow_px"] / 160 * 16)
    assert video.fps == 16


def test_flow_of_a_small_video_is_the_column_of_the_score_tables():
    video = noisy(panned(6, 64, 64), 3)
    assert score("optical_flow", Frames(video))["flow_px"] == pytest.approx(pair_scores(video).mean(), abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(7, 64), (64, 7), (11, 11), (2, 2)])
@pytest.mark.parametrize("name", ["optical_flow", "dynamic_degree_supported_flow", "static_filter_supported_flow"])
def test_frames_that_are_too_small_for_the_flow_have_none(name, height, width):
    with pytest.raises(NotScored, match=f"frames of {width}x{height}; the flow needs 8x12 px") as raised:
        score(name, Frames(panned(9, height, width)))
    assert raised.value.status == "undefined"
    assert score(name, Frames(panned(9, 8, 12))) and score(name, Frames(panned(9, 12, 8)))


def test_flow_by_quarter_sees_when_it_moves():
    moving = panned(5, 64, 96, dx=3, dy=0)
    video = np.concatenate([np.repeat(moving[:1], 12, 0), moving])  # the last four of sixteen pairs move
    values = score("optical_flow", Frames(video))
    assert values["flow_q1"] == values["flow_q2"] == values["flow_q3"] == 0
    assert values["flow_q4"] == pytest.approx(3, rel=0.15)


def scene(kind, sigma, ground, shift=16, size=256, cell=16):
    """Two frames: a disc on a ground that stays, moves by `shift` px, appears or disappears; of one colour without `cell`."""
    ground = np.full((size, size, 3), 110, np.uint8) if ground == "flat" else texture(size, size, seed=3)

    def with_disc(x):
        frame, mask = ground.copy(), np.zeros((size, size), np.uint8)
        cv2.circle(mask, (x, size // 2), 36, 1, -1)
        disc = texture(size, size, 5, cell) if cell else np.full((size, size, 3), (200, 60, 40), np.uint8)
        frame[mask == 1] = np.roll(disc, x - size // 2, axis=1)[mask == 1]
        return frame

    there = with_disc(size // 2)
    pair = {
        "static": (there, there), "move": (there, with_disc(size // 2 + shift)), "appear": (ground, there),
        "disappear": (there, ground),
    }[kind]  # fmt: skip
    return Frames(noisy(np.stack(pair), sigma))


def one_pair(video):
    return top_flow(video, np.array([[0, 1]]), 0.05, 256)[0]


@pytest.mark.parametrize("sigma", [0, 3, 8])
def test_flow_of_an_object_is_its_motion_and_else_nothing(sigma):
    """On a flat ground at 256 px: false motion at most 0.18 of VBench's threshold of 6 px, true motion within 5 %."""
    for kind in ("static", "appear", "disappear"):
        assert one_pair(scene(kind, sigma, "flat")) <= 0.18 * 6, kind
    assert one_pair(scene("static", sigma, "texture")) <= 0.18 * 6
    for shift in (4, 8, 16):
        assert one_pair(scene("move", sigma, "flat", shift)) == pytest.approx(shift, rel=0.05)


def test_the_blind_spots_of_the_flow_are_as_the_page_says():
    """docs/evaluating.md: one colour that moves is not seen, and over a texture what comes suddenly looks like motion."""
    assert one_pair(scene("move", 3, "flat", cell=0)) < 0.1
    assert 1 < one_pair(scene("appear", 3, "texture")) < 6
    assert one_pair(scene("move", 3, "flat", shift=32)) < 0.5 * 32


def test_dynamic_and_static_are_told_apart():
    fast, still = panned(9, 96, 128, dx=6, dy=0), np.repeat(panned(1, 96, 128), 9, 0)
    for video, dynamic in ((fast, 1.0), (noisy(still, 2), 0.0)):
        frames = Frames(video, fps=8)
        values = score("dynamic_degree_supported_flow", frames)
        assert values["dynamic_degree_supported_flow"] == dynamic
        assert (values["dynamic_margin_supported_flow"] > 1) == bool(dynamic)
        assert score("static_filter_supported_flow", frames)["static_supported_flow"] == 1 - dynamic
    assert score("dynamic_degree_supported_flow", Frames(fast, fps=8))[
        "dynamic_margin_supported_flow"
    ] == pytest.approx(6 / (6 * 96 / 256), rel=0.1)


# Onset, return, still copies


def test_onset_return_and_still_copy_of_made_videos():
    ground = texture(64, 80)
    shown = [0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1]  # a single frame is no onset

    def video(shown):
        frames = np.repeat(ground[None], len(shown), 0)
        for t in np.flatnonzero(shown):
            frames[t, 10:30, 10:30] = 255 - ground[10:30, 10:30] // 2
        return Frames(noisy(frames, 4), fps=8)

    values = score("change_of_pixels", video(shown))
    assert values["onset_pixels"] == 5 and values["onset_seconds_pixels"] == pytest.approx(5 / 8)
    assert values["returned_pixels"] == 0 and values["still_copy_pixels"] == 0
    assert values["change_peak"] == pytest.approx(400 / (64 * 80), rel=0.5)
    back = score("change_of_pixels", video([0, 0, 1, 1, 1, 0, 0, 0]))
    assert back["returned_pixels"] == 1 and back["change_end"] < 0.01 < back["change_peak"]
    copy = score("change_of_pixels", video([0] * 8))
    assert copy["still_copy_pixels"] == 1 and copy["onset_pixels"] == 8 and copy["returned_pixels"] == 0
    assert copy["onset_seconds_pixels"].status == "undefined"
