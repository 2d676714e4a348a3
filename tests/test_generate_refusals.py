"""`python -m methods generate`: what is refused, each time before weights are loaded (the folders have none)."""

import json

import pytest
from checkpoint_folders import TESTBED, image, ltx, save, without_weights
from tiny_pipelines import PIPELINES

from methods import AlignVid, DyMoS
from methods.__main__ import main, read_methods

SIZE = ["--height", "64", "--width", "64", "--frames", "5"]
TINY = ["--height", "32", "--width", "48", "--frames", "9", "--steps", "2"]
ALIGNVID = {"method": "alignvid", "gamma": 1.35}
UNPLANNED = ("hunyuan-1.5", "framepack", "framepack-f1", "ltx-2-condition", "wan-vace")  # refused or elsewhere


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> folder with configuration files alone."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name in PIPELINES:
        save(name, folder / f"{name}-saved")
        found[name] = without_weights(folder / f"{name}-saved", folder / name)
    found["video-to-video"] = without_weights(folder / "wan-t2v", folder / "video-to-video")
    index = folder / "video-to-video/model_index.json"
    index.write_text(index.read_text().replace("WanPipeline", "WanVideoToVideoPipeline"))
    for name in ("LTXImageToVideoPipeline", "LTXConditionPipeline"):
        ltx(folder / name, name)
        found[name] = str(folder / name)
    for name in ("wan-i2v", "wan-t2v", "cogvideox-i2v"):
        found[f"testbed-{name}"] = without_weights(TESTBED / name, folder / f"testbed-{name}")
    return found


@pytest.fixture
def refused(models, tmp_path, capsys):
    """How the command ends: its one line of error. No file may be left."""

    def run(model, *options, picture=True, output="out.mp4", prompt="a cat dances"):
        given = ["--image", image(tmp_path / "in.png", (80, 64))] if picture else []
        kept = {p: p.read_bytes() if p.is_file() else None for p in tmp_path.iterdir()}
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "generate",
                    "--model",
                    models.get(model, model),
                    *given,
                    "--prompt",
                    prompt,
                    "-o",
                    f"{tmp_path / output}",
                ]
                + [str(o) for o in options]
            )
        assert (
            isinstance(stop.value.code, str) and stop.value.code.startswith("error: ") and "\n" not in stop.value.code
        )
        assert {p: p.read_bytes() if p.is_file() else None for p in tmp_path.iterdir()} == kept
        return stop.value.code

    return run


@pytest.fixture
def planned(models, tmp_path, capsys):
    """What the command says that it would make."""

    def run(model, *options, picture=True, size=(80, 64)):
        given = ["--image", image(tmp_path / "in.png", size)] if picture else []
        main(
            [
                "generate",
                "--model",
                models[model],
                *given,
                "--prompt",
                "a cat",
                "--dry-run",
                "-o",
                f"{tmp_path}/out.mp4",
            ]
            + [str(o) for o in options]
        )
        assert [p.name for p in tmp_path.iterdir() if p.suffix != ".png"] == []
        return capsys.readouterr().out

    return run


# --- Numbers -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], "--steps must be a whole number, 1 or more, not 0"),
        (["--steps", -3], "--steps must be"),
        (["--frames", 16], "--frames 16: it must be 4k + 1, such as 13 or 17"),
        (["--frames", 18], "such as 17 or 21"),
        (["--frames", 0], "--frames must be a whole number, 1 or more, not 0"),
        (["--frames", -3], "--frames must be"),
        (["--fps", 0], "--fps must be a finite number above 0, not 0"),
        (["--fps", "nan"], "--fps must be a finite number above 0"),
        (["--guidance", -1], "--guidance must be a finite number, 0 or more, not -1"),
        (["--guidance", "inf"], "--guidance must be a finite number"),
        (["--seed", -1], "--seed must be a whole number, 0 to"),
        (["--height", 70], "--height 70: it must be a multiple of 16, such as 64 or 80"),
        (["--width", 8], "--width 8: it must be a multiple of 16, such as 16"),
        (["--height", 1024], "128 rows of tokens, and its table of positions has 32; at most 256"),
        (["--frames", 129], "the model's table of positions ends at 125"),
        (["--flow-shift", 0], "--flow-shift must be a finite number above 0"),
        (["--text-length", 0], "--text-length must be a whole number, 1 or more"),
        (["--text-length", 226], "splits the image from the text of this Wan at 512 tokens"),
        (["--set", "num_inference_steps=9.5"], "--steps must be a whole number, 1 or more, not 9.5"),
        (["--set", "num_inference_steps=many"], "--steps must be a whole number, 1 or more, not 'many'"),
    ],
)
def test_numbers_that_cannot_be_made(refused, options, words):
    assert words in refused("testbed-wan-i2v", *SIZE, *options)


def test_a_missing_size_is_asked_for(refused):
    assert "give the size that it was trained on: --height, --width, --frames" in refused("testbed-wan-i2v")


# --- Options that this pipeline would ignore -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("testbed-wan-i2v", ["--gamma", 3], "none of the methods given by name has a gamma"),
        ("testbed-wan-i2v", ["--gamma", 3, "--method", "lowpass"], "none of the methods given by name has a gamma"),
        ("testbed-wan-i2v", ["--gamma", 3, "--method", json.dumps(ALIGNVID)], "none of the methods given by name has"),
        ("testbed-wan-i2v", ["--gamma", 3, "--method", "alignvid", "--method", "dymos"], '{"method": "dymos", "gam'),
        ("testbed-wan-i2v", ["--guidance-2", 3], "no second expert"),
        ("wan2.2-a14b", [*TINY, "--guidance", 1, "--guidance-2", 3], "--guidance-2 3.0 has no effect at guidance 1.0"),
        ("hunyuan-token-replace", ["--set", "guidance_scale=6"], "does not read it"),
        ("video-to-video", [], "WanVideoToVideoPipeline needs 'video'"),
        (
            "ltx-2-condition",
            [*TINY, "--width", "96", "--height", "64"],
            "takes its images as conditions, which cannot be",
        ),
        ("testbed-wan-i2v", ["--sampling-type", "vanilla"], "WanImageToVideoPipeline has no sampling_type"),
        ("testbed-wan-i2v", ["--guidance", 1, "--negative-prompt", "blurry"], "no effect without guidance"),
        ("framepack", ["--negative-prompt", "blurry"], "--set true_cfg_scale"),
        ("testbed-cogvideox-i2v", ["--flow-shift", 3], "has no flow shift"),
        ("testbed-cogvideox-i2v", ["--text-length", 226], "the model was trained with 24"),
        ("framepack", ["--flow-shift", 3], "would ignore it"),
        ("hunyuan-1.5", ["--height", 32], "chooses the size itself"),
        ("hunyuan-1.5", ["--text-length", 20], "has no max_sequence_length"),
        ("hunyuan-1.5", ["--fit", "pad"], "crops the image itself"),
        ("framepack", ["--frames", 9], "sections of 36 frames, so 36k + 1, such as 37 or 73"),
        ("framepack", ["--sampling-type", "F1"], "allowed are vanilla, inverted_anti_drifting"),
    ],
)
def test_nothing_is_ignored(refused, model, options, words):
    assert words in refused(model, *(SIZE if model == "testbed-wan-i2v" else []), *options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("foo=1", "takes no 'foo'; it takes prompt, negative_prompt, height"),
        ("latents=1", "cannot be set here"),
        ("num_videos_per_prompt=2", "cannot be set here"),
        ("output_type=pil", "cannot be set here"),
        ("num_frames=9", "--set num_frames=9 and --frames 5 are the same thing"),
        ("guidance_scale", "give NAME=VALUE"),
        ("guidance_scale=strong", "it must be a number, like its default, 5.0"),
    ],
)
def test_arguments_of_the_call_are_checked_against_its_signature(refused, given, words):
    assert words in refused("testbed-wan-i2v", *SIZE, "--set", given)


def test_an_argument_is_not_given_twice(refused):
    twice = refused("testbed-wan-i2v", *SIZE, "--set", "guidance_scale=3", "--guidance", 4)
    assert "the same argument of WanImageToVideoPipeline" in twice
    assert "use_dynamic_cfg is given twice" in refused(
        "testbed-cogvideox-i2v", "--set", "use_dynamic_cfg=true", "--set", "use_dynamic_cfg=false"
    )
    assert "it must be true or false" in refused("testbed-cogvideox-i2v", "--set", "use_dynamic_cfg=1")


# --- Models, images, places ----------------------------------------------------------------------------------------------
def test_models_that_are_none(refused, tmp_path_factory):
    folder = tmp_path_factory.mktemp("none")
    assert "no such folder, and no name of a model on the hub" in refused("nowhere")
    assert "HF_HUB_OFFLINE=1 forbids it" in refused("nobody/has-this")
    assert "no model_index.json" in refused(str(folder))
    (folder / "model_index.json").write_text('{"_class_name": "NoPipeline"}')
    assert "is a NoPipeline, which diffusers" in refused(str(folder))
    (folder / "model_index.json").write_text("{")
    assert "is not JSON" in refused(str(folder))
    assert "revisions are of names on the hub" in refused("testbed-wan-i2v", *SIZE, "--revision", "main")


def test_images_that_do_not_fit(refused, tmp_path):
    assert "WanImageToVideoPipeline makes videos from an image: give --image" in refused(
        "testbed-wan-i2v", *SIZE, picture=False
    )
    assert "makes videos from text alone" in refused("testbed-wan-t2v", *SIZE)
    assert "--fit crop: there is no image" in refused("testbed-wan-t2v", *SIZE, "--fit", "crop", picture=False)
    for given, words in (
        ("https://example.com/x.png", "https://example.com/x.png is an address; download"),
        (str(tmp_path / "no.png"), "no reference image at"),
        (__file__, "cannot be read as an image"),
    ):
        assert words in refused("testbed-wan-i2v", *SIZE, "--image", given, picture=False)
    last = ["--last-image", image(tmp_path / "last.png")]
    assert "CogVideoXImageToVideoPipeline takes none" in refused("testbed-cogvideox-i2v", *last)
    exact = refused("testbed-wan-i2v", *SIZE, "--fit", "exact")
    assert "the image is 80 x 64 and the video 64 x 64" in exact and "--fit crop or --fit pad" in exact


def test_outputs_that_cannot_be_written(refused, tmp_path):
    for name in ("out.gif", "out.webm", "out.avi", "out"):
        assert "allowed are .mp4, .mov, .mkv" in refused("testbed-wan-i2v", *SIZE, output=name)
    (tmp_path / "file").write_text("x")
    assert "its folder cannot be written" in refused("testbed-wan-i2v", *SIZE, output="file/out.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in refused("testbed-wan-i2v", *SIZE, output="folder.mp4")
    assert "its folder cannot be written" in refused("testbed-wan-i2v", *SIZE, output="/proc/none/out.mp4")


def test_texts_and_devices(refused):
    assert "--prompt is empty" in refused("testbed-wan-i2v", *SIZE, prompt=" ")
    assert "not a device of torch" in refused("testbed-wan-i2v", *SIZE, "--device", "gpu")
    assert "there is no accelerator" in refused("testbed-wan-i2v", *SIZE, "--device", "cpu", "--offload", "model")
    assert "CPUs lack operations" in refused("testbed-wan-i2v", *SIZE, "--device", "cpu", "--dtype", "float16")


def test_positions_that_were_learned_for_one_size(refused, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "model"
    without_weights(models["cogvideox-i2v"], folder)
    path = folder / "transformer/config.json"
    learned = {"use_learned_positional_embeddings": True, "use_rotary_positional_embeddings": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | learned))
    said = refused(str(folder), "--height", 48, "--width", 64)
    assert "--height 48 --width 64: this model learned its positions for 32 x 64" in said


# --- Methods -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"blocks": 3}, "alignvid blocks must be text or a list of whole numbers or text, not 3"),
        ({"window": 5}, "window 5: allowed are early, middle, late, all"),
        ({"window": ["a", "b"]}, "window ('a', 'b'): allowed are early, middle, late, all"),
        ({"sites": [["q_image"]]}, 'alignvid sites must be a list of text, not [["q_image"]]'),
        ({"gamma": "1.35"}, 'alignvid gamma must be a number, not "1.35"; leave the quotes out'),
        ({"gamma": True}, "alignvid gamma must be a number, not true"),
        ({"blocks": [99]}, "no block 99: the model has 0 to 9"),
        ({"sites": ["q_audio"]}, "q_audio"),
    ],
)
def test_settings_of_the_wrong_kind(refused, method, words):
    assert words in refused("testbed-wan-i2v", *SIZE, "--steps", 10, "--method", json.dumps(ALIGNVID | method))


def test_methods_that_the_model_cannot_have(refused):
    dymos = ["--method", "dymos", "--gamma", 1]
    assert "DyMoS needs a reference frame" in refused("testbed-wan-t2v", *SIZE, *dymos, picture=False)
    focal = ["--method", '{"method": "focal", "clip": "no/such/clip", "weak": [1]}']
    assert "focal: no CLIP model at no/such/clip" in refused("testbed-wan-i2v", *SIZE, *focal)
    assert "focal: no block 11" in refused("testbed-wan-i2v", *SIZE, "--method", '{"method": "focal", "clip": "x"}')


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("order", [("alignvid", "dymos"), ("dymos", "alignvid")])
def test_a_method_that_would_never_act_is_refused(refused, steps, order):
    """AlignVid's early window, the first 30 % of the steps, holds none of three; DyMoS acts in the first step always."""
    methods = [a for name in order for a in ("--method", json.dumps({"method": name, "gamma": 1.35}))]
    said = refused("testbed-wan-i2v", *SIZE, "--steps", steps, *methods)
    assert f"window 'early' has none of the {steps} steps" in said


@pytest.mark.parametrize("settings", [{"method": "alignvid", "gamma": 1.0}, {"method": "dymos", "gamma": 0.0}])
def test_a_strength_that_changes_nothing_is_refused(refused, settings):
    said = refused("testbed-wan-i2v", *SIZE, "--steps", 10, "--method", json.dumps(settings))
    assert f"{settings['method']} would act in none of the 10 steps" in said


def test_methods_outside_attention_are_asked_for_their_strength(planned, refused):
    late, size = {"method": "lowpass", "window": ["position", 0.5, 0.6]}, ["testbed-wan-i2v", *SIZE, "--steps"]
    assert "has none of the 2 steps" in refused(*size, 2, "--method", json.dumps(late))
    late["window"] = ["position", 0.4, 0.7]
    assert "lowpass acts in 3 of 10 steps" in planned(*size, 10, "--method", json.dumps(late))
    late["window"] = "middle-by-time"  # of the schedule, which is known here
    assert "lowpass acts in 4 of 10 steps" in planned(*size, 10, "--method", json.dumps(late))


def test_windows_in_time_are_read_off_the_schedule(planned, refused):
    early = json.dumps(ALIGNVID | {"window": "early-by-time"})
    size = ["--height", 64, "--width", 64, "--frames", 5]
    assert "alignvid acts in 3 of 10 steps" in planned("testbed-wan-i2v", *size, "--steps", 10, "--method", early)
    assert "alignvid acts in 1 of 10 steps" in planned("testbed-cogvideox-i2v", "--steps", 10, "--method", early)
    shifted = planned("testbed-wan-i2v", *size, "--steps", 10, "--flow-shift", 12, "--method", early)
    assert "alignvid acts in 6 of 10 steps" in shifted


def test_a_method_given_twice_is_said(planned):
    twice = ["--method", json.dumps([ALIGNVID, ALIGNVID])]
    said = planned("testbed-wan-i2v", *SIZE, "--steps", 10, *twice)
    assert "note: alignvid is given more than once; they act one after the other" in said


def test_methods_from_lists_and_files(tmp_path):
    both = [ALIGNVID, {"method": "dymos", "gamma": 0.5}]
    expected = [AlignVid(1.35), DyMoS(0.5)]
    (tmp_path / "both.json").write_text(json.dumps(both))
    (tmp_path / "settings.json").write_text(json.dumps({"methods": both}))
    (tmp_path / "one.yaml").write_text("- {method: alignvid, gamma: 1.35}\n- {method: dymos, gamma: 0.5}\n")
    for given in ([json.dumps(both)], [json.dumps(b) for b in both], *([str(p)] for p in tmp_path.iterdir())):
        assert read_methods(given) == expected
    for text, words in (
        ("3", "unknown method '3'"),
        ("[3]", "or a list of such"),
        ("[{", "not JSON"),
        ("x.yaml", "no such"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read_methods([text])


# --- Plans ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in PIPELINES if n not in UNPLANNED])
def test_every_family_is_planned_without_weights(planned, name):
    height, width = (64, 96) if name.startswith(("ltx", "helios")) else (32, 48)
    said = planned(name, *TINY, "--height", str(height), "--width", str(width), picture="t2v" not in name)
    assert f"size {height} x {width}" in said and "frames 9" in said and "steps 2" in said


def test_what_the_checkpoint_knows_is_taken_from_it(planned):
    said = planned("testbed-cogvideox-i2v")
    for words in (
        "size 64 x 64 (height from the checkpoint, width from the checkpoint)", "frames 17 (from the checkpoint)",
        "text length 24 (from the checkpoint)", "CogVideoXDDIMScheduler (from the checkpoint)",
        "steps 50 (the default of the pipeline)", "fps 8", "guidance 6 (default): guidance_scale",
    ):  # fmt: skip
        assert words in said


@pytest.mark.parametrize(
    ("model", "argument"),
    [
        ("wan2.2-a14b", "guidance 2.0: guidance_scale; second expert 3.0"),
        ("cogvideox-i2v", "guidance 2.0: guidance_scale\n"),
        ("hunyuan-token-replace", "guidance 2.0: true_cfg_scale\n"),
        ("framepack", "guidance 2.0: guidance_scale, which the distilled model takes as an input"),
        ("hunyuan-1.5", "guidance 2.0: scale of the pipeline's ClassifierFreeGuidance\n"),
    ],
)
def test_guidance_goes_to_the_right_argument(planned, model, argument):
    size = [] if model == "hunyuan-1.5" else ["--height", 32, "--width", 48]
    second = ["--guidance-2", 3] if "second" in argument else []
    assert argument in planned(model, *size, "--guidance", 2, *second)
    default = {"hunyuan-token-replace": 1.0, "framepack": 6.0, "hunyuan-1.5": 3.0, "cogvideox-i2v": 6}.get(model, 5.0)
    assert f"guidance {default} (default): " in planned(model, *size)


def test_schedulers_are_changed_only_for_ones_that_fit(planned, refused):
    wan = ["testbed-wan-i2v", "--height", 64, "--width", 64, "--frames", 5, "--scheduler"]
    assert "FlowMatchEulerDiscreteScheduler, shift 3.0 (as asked)" in planned(*wan, "FlowMatchEulerDiscreteScheduler")
    both = planned(*wan, "FlowMatchEulerDiscreteScheduler", "--flow-shift", 5)
    assert "shift 5.0 (as asked)" in both and "note:" not in both
    assert "DPMSolverMultistepScheduler, flow_shift 3.0 (as asked)" in planned(*wan, "DPMSolverMultistepScheduler")
    assert "needs one for flow models" in refused(*wan, "DDIMScheduler")
    assert "diffusers has no scheduler of that name" in refused(*wan, "NoScheduler")
    cog = ["testbed-cogvideox-i2v", "--scheduler"]
    assert "CogVideoXDPMScheduler (as asked)" in planned(*cog, "CogVideoXDPMScheduler")
    assert "CogVideoXDDIMScheduler, CogVideoXDPMScheduler" in refused(*cog, "FlowMatchEulerDiscreteScheduler")


def test_rules_of_other_families_are_read_off_their_parts(planned, refused):
    said = planned("LTXImageToVideoPipeline")
    for words in ("size 512 x 704 (height the pipeline's", "frames 161 (the", "fps 25 (the", "guidance 3 (default)"):
        assert words in said
    assert "fps 24 (as asked)" in planned("LTXImageToVideoPipeline", "--fps", 24)
    assert "--frames 20: it must be 8k + 1, such as 17 or 25" in refused("LTXImageToVideoPipeline", "--frames", 20)
    assert "--height 480: " not in planned("LTXImageToVideoPipeline", "--height", 480)
    assert "it must be a multiple of 32, such as 704 or 736" in refused("LTXImageToVideoPipeline", "--width", 720)
    assert "takes no 'image_cond_noise_scale'" in refused(
        "LTXImageToVideoPipeline", "--set", "image_cond_noise_scale=0.1"
    )
    planned("LTXConditionPipeline", "--set", "image_cond_noise_scale=0.1")


def test_framepack_makes_whole_sections(planned):
    framepack = ["framepack", "--height", 32, "--width", 48]
    assert "frames 145 in 4 sections (129 by default, in whole sections)" in planned(*framepack)
    assert "frames 73 in 2 sections (as asked)" in planned(*framepack, "--frames", 73)
    assert "frames 13 in 1 sections" in planned(*framepack, "--set", "latent_window_size=3", "--frames", 13)


def test_required_options_are_named(tmp_path):
    for missing, options in (("--model", ["--prompt", "x", "-o", "x.mp4"]), ("-o", ["--prompt", "x", "--model", "x"])):
        with pytest.raises(SystemExit, match=f"{missing} is needed"):
            main(["generate", *options])
