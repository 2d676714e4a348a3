import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from analysis.scoring.fidelity import background_mask, fidelity, psnr, sharpness
from analysis.scoring.optical_flow import pair_scores
from testbed.benchmark import draw_benchmark
from testbed.world import background, render


def test_flow_measures_a_translation():
    texture = cv2.resize(
        np.random.default_rng(0).uniform(0, 255, (40, 40)).astype(np.float32), (160, 160), interpolation=2
    )
    frames = [texture[40 - 3 * t : 104 - 3 * t, 40 + 2 * t : 104 + 2 * t] for t in range(4)]
    video = np.repeat(np.stack(frames)[..., None].clip(0, 255), 3, axis=-1).astype(np.uint8)
    assert pair_scores(video) == pytest.approx(np.hypot(2, 3), abs=0.8)


def test_flow_sees_no_motion_in_noise_or_in_a_still_video():
    still = np.repeat(background(3)[None], 5, axis=0)
    assert pair_scores(still.astype(np.uint8)).max() == 0
    noisy = (still + np.random.default_rng(0).normal(0, 3, still.shape)).clip(0, 255).astype(np.uint8)
    assert pair_scores(noisy).max() < 0.75  # half of VBench's threshold at this size, 6 * 64 / 256


def test_moves_score_above_other_events():
    speed = {}
    for record, scene, event in draw_benchmark(3, {"appear": 8, "disappear": 8, "recolour": 8, "move": 8}):
        speed.setdefault(record["main-category"], []).append(pair_scores(render(scene, event)).mean())
    means = {k: np.mean(v) for k, v in speed.items()}
    assert means["motion"] > 2 * max(v for k, v in means.items() if k != "motion")


def test_psnr_equals_scikit_image():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b))
    assert psnr(a, a) == 99 and np.isnan(psnr(a, b, np.zeros((20, 30), bool)))


def test_fidelity_of_a_still_copy_is_perfect_and_falls_with_blur():
    _, scene, event = draw_benchmark(3, {"move": 1})[0]
    video = render(scene, event, executed=False)
    perfect = fidelity(video, video[0])
    assert perfect["first_psnr"] == 99 and perfect["background_psnr"] == 99
    assert perfect["sharpness_retention"] == pytest.approx(1)
    soft = fidelity(np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in video]), video[0])
    assert soft["sharpness_retention"] < 0.5 and soft["background_psnr"] < 60
    assert sharpness(video[0]) > 0


def test_background_mask_leaves_out_every_shape():
    _, scene, event = draw_benchmark(3, {"move": 1})[0]
    video = render(scene, event)
    mask = background_mask(video[0], video[-1])
    assert 0.2 < mask.mean() < 0.95
    assert np.abs(video[-1][mask].astype(int) - background(scene.texture)[mask]).max() <= 1
