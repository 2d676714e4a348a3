"""The second edition of the testbed: its world, its oracle and the text encoders of its third lineage."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from next_testbed import hunyuan
from next_testbed.__main__ import parameters
from next_testbed.benchmark import COUNTS, draw_benchmark
from next_testbed.camera import camera_shift, steady
from next_testbed.clips import training_clip
from next_testbed.evaluate import sample_all
from next_testbed.lineages import module_of
from next_testbed.models import SLOTS, build_clip, build_llama_tokenizer, build_tokenizer, text_half, vision_half
from next_testbed.oracle import Oracle
from next_testbed.train import train_all
from next_testbed.train_few_steps import euler_sampler, guided_jump, sampler_levels
from next_testbed.train_transformer import noised
from next_testbed.world import (
    DRIFT,
    EVENTS,
    FRAMES,
    PAN,
    SIZE,
    STILL,
    coverage,
    generator,
    held_out,
    render,
    sample_ambient,
    state,
)
from testbed.train_clip import clip_pixels

CLIPS = [training_clip(i, seed=4) for i in range(120)]
SAMPLES = [
    (record, scene, event, sample_ambient(generator("ambient", record["id"]), scene, event))
    for record, scene, event in draw_benchmark(6, dict.fromkeys(("recolour", "appear", "disappear", "move", "push"), 6))
]


def test_a_clip_is_known_by_its_seed_and_begins_with_its_reference():
    assert training_clip(7, seed=4) == CLIPS[7] and {c.event.kind for c in CLIPS} == set(EVENTS)
    for clip in CLIPS[:20]:
        video = clip.video()
        assert video.shape == (FRAMES, SIZE, SIZE, 3) and (video[:1] == clip.video(frames=1)).all()


def test_held_out_combinations_never_occur():
    for clip in CLIPS:
        about = clip.event.result if clip.event.target is None else clip.scene.objects[clip.event.target]
        assert about is None or not held_out(about.colour, about.shape, clip.event.kind)


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


def test_the_cameras_motion_is_read_off_the_background():
    errors = []
    for clip in CLIPS:
        video = clip.video()
        errors.append(np.hypot(*np.subtract(camera_shift(video[0], video[-1]), clip.ambient.pan)))
    assert np.median(errors) < 0.2 and np.quantile(errors, 0.95) < 1.5
    flat = np.full((SIZE, SIZE, 3), (214, 39, 40), np.uint8)  # no background at all
    assert camera_shift(flat, flat) == (0.0, 0.0)


def test_a_steady_video_shows_what_a_camera_that_stays_would_see():
    errors, before = [], []
    for clip in CLIPS[:40]:
        video, (still, seen) = clip.video(), steady(clip.video())
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


@pytest.fixture(scope="module")
def third():
    torch.manual_seed(0)
    clip, llava = build_clip().eval(), hunyuan.build_text_encoder().eval()
    llava.model.vision_tower.load_state_dict(vision_half(clip).state_dict())
    plain = hunyuan.build_transformer(image_to_video=False).eval()
    return clip, llava, plain, hunyuan.image_to_video_from(plain).eval(), hunyuan.build_vae().eval()


CAPTION = "we see a red circle and a blue square. the red circle pushes the blue square."


def test_the_third_lineage_is_trained_on_what_its_pipelines_compute(third):
    clip, llava, plain, steered, vae = third
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    model = hunyuan.Denoiser(llava, steered, clip).eval()
    ids, lengths = hunyuan.tokenize([CAPTION])
    with torch.no_grad():
        seen = clip.vision_model(clip_pixels(np.array(image))[None], output_hidden_states=True).hidden_states[-2]
        pipe = hunyuan.image_to_video_pipeline(vae, llava, steered, clip)
        given = dict(prompt_template=hunyuan.PROMPT_TEMPLATE, max_sequence_length=SLOTS + 4)
        states, pooled, mask = pipe.encode_prompt(image=image, prompt=CAPTION, image_embed_interleave=4, **given)
        own, valid = model.read(ids, lengths, seen)
        n = int(valid.sum())
        assert n == int(mask.sum()) == 16 + int(lengths) and torch.equal(own[0, :n], states[0, :n])
        assert torch.equal(model.pooled(ids[:, SLOTS:]).pooler_output, pooled)
        # The negative prompt is the empty one with a black image, of which every second token is kept.
        black = Image.new("RGB", (SIZE, SIZE), 0)
        states, _, mask = pipe.encode_prompt(image=black, prompt="", **given)
        empty, none = hunyuan.tokenize([""])
        own, valid = model.read(empty, none, model.black, hunyuan.KEPT_NEGATIVE)
        assert int(valid.sum()) == int(mask.sum()) == 32
        assert torch.allclose(own[0, :32], states[0, :32], atol=1e-6)
        pipe = hunyuan.text_to_video_pipeline(vae, llava, plain, clip)
        states, _, mask = pipe.encode_prompt(
            prompt=CAPTION, prompt_template=hunyuan.TEXT_TEMPLATE, max_sequence_length=SLOTS
        )
        own, valid = model.read(ids, lengths)
        n = int(valid.sum())
        assert n == int(mask.sum()) and torch.equal(own[0, :n], states[0, :n])


def test_dropped_captions_read_a_black_image_beside_others(third):
    clip, llava, _, steered, _ = third
    model = hunyuan.Denoiser(llava, steered, clip).eval()
    ids, lengths = hunyuan.tokenize([CAPTION, ""])
    latents, times, seen = torch.randn(2, 16, 2, 8, 8), torch.tensor([300.0, 700.0]), torch.randn(2, 65, 64)
    with torch.no_grad():
        both = model(latents, times, ids, lengths, seen)
        alone = [model(latents[i : i + 1], times[i : i + 1], ids[i : i + 1], lengths[i : i + 1], seen[i : i + 1])
                 for i in (0, 1)]  # fmt: skip
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)
    assert text_half(clip).config.max_position_embeddings == 77  # as the pipeline pads to


def test_a_students_step_leads_where_the_guided_teachers_smaller_steps_do():
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    sigmas = sampler_levels(4, 3.0)[0].double()
    high, low = sigmas[[0, 1, 3]], sigmas[[1, 2, 4]]

    def velocity(z, sigma):  # with the caption, without it
        return z * sigma.view(-1, 1, 1), z.sin()

    expected = x.clone()
    for b in range(3):
        width = (high[b] - low[b]) / 4
        for i in range(4):
            sigma, z = high[b] - i * width, expected[b].clone()
            expected[b] = z - width * (z.sin() + 3 * (z * sigma - z.sin()))
    jump = guided_jump(velocity, x, high, low, scale=3.0, substeps=4)
    assert torch.allclose(x - (high - low).view(-1, 1, 1) * jump, expected, atol=1e-12)


def test_the_students_sampler_takes_eulers_steps_at_the_flows_own_noise_levels():
    sigmas, times = sampler_levels(4, 3.0)
    assert sigmas[-1] == 0 and np.allclose(sigmas[:-1], [3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25)], atol=1e-3)
    assert torch.allclose(times, 1000 * sigmas[:-1], atol=1)
    scheduler = euler_sampler(3.0)
    scheduler.set_timesteps(4)
    x = torch.randn(2, 3, 4)
    for i, t in enumerate(scheduler.timesteps):
        velocity = x.sin()
        expected = x - (sigmas[i] - sigmas[i + 1]) * velocity
        x = scheduler.step(velocity, t, x).prev_sample
        assert torch.allclose(x, expected, atol=1e-5)


def test_noise_on_the_reference_stays_on_its_first_frame_and_keeps_to_the_most():
    clean = torch.zeros(400, 4, 3, 8, 8)
    out = noised(clean, 0.6, torch.Generator().manual_seed(0))
    share = out[:, :, 0].flatten(1).std(1)
    assert torch.equal(out[:, :, 1:], clean[:, :, 1:]) and torch.equal(clean, torch.zeros_like(clean))
    assert share.max() < 0.7 and abs(float(share.mean()) - 0.3) < 0.03
    whole = noised(torch.ones(400, 4, 3, 8, 8), 0.6, torch.Generator().manual_seed(0))
    assert torch.allclose(whole[:, :, 0].flatten(1).mean(1), 1 - share, atol=0.25)


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("lineage", ["wan", "cogvideox", "hunyuan"])
def test_a_model_of_every_lineage_is_evaluated(lineage, kind, third, tmp_path):
    """With random weights and few steps: its pipeline takes what it is called with."""
    own, clip = module_of(lineage), third[0]
    torch.manual_seed(0)
    text, plain = own.build_text_encoder().eval(), own.build_transformer(image_to_video=False)
    steered = kind == "i2v"
    build = own.image_to_video_pipeline if steered else own.text_to_video_pipeline
    transformer = own.image_to_video_from(plain) if steered else plain
    build(own.build_vae().eval(), text, transformer.eval(), clip).save_pretrained(tmp_path / f"{lineage}-{kind}")
    (tmp_path / "images").mkdir()
    samples = draw_benchmark(0, {"push": 1})
    (tmp_path / "meta.json").write_text(json.dumps([record for record, _, _ in samples]))
    for record, scene, event in samples:
        Image.fromarray(render(scene, event, executed=False, frames=1)[0]).save(tmp_path / record["image-path"])
    given = dict(samples=1, scales=[3.0], steps=2)
    sample_all(tmp_path / f"{lineage}-{kind}", tmp_path, tmp_path, **given)
    rows = pd.read_csv(tmp_path / "0.csv")
    assert list(rows["event"]) == ["push"] and list(rows["guidance"]) == [3]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["t2v"], ["image", "video", "t2v"]),
        (["i2v-unexecuted"], ["video", "i2v-unexecuted"]),
        (["i2v-few-steps"], ["late", "video", "i2v-few-steps"]),
        (["i2v-noised", "i2v-few-steps"], ["late", "video", "i2v-noised", "i2v-few-steps"]),
        ([], []),
    ],
)
def test_what_is_missing_is_trained_on_the_clips_it_needs(tmp_path, monkeypatch, missing, expected):
    """Latents are not kept with the models: a variant that is trained later has its clips encoded again."""
    for name in {"t2v", "i2v", "i2v-unexecuted", "i2v-noised", "i2v-few-steps"} - set(missing):
        (tmp_path / f"{name}.safetensors").touch()
    for part in ("vae", "clip"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").touch()
    called = []
    monkeypatch.setattr(
        "next_testbed.train.processes.run", lambda function, *_, **k: called.append(k.get("kind") or k["name"])
    )
    for done in ("assemble", "write_card"):
        monkeypatch.setattr(f"next_testbed.train.{done}", lambda *_: None)
    train_all("wan", parameters()["testbed"], tmp_path, tmp_path, workers=1)
    assert called == expected
