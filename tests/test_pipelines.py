"""Whole pipelines under steering: the embedded Wan model, and guidance in three passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from families import forward, make
from PIL import Image

from methods import AlignVid, DyMoS, LowPassGuidance, record, steer
from methods.__main__ import main
from methods.registry import from_dict, to_dict

CHECKPOINT = "testbed/checkpoints/wan-i2v"


@pytest.fixture(scope="module")
def pipe():
    pipe = WanImageToVideoPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def video(pipe, guidance=3.0, steps=5):
    with torch.inference_mode():
        return pipe(
            image=Image.new("RGB", (64, 64), (120, 130, 140)), prompt="a red circle. it disappears.", negative_prompt="",
            height=64, width=64, num_frames=9, num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(3), output_type="latent",
        ).frames  # fmt: skip


def test_a_pipeline_runs_steered_recorded_and_is_itself_again(pipe):
    plain = video(pipe)
    with record(pipe, blocks=[0, 9]) as recording:
        assert torch.equal(video(pipe), plain)
        with steer(pipe, AlignVid(1.35, window=(0, 0.4)), DyMoS(0.6, window=(0, 0.4))):
            steered = video(pipe)
    assert not torch.equal(steered, plain) and steered.isfinite().all()
    assert torch.equal(video(pipe), plain)
    table = recording.to_frame()
    assert set(table.step) == set(range(5)) and set(table.steps) == {5}
    assert set(table.branch) == {"cond", "uncond"} and set(table.site) == {"self", "image", "text"}
    assert set(table.samples) == {2}  # two videos were recorded


def test_windows_count_steps_of_the_pipeline(pipe, monkeypatch):
    seen = set()
    edit = AlignVid.edit
    monkeypatch.setattr(
        AlignVid, "edit", lambda self, call: (seen.add((call.context.step, call.context.branch)), edit(self, call))
    )
    for _ in range(2):  # a second video starts at step 0 again
        with steer(pipe, AlignVid(1.2, window="early")):
            video(pipe, steps=10)
        assert seen == {(s, b) for s in range(3) for b in ("cond", "uncond")}
        seen.clear()
    with steer(pipe, AlignVid(1.2, window="early", variant="released")):
        video(pipe, steps=10, guidance=1.0)
    times = [t for t in pipe.scheduler.timesteps.tolist() if t > 900]
    assert seen == {(s, "cond") for s in range(len(times))}


def test_accelerates_rehooking_does_not_lose_the_steering(pipe):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    with steer(pipe, AlignVid(1.5, window="all")):
        expected = video(pipe)
    for module in (pipe.transformer, *[m for m in pipe.transformer.modules() if hasattr(m, "processor")]):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    with steer(pipe, AlignVid(1.5, window="all")):
        remove_hook_from_module(pipe.transformer)
        add_hook_to_module(pipe.transformer, AlignDevicesHook(execution_device="cpu"))
        assert torch.equal(video(pipe), expected)
    remove_hook_from_module(pipe.transformer, recurse=True)
    plain = video(pipe)
    with steer(pipe, AlignVid(1.5, window="all")):
        assert torch.equal(video(pipe), expected)
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.slow
def test_a_compiled_transformer_is_steered(when):
    model, inputs = make("wan2.1-i2v")
    with steer(model, AlignVid(1.5, window="all")):
        expected = forward(model, inputs)
    plain = forward(model, inputs)
    torch._dynamo.reset()
    model.compile(backend="eager")
    if when == "before":
        forward(model, inputs)
    with steer(model, AlignVid(1.5, window="all")):
        assert torch.allclose(forward(model, inputs), expected, atol=1e-6)
    assert torch.allclose(forward(model, inputs), plain, atol=1e-6)


# --- Low-pass guidance -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["wan2.1-i2v", "wan2.2-5b"])
def test_sequential_guidance_becomes_three_passes(name):
    model, inputs = make(name)
    method = LowPassGuidance(factor=0.5, guidance=4.0, window="all")
    negative = inputs | {"encoder_hidden_states": -inputs["encoder_hidden_states"]}
    with steer(model, method, steps=10):
        with model.cache_context("cond"):
            cond = forward(model, inputs)
        with model.cache_context("uncond"):
            uncond = forward(model, negative)
    blurred = inputs["hidden_states"].clone()
    part = blurred[:, 16:] if name == "wan2.1-i2v" else blurred[:, :, :1]
    size = part.shape[-2:]
    small = torch.nn.functional.interpolate(part.flatten(0, 1), [s // 2 for s in size], mode="bilinear", antialias=True)
    part.copy_(torch.nn.functional.interpolate(small, size, mode="bilinear", antialias=True).view_as(part))
    c_lp, u_lp = (forward(model, x | {"hidden_states": blurred}) for x in (inputs, negative))
    expected = forward(model, negative) + 4 * (c_lp - u_lp)
    assert torch.allclose(uncond + 4 * (cond - uncond), expected, atol=2e-5)


def test_batched_guidance_becomes_three_passes():
    model, inputs = make("cogvideox-i2v", batch=2)
    with steer(model, LowPassGuidance(factor=0.5, window="all"), steps=10), model.cache_context("cond_uncond"):
        u, c = forward(model, inputs)
    blurred = inputs["hidden_states"].clone()
    part = blurred[:, :, 4:]
    small = torch.nn.functional.interpolate(part.flatten(0, 1), (2, 4), mode="bilinear", antialias=True)
    part.copy_(torch.nn.functional.interpolate(small, (4, 8), mode="bilinear", antialias=True).view_as(part))
    u_lp, c_lp = forward(model, inputs | {"hidden_states": blurred})
    assert torch.allclose(u + 6 * (c - u), forward(model, inputs)[0] + 6 * (c_lp - u_lp), atol=2e-5)


def test_low_pass_filters_keep_a_constant_and_stop_outside_the_window(pipe):
    for method in (LowPassGuidance(), LowPassGuidance(filter="gaussian_blur", kernel=0.4)):
        flat = torch.full((1, 2, 3, 8, 8), 0.7)
        assert torch.allclose(method._filter(flat, 1.0), flat)
    with steer(pipe, LowPassGuidance(factor=1.0)):
        neutral = video(pipe)
    assert torch.equal(neutral, video(pipe))
    with steer(pipe, LowPassGuidance()):
        assert not torch.equal(video(pipe), neutral)


# --- Settings and the command ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "method", [AlignVid(1.35, window=(0.1, 0.4), blocks=(1, 2)), DyMoS(-0.5), LowPassGuidance(factor=0.3)]
)
def test_methods_survive_json(method):
    assert from_dict(json.loads(json.dumps(to_dict(method)))) == method


@pytest.mark.parametrize("settings", [{"method": "magic"}, {"method": "dymos"}, {"method": "alignvid", "gama": 1}])
def test_unknown_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"magic|gamma|gama"):
        from_dict(settings)


def test_the_command_makes_a_video_and_says_how(tmp_path):
    image, out = tmp_path / "x.png", tmp_path / "videos" / "out.mp4"
    Image.new("RGB", (64, 64), (90, 120, 90)).save(image)
    options = ["--model", CHECKPOINT, "--image", str(image), "--prompt", "a red circle.", "-o", str(out)]
    size = ["--height", "64", "--width", "64", "--frames", "5", "--steps", "4", "--dtype", "float32"]
    main(
        [
            "generate",
            *options,
            *size,
            "--method",
            "alignvid",
            "--method",
            '{"method": "dymos", "gamma": 0.5}',
            "--gamma",
            "1.2",
        ]
    )
    settings = json.loads(Path(f"{out}.json").read_text())
    assert out.stat().st_size > 0 and [m["gamma"] for m in settings["methods"]] == [1.2, 0.5]
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.mp4", "out.mp4.json"]
    with pytest.raises(SystemExit, match="unknown method 'magic'"):
        main(["generate", *options, "--method", "magic"])


def test_the_command_asks_for_the_size_that_the_model_needs(tmp_path):
    options = ["--prompt", "a red circle.", "-o", str(tmp_path / "out.mp4"), "--steps", "1"]
    options += ["--width", "64", "--frames", "5", "--dtype", "float32"]
    Image.new("RGB", (64, 64), (90, 120, 90)).save(tmp_path / "x.png")
    with pytest.raises(SystemExit, match=r"default size .* it was trained on: --height$"):
        main(["generate", "--model", CHECKPOINT, "--image", str(tmp_path / "x.png"), *options])
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_ctrl_c_ends_the_command_without_a_video(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("methods.command_line.video_file.write_mp4", interrupted)
    size = ["--height", "64", "--width", "64", "--frames", "5", "--steps", "1", "--dtype", "float32"]
    twin = CHECKPOINT.replace("i2v", "t2v")
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--model", twin, "--prompt", "a red circle.", "-o", str(tmp_path / "out.mp4"), *size])
    assert stop.value.code == 130 and capsys.readouterr().err.endswith("stopped; no video was written\n")
    assert not list(tmp_path.iterdir())
