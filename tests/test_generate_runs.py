"""`python -m methods generate`: what is made, and what the file beside it says of it."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from checkpoint_folders import TESTBED, image, save
from PIL import Image

import methods
from methods.__main__ import main
from methods.command_line import generate as command
from methods.command_line import method_settings, video_file
from methods.command_line.reference_image import fit_image, open_image

WAN = ["--model", str(TESTBED / "wan-i2v"), "--height", "64", "--width", "64", "--frames", "5"]
TINY = ["--height", "32", "--width", "48", "--frames", "9", "--steps", "2"]


def run(folder, *options, picture=(80, 64), output="out.mp4", prompt="a cat dances"):
    """Run the command; returns the settings beside the video."""
    given = ["--image", image(folder / "in.png", picture)] if picture else []
    main(["generate", *given, "--prompt", prompt, "-o", str(folder / output), *[str(o) for o in options]])
    return json.loads((folder / f"{output}.json").read_text())


def shape(path):
    """(frames, height, width, frames a second) of a video."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        return (*np.shape(frames)[:3], float(container.streams.video[0].average_rate))


@pytest.fixture
def calls(monkeypatch):
    """The arguments with which pipelines are called."""
    seen = []
    plain = command.sample

    def sample(plan, options, pipe):
        kind = type(pipe)
        original = kind.__call__

        def call(self, *args, **kwargs):
            seen.append(kwargs)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", call)
        return plain(plan, options, pipe)

    monkeypatch.setattr(command, "sample", sample)
    return seen


def test_the_settings_say_what_was_made(tmp_path, calls):
    made = run(tmp_path, *WAN, "--steps", 4, "--fps", 8, "--method", "alignvid", "--gamma", 1.35)
    asked, made, steered = made["asked"], made["made"], made["methods"]
    assert (asked["steps"], asked["fps"]) == (4, 8) and "guidance" not in asked and "seed" not in asked
    assert shape(tmp_path / "out.mp4") == (5, 64, 64, 8.0) == (made["frames"], made["height"], made["width"], 8.0)
    assert made["guidance"] == {"argument": "guidance_scale", "scale": 5.0} and made["options"]["seed"] == 0
    assert made["scheduler"]["class"] == "UniPCMultistepScheduler" and made["scheduler"]["flow_shift"] == 3.0
    assert made["timesteps"] == [999.0, 900.0, 750.0, 500.0]
    assert made["versions"].keys() == {"torch", "diffusers", "transformers"}
    assert made["versions"]["torch"] == torch.__version__
    assert made["weights"].startswith("sha256:") and made["device"] == "cpu"
    assert made["image_file"]["size"] == [80, 64] and made["options"]["fit"] == "crop"
    assert steered[0]["gamma"] == 1.35 and steered[0]["blocks"] == "first_half"
    (called,) = calls
    assert called["image"].size == (64, 64)
    skipped = ("image", "generator", "output_type")
    assert {k: v for k, v in called.items() if k not in skipped} == made["call"]


def test_a_settings_file_makes_the_same_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "--steps",
        4,
        "--guidance",
        2,
        "--flow-shift",
        5,
        "--seed",
        3,
        "--fit",
        "pad",
        "--negative-prompt",
        "blurry",
    ]
    first = run(tmp_path, *WAN, *options, "--method", '{"method": "dymos", "gamma": 0.5}')
    main(["generate", "--settings", "out.mp4.json", "-o", "again.mp4"])
    again = json.loads(Path("again.mp4.json").read_text())
    assert Path("again.mp4").read_bytes() == Path("out.mp4").read_bytes()
    assert again["methods"] == first["methods"]
    drop = ("plan",)  # says which values were asked for
    assert {k: v for k, v in again["made"].items() if k not in drop} == {
        k: v for k, v in first["made"].items() if k not in drop
    }
    main(["generate", "--settings", "out.mp4.json", "--seed", "4", "-o", "other.mp4"])
    assert Path("other.mp4").read_bytes() != Path("out.mp4").read_bytes()
    image(tmp_path / "in.png", (80, 80))
    with pytest.raises(SystemExit, match=r"in\.png is not what it was .*name it with --image"):
        main(["generate", "--settings", "out.mp4.json", "-o", "third.mp4"])
    main(
        ["generate", "--settings", "out.mp4.json", "--image", "in.png", "--steps", "1", "-o", "third.mp4", "--dry-run"]
    )
    for text, words in (("{", "not JSON"), ("{}", "not the settings of a video")):
        Path("wrong.json").write_text(text)
        with pytest.raises(SystemExit, match=words):
            main(["generate", "--settings", "wrong.json", "-o", "x.mp4"])


def test_other_weights_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("wan2.2-5b", tmp_path / "model")
    run(tmp_path, "--model", "model", *TINY)
    path = tmp_path / "model/transformer/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"model is not what it was .*name it with --model"):
        main(["generate", "--settings", "out.mp4.json", "-o", "again.mp4", "--dry-run"])
    main(["generate", "--settings", "out.mp4.json", "--model", "model", "-o", "again.mp4", "--dry-run"])


def test_every_suffix_has_settings_of_its_own(tmp_path):
    for suffix in (".mp4", ".mov", ".mkv"):
        made = run(tmp_path, *WAN, "--steps", 1, "--seed", len(suffix), output=f"x{suffix}")
        assert shape(tmp_path / f"x{suffix}")[:3] == (5, 64, 64) and made["made"]["options"]["seed"] == 4
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"in.png", *(f"x{s}{j}" for s in (".mp4", ".mov", ".mkv") for j in ("", ".json"))}


# --- Settings of the families, down to the call --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "options", "call"),
    [
        (
            "wan2.2-a14b",
            [*TINY, "--guidance", 4, "--guidance-2", 3, "--flow-shift", 8],
            {"guidance_scale": 4.0, "guidance_scale_2": 3.0, "num_frames": 9},
        ),
        (
            "framepack-f1",
            [
                *TINY[:4], "--steps", 2, "--frames", 13, "--sampling-type", "vanilla", "--guidance", 9,
                "--set", "latent_window_size=3", "--set", "true_cfg_scale=2", "--negative-prompt", "blurry",
            ],
            {"guidance_scale": 9.0, "true_cfg_scale": 2, "sampling_type": "vanilla", "num_frames": 9},
        ),
        (
            "cogvideox-i2v",
            [*TINY, "--set", "use_dynamic_cfg=true"],
            {"max_sequence_length": 6, "use_dynamic_cfg": True},
        ),
        ("hunyuan-1.5", ["--steps", 1, "--frames", 5, "--guidance", 2], {"num_frames": 5}),
    ],
)  # fmt: skip
def test_what_changes_the_result_reaches_the_pipeline(tmp_path, calls, name, options, call):
    made = run(tmp_path, "--model", save(name, tmp_path / "model"), *options, picture=(48, 32))["made"]
    assert call.items() <= calls[0].items() and call.items() <= made["call"].items()
    frames = 13 if name.startswith("framepack") else call.get("num_frames", 9)
    assert shape(tmp_path / "out.mp4")[0] == frames == made["frames"] == made["options"]["frames"]
    assert shape(tmp_path / "out.mp4")[1:3] == (made["height"], made["width"])
    if name == "wan2.2-a14b":
        assert made["scheduler"]["shift"] == 8.0
    if name == "hunyuan-1.5":
        assert made["guider"]["guidance_scale"] == 2.0 and "guidance_scale" not in calls[0]


def test_hunyuan_without_distilled_guidance_is_guided_truly(tmp_path, calls):
    from tiny_pipelines import build

    template = build("hunyuan-token-replace")[1]["prompt_template"]
    options = ["--set", f"prompt_template={json.dumps(template)}", "--text-length", 40, "--guidance", 3]
    run(tmp_path, "--model", save("hunyuan-token-replace", tmp_path / "model"), *TINY, *options)
    assert calls[0]["true_cfg_scale"] == 3.0 and "guidance_scale" not in calls[0]
    assert calls[0]["max_sequence_length"] == 40


def test_text_length_of_the_training_is_taken(tmp_path, calls):
    run(tmp_path, "--model", TESTBED / "cogvideox-i2v", "--frames", 5, "--steps", 1)
    assert calls[0]["max_sequence_length"] == 24


def test_parts_are_loaded_in_their_types(tmp_path, monkeypatch):
    loaded = []
    plain = command.load
    monkeypatch.setattr(command, "load", lambda *a: loaded.append(plain(*a)) or loaded[0])
    made = run(tmp_path, *WAN, "--steps", 1, "--dtype", "bfloat16")["made"]
    assert (loaded[0].transformer.dtype, loaded[0].vae.dtype) == (torch.bfloat16, torch.float32)
    assert (made["options"]["dtype"], made["options"]["vae_dtype"]) == ("bfloat16", "float32")


# --- The reference image -------------------------------------------------------------------------------------------------
def test_images_are_cropped_or_padded_but_never_stretched():
    wide = Image.new("RGB", (200, 100), (255, 255, 255))
    wide.paste((255, 0, 0), (0, 0, 50, 100))
    wide.paste((0, 0, 255), (150, 0, 200, 100))
    cropped = np.asarray(fit_image(wide, 50, 50, "crop"))
    assert cropped.shape == (50, 50, 3) and (cropped[:, 5:-5] > 250).all()  # the coloured quarters are cut off
    padded = np.asarray(fit_image(wide, 100, 100, "pad")).astype(int)
    assert (padded[:24] == 0).all() and (padded[-24:] == 0).all()
    assert np.abs(padded[50, [10, 50, 90]] - [[255, 0, 0], [255, 255, 255], [0, 0, 255]]).max() < 5
    same = Image.new("RGB", (50, 50))
    assert fit_image(same, 50, 50, "exact") is same
    with pytest.raises(ValueError, match="200 x 100 and the video 50 x 50"):
        fit_image(wide, 50, 50, "exact")


def test_images_are_turned_upright(tmp_path):
    plain = Image.new("RGB", (60, 40), (0, 0, 255))
    plain.paste((255, 0, 0), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: the left half becomes the upper one
    plain.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(open_image(str(tmp_path / "turned.png")))
    assert upright.shape == (60, 40, 3) and (upright[:30] == [255, 0, 0]).all() and (upright[30:] == [0, 0, 255]).all()


# --- What goes wrong while the video is made -----------------------------------------------------------------------------
def test_a_method_that_never_acts_stops_the_run_too(tmp_path, monkeypatch):
    """Where the plan cannot tell, `steer` does: here the plan is made blind."""
    monkeypatch.setattr(method_settings, "steps_of", lambda *_: None)
    for methods_given in (("alignvid", "dymos"), ("dymos", "alignvid")):
        given = [a for name in methods_given for a in ("--method", json.dumps({"method": name, "gamma": 1.35}))]
        with pytest.raises(SystemExit, match="window 'early'"):
            run(tmp_path, *WAN, "--steps", 3, *given)
        assert [p.name for p in tmp_path.iterdir()] == ["in.png"]


def test_nothing_is_left_of_a_video_that_failed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_file, "write_mp4", full)
    with pytest.raises(SystemExit, match="No space left"):
        run(tmp_path, *WAN, "--steps", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["in.png"]


def test_out_of_memory_names_what_avoids_it(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(command, "sample", full)
    with pytest.raises(SystemExit, match="out of memory on cpu: take --offload model, fewer --frames or a smaller"):
        run(tmp_path, *WAN, "--steps", 1)


def test_a_last_image_is_fitted_and_recorded(tmp_path, calls):
    last = image(tmp_path / "last.png", (96, 64))
    made = run(tmp_path, "--model", save("wan2.2-a14b", tmp_path / "model"), *TINY, "--last-image", last)["made"]
    assert calls[0]["last_image"].size == (48, 32) and made["last_image_file"]["size"] == [96, 64]


def test_values_that_are_not_finite_are_no_video(tmp_path, monkeypatch):
    plain = command.load

    def load(*arguments):
        pipe = plain(*arguments)
        next(pipe.vae.decoder.parameters()).data.fill_(float("nan"))
        return pipe

    monkeypatch.setattr(command, "load", load)
    with pytest.raises(SystemExit, match="not finite"):
        run(tmp_path, *WAN, "--steps", 1)


def test_a_report_is_printed_where_there_is_one(tmp_path, monkeypatch, capsys):
    class Steering:
        def report(self):
            return "alignvid: blocks 0-4, steps 0-0, 10 acted of 40 seen"

    class Steered:
        def __enter__(self):
            return Steering()

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(command, "steer", lambda *_: Steered())
    method = ["--method", "dymos", "--gamma", 1]
    made = run(tmp_path, *WAN, "--steps", 1, *method, "--report")
    assert "10 acted of 40 seen" in capsys.readouterr().out and made["made"]["report"] == Steering().report()
    with pytest.raises(SystemExit, match="there is no method"):
        run(tmp_path, *WAN, "--steps", 1, "--report")


def has_report():
    with methods.steer(torch_model()) as steering:
        return hasattr(steering, "report")


def torch_model():
    from families import make

    return make("wan-t2v")[0]


@pytest.mark.skipif(not has_report(), reason="`steer` makes no report yet")
def test_the_report_of_steer_names_what_acted(tmp_path, capsys):
    run(tmp_path, *WAN, "--steps", 4, "--method", "alignvid", "--gamma", 1.35, "--report")
    assert "alignvid" in capsys.readouterr().out.lower()
