"""Backbones of every family: what params.yaml may say of them, what reaches the pipeline, and what enters the key."""

import gc
import json
import os
import re
import weakref
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from pydantic import ValidationError
from ruamel.yaml import YAML
from tiny_pipelines import build

from analysis.study import video_key
from analysis.study.backbone_settings import Backbone, family_of
from analysis.study.cells import Cell
from analysis.study.parameters import load_parameters
from analysis.study.video_key import folder_hash, weights_hash
from analysis.videos import load_backbone
from analysis.videos.load_backbone import check_backbone, drop_pipeline, load_pipeline
from analysis.videos.sample_video import open_fitted, pipeline_inputs, sample_video
from methods.families import FAMILIES, family_of_pipeline

ROOT = Path(__file__).parent.parent
CELL = Cell("tiny", "weights", "sampler", "sample", "image", "a cat dances", 0, 3, 3.0, 0.0, "own")
# Frames that come out of 9 asked for, 17 of FramePack.
MADE = {"framepack": 25, "framepack-f1": 25, "hunyuan-latent-concat": 5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """name -> Backbone of a tiny random pipeline, saved as a folder of diffusers."""
    folder = tmp_path_factory.mktemp("tiny")
    Image.new("RGB", (48, 32), (200, 90, 30)).save(folder / "image.png")
    kept = {}

    def saved(name):
        if name in kept:
            return kept[name]
        pipe, inputs = build(name)
        pipe.save_pretrained(folder / name)
        if name == "hunyuan-1.5":  # its videos have the area of `target_size`
            config = folder / name / "transformer/config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"target_size": 48}))
        frames = MADE.get(name, 9)
        ours = ("image", "prompt", "negative_prompt", "height", "width", "guidance_scale")
        call = {k: v for k, v in inputs.items() if k not in ours and not (k == "num_frames" and v == frames)}
        kept[name] = Backbone(checkpoint=str(folder / name), pipeline=type(pipe).__name__, dtype="float32", fps=8, steps=2,
                              negative_prompt="blurry", height=32, width=48, frames=frames, call=call)  # fmt: skip
        return kept[name]

    yield saved
    drop_pipeline()


def image_of(backbone):
    return Path(backbone.checkpoint).parent / "image.png"


def changed(backbone, **settings):
    return Backbone(**backbone.model_dump() | settings)


def make(backbone, cell=CELL):
    return sample_video(cell, backbone, image_of(backbone))[0]


# The schema ----------------------------------------------------------------------------------------------------------
def test_the_families_are_those_of_methods():
    names = {n: family.class_name for family in FAMILIES.values() for n in family.pipelines}
    names |= {
        n: names["WanPipeline"] for n in dir(diffusers) if re.fullmatch("Wan(22|Animate)?ImageToVideo.*Pipeline", n)
    }
    assert {family_of(n) for n in names} == set(FAMILIES)
    assert {n: family_of(n) for n in names} == {n: family_of_pipeline(n) for n in names} == names
    with pytest.raises(ValueError, match="no family of transformers is known for the pipeline 'FluxPipeline'"):
        family_of("FluxPipeline")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pipeline": "StableDiffusionPipeline"}, "no family of transformers is known"),
        ({"call": {"prompt": "a dog"}}, "'prompt' is not for `call`"),
        ({"call": {"latents": [1.0]}}, "'latents' is not for `call`"),
        ({"call": {"max_sequence_length": 5}, "max_sequence_length": 5}, "given twice"),
        ({"load": {"offload": "disk"}}, "'none', 'model', 'sequential' or 'group'"),
        ({"load": {"dtype": {"vae": "float8"}}}, "float32"),
        ({"load": {"lora": [{"checkpoint": "a/b"}]}}, "`revision` and `weight_name`"),
        ({"load": {"vae": "float32"}}, "Extra inputs"),
        ({"load": {"lora": [{"checkpoint": "a.safetensors"}]}, "delta": "d.safetensors"}, "not both"),
        ({"fit": "stretch"}, "exact"),
    ],
)
def test_what_the_schema_refuses(tiny, settings, said):
    with pytest.raises(ValidationError, match=said):
        changed(tiny("wan2.1-i2v"), **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pipeline": "WanFooPipeline"}, r"diffusers has no WanFooPipeline; it has .*WanImageToVideoPipeline"),
        ({"pipeline": "WanVideoToVideoPipeline"}, "starts from a video"),
        ({"call": {"sampling_type": "vanilla"}}, r"call has 'sampling_type'; WanImageToVideoPipeline takes .*guidance_scale_2"),
        ({"load": {"dtype": {"vea": "float32"}}}, r"load.dtype has 'vea'; its parts are .*vae"),
        ({"load": {"arguments": {"boundary": 0.9}}}, r"arguments has 'boundary'; its constructor takes .*boundary_ratio"),
        ({"load": {"scheduler": {"name": "EulerScheduler"}}}, "EulerScheduler', no scheduler of diffusers"),
        ({"load": {"scheduler": {"arguments": {"flow_shift": 3}}}}, r"has 'flow_shift'; FlowMatchEulerDiscreteScheduler takes .*shift"),
        ({"load": {"quantisation": {"config": "Int8Config", "parts": ["transformer"]}}}, r"not one of .*BitsAndBytesConfig"),
        ({"load": {"quantisation": {"config": "QuantoConfig", "parts": ["unet"]}}}, "has 'unet'; its parts are"),
    ],
)  # fmt: skip
def test_what_a_pipeline_does_not_have_is_refused_before_it_is_loaded(tiny, settings, said, monkeypatch):
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    own = tiny("wan2.1-i2v")
    with pytest.raises(ValueError, match=said):
        check_backbone("wan", changed(own, **{"call": {"max_sequence_length": 512}} | settings))
    check_backbone("wan", own)


def test_a_lora_needs_peft_and_says_so(tiny, monkeypatch):
    monkeypatch.setattr(load_backbone.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install peft"):
        check_backbone("wan", changed(tiny("wan2.1-i2v"), load={"lora": [{"checkpoint": "a.safetensors"}]}))


# What reaches the pipeline -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["wan2.2-a14b", "hunyuan-token-replace", "hunyuan-latent-concat", "hunyuan-1.5", "framepack", "framepack-f1"],
)
def test_every_family_is_loaded_from_a_folder_and_makes_the_pipelines_own_video(tiny, name):
    backbone = tiny(name)
    check_backbone(name, backbone)
    video = make(backbone)
    assert video.shape == (backbone.frames, backbone.height, backbone.width, 3)
    pipe, inputs = (
        load_pipeline(backbone),
        build(name)[1] | {"image": Image.open(image_of(backbone)), "prompt": CELL.prompt},
    )
    if name == "hunyuan-1.5":
        pipe.guider = pipe.guider.new(guidance_scale=3.0)
    elif "guidance_scale" not in inputs:
        inputs["guidance_scale"] = 3.0
    with torch.inference_mode():
        own = pipe(
            **inputs, num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="np"
        ).frames[0]
    assert np.array_equal(video, (own * 255).round().clip(0, 255).astype(np.uint8))


def test_arguments_of_the_call_reach_it(tiny):
    first = tiny("framepack")
    assert first.call["sampling_type"] == "inverted_anti_drifting"
    other = changed(first, call=first.call | {"sampling_type": "vanilla"})
    assert not np.array_equal(make(first), make(other)), "FramePack-F1 is sampled in another order than FramePack"
    experts = changed(tiny("wan2.2-a14b"), call={"guidance_scale_2": 3.5})
    reference = open_fitted(image_of(experts), experts)
    inputs = pipeline_inputs(load_pipeline(experts), CELL, experts, reference)
    assert inputs["guidance_scale_2"] == 3.5 and inputs["guidance_scale"] == 3.0


def test_guidance_reaches_a_pipeline_that_has_a_guider(tiny):
    backbone = tiny("hunyuan-1.5")
    assert not np.array_equal(make(backbone), make(backbone, replace(CELL, guidance_scale=6.0)))
    assert load_pipeline(backbone).guider.config.guidance_scale == 6.0


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("wan2.1-i2v", {"frames": 16}, "frames is 16; the model makes 1 \\+ a multiple of 4: 13 or 17"),
        ("framepack", {"frames": 17}, "17 asked for come out as 25: set `frames: 25`"),
        ("hunyuan-latent-concat", {"frames": 9}, "made 5 frames of 48x32; 9 of 48x32 were expected"),
        (
            "hunyuan-1.5",
            {"width": 64, "height": 48, "fit": "crop"},
            "would be 48x48, not 64x48: set `width: 48` and `height: 48`",
        ),
        ("wan2.1-i2v", {"width": 96}, "image.png is 48x32; the backbone wants 96x32"),
    ],
)
def test_a_video_of_another_size_or_length_is_refused(tiny, name, settings, said):
    own = changed(tiny(name), **settings)
    with pytest.raises(ValueError, match=said):
        sample_video(CELL, own, Path(own.checkpoint).parent / "image.png")


def test_a_photograph_is_fitted(tiny, tmp_path):
    Image.effect_noise((65, 63), 60).convert("RGB").save(tmp_path / "photo.jpg")
    square = changed(tiny("wan2.1-i2v"), fit={"policy": "bucket", "sizes": [[48, 32], [32, 32]]})
    assert sample_video(CELL, square, tmp_path / "photo.jpg")[0].shape == (9, 32, 32, 3)
    for fit in ("crop", "pad"):
        assert sample_video(CELL, changed(square, fit=fit), tmp_path / "photo.jpg")[0].shape == (9, 32, 48, 3)


# How it is loaded ----------------------------------------------------------------------------------------------------
def test_parts_have_dtypes_of_their_own(tiny):
    pipe = load_pipeline(changed(tiny("wan2.1-i2v"), dtype="bfloat16", load={"dtype": {"vae": "float32"}}))
    assert pipe.vae.dtype == torch.float32
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16


def test_scheduler_constructor_and_autoencoder_are_as_asked(tiny):
    own = tiny("wan2.2-a14b")
    pipe = load_pipeline(changed(own, load={"scheduler": {"arguments": {"shift": 7.0}}, "arguments": {"boundary_ratio": 0.5},
                                            "tiling": True, "slicing": True}))  # fmt: skip
    assert pipe.scheduler.config.shift == 7.0 and type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert pipe.config.boundary_ratio == 0.5 and pipe.vae.use_tiling and pipe.vae.use_slicing
    other = {"name": "UniPCMultistepScheduler", "arguments": {"flow_shift": 3.0, "prediction_type": "flow_prediction",
                                                              "use_flow_sigmas": True}}  # fmt: skip
    shifted = changed(own, load={"scheduler": other})
    check_backbone("wan", shifted)
    assert load_pipeline(shifted).scheduler.config.flow_shift == 3.0
    assert not np.array_equal(make(shifted), make(own))


def test_group_offload_makes_the_same_video(tiny):
    own = tiny("wan2.1-i2v")
    assert np.array_equal(make(changed(own, load={"offload": "group"})), make(own))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("way", ["model", "sequential"])
def test_offload_without_a_gpu_is_refused(tiny, way):
    with pytest.raises(ValueError, match=f"load.offload is {way}, which needs a GPU"):
        load_pipeline(changed(tiny("wan2.1-i2v"), load={"offload": way}))


def test_offload_is_what_diffusers_calls_it():
    calls = []

    class Pipe:
        def __getattr__(self, name):
            return lambda *args, **more: calls.append((name, more))

    for way in ("model", "sequential", "group", "none"):
        load_backbone._place(Pipe(), load_backbone.Load(offload=way), torch.device("cuda"))
    assert [name for name, _ in calls] == ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload",
                                           "to"]  # fmt: skip
    assert calls[2][1] == {"offload_type": "leaf_level", "use_stream": True, "non_blocking": True}


def test_quantisation_takes_the_class_of_the_parts_library(tiny):
    own = changed(tiny("wan2.1-i2v"), load={"quantisation": {"config": "BitsAndBytesConfig", "parts": ["transformer", "text_encoder"],
                                                             "arguments": {"load_in_8bit": True}}})  # fmt: skip
    check_backbone("wan", own)
    found = load_backbone._quantisation(diffusers.WanImageToVideoPipeline, own).quant_mapping
    assert type(found["transformer"]) is diffusers.BitsAndBytesConfig
    assert type(found["text_encoder"]) is transformers.BitsAndBytesConfig
    assert all(config.load_in_8bit for config in found.values())


def test_loras_are_loaded_and_weighted():
    calls = []

    class Pipe:
        def load_lora_weights(self, name, **more):
            calls.append((name, more))

        def set_adapters(self, names, scales):
            calls.append((names, scales))

    load_backbone._load_loras(Pipe(), load_backbone.Load(lora=[
        {"checkpoint": "a.safetensors", "scale": 0.5}, {"checkpoint": "org/b", "revision": "c0ffee", "weight_name": "w.safetensors"}]))  # fmt: skip
    assert calls == [
        ("a.safetensors", {"adapter_name": "lora0", "use_safetensors": True}),
        (
            "org/b",
            {"adapter_name": "lora1", "use_safetensors": True, "revision": "c0ffee", "weight_name": "w.safetensors"},
        ),
        (["lora0", "lora1"], [0.5, 1.0]),
    ]


def test_a_real_lora_changes_the_video_by_its_strength(tiny, tmp_path):
    peft = pytest.importorskip("peft", reason="LoRAs need it")
    own = tiny("wan2.1-i2v")
    transformer = build("wan2.1-i2v")[0].transformer
    transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = peft.get_peft_model_state_dict(transformer)
    diffusers.WanImageToVideoPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    (file,) = tmp_path.glob("*.safetensors")
    with_lora = {s: changed(own, load={"lora": [{"checkpoint": str(file), "scale": s}]}) for s in (0.0, 1.0)}
    check_backbone("wan", with_lora[1.0])
    plain, none, full = make(own), make(with_lora[0.0]), make(with_lora[1.0])
    assert np.array_equal(plain, none) and not np.array_equal(plain, full)
    steered = replace(CELL, steering='[{"method": "alignvid", "gamma": 2.0, "window": "all", "blocks": "all"}]')
    assert not np.array_equal(make(with_lora[1.0], steered), full), "methods reach the attention under a LoRA"


def test_one_pipeline_is_in_memory_at_a_time(tiny, monkeypatch):
    first = load_pipeline(tiny("wan2.1-i2v"))
    assert load_pipeline(changed(tiny("wan2.1-i2v"), steps=5)) is first, "steps are no matter of loading"
    old, found = weakref.ref(first.transformer), []
    del first
    load = load_backbone._load
    monkeypatch.setattr(load_backbone, "_load", lambda backbone: found.append(old()) or load(backbone))
    load_pipeline(tiny("wan2.2-a14b"))
    gc.collect()
    assert found == [None], "the old one was alive while the new one was loaded"


# Keys ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"call": {"guidance_scale_2": 3.5}}, True),
        ({"call": {"guidance_scale_2": None}}, True),
        ({"fit": "crop"}, True),
        ({"fit": {"policy": "bucket"}}, True),
        ({"load": {"dtype": {"vae": "float32"}}}, True),
        ({"load": {"tiling": True}}, True),
        ({"load": {"scheduler": {"arguments": {"shift": 3.0}}}}, True),
        ({"load": {"arguments": {"boundary_ratio": 0.9}}}, True),
        ({"load": {"quantisation": {"config": "QuantoConfig", "parts": ["transformer"]}}}, True),
        ({"load": {"compile": True}}, True),
        ({"load": {"attention_backend": "native"}}, True),
        ({"load": {"compile": False}}, False),
        ({"load": {"offload": "model"}}, False),
        ({"load": {"slicing": True}}, False),
        ({"load": {}, "call": {}, "fit": "exact"}, False),
    ],
)
def test_what_changes_pixels_enters_the_key(settings, counts):
    plain = load_parameters(ROOT / "params.yaml").backbones["wan-i2v"]
    assert (changed(plain, **settings).sampler() != plain.sampler()) == counts


def test_loras_are_part_of_the_weights(tmp_path):
    plain = load_parameters(ROOT / "params.yaml").backbones["wan-i2v"]
    plain = changed(plain, checkpoint=str(ROOT / plain.checkpoint))
    file = tmp_path / "l.safetensors"
    file.write_bytes(b"one")
    hashes = {weights_hash("wan", plain)}
    for scale in (1.0, 0.5):
        hashes.add(weights_hash("wan", changed(plain, load={"lora": [{"checkpoint": str(file), "scale": scale}]})))
    file.write_bytes(b"another")
    hashes.add(weights_hash("wan", changed(plain, load={"lora": [{"checkpoint": str(file), "scale": 1.0}]})))
    assert len(hashes) == 4
    with pytest.raises(ValueError, match=r"no LoRA at nowhere\.safetensors"):
        weights_hash("wan", changed(plain, load={"lora": [{"checkpoint": "nowhere.safetensors"}]}))


def test_large_weights_are_read_piece_by_piece_and_once_a_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_key, "LARGE", 1000)
    video_key._read_once.cache_clear()
    Path("model").mkdir()
    file = Path("model/w.safetensors")
    file.write_bytes(b"1" * 5000)
    os.utime(file, (10**9, 10**9))
    before, read = folder_hash(Path("model")), []
    monkeypatch.setattr(video_key, "_read", lambda path, *_: read.append(path) or b"")
    video_key._read_once.cache_clear()  # as in another process
    assert folder_hash(Path("model")) == before and not read
    os.utime(file, (10**9, 10**9 + 1))
    folder_hash(Path("model"))
    assert read == [file], "a file of another time is another file"
    Path("build/weights.json").write_text("torn off {")
    video_key._read_once.cache_clear()
    folder_hash(Path("model"))
    assert len(read) == 2
    video_key._read_once.cache_clear()


def test_the_example_of_the_documentation_is_one():
    text = (ROOT / "docs/checkpoints.md").read_text().split("```yaml\n")[1].split("```")[0]
    found = YAML(typ="safe", pure=True).load(text)["backbones"]["wan2.1-14b"]
    backbone = Backbone(**found)
    assert set(found["load"]) == set(type(backbone.load).model_fields), "every setting of `load` is shown"
    without = backbone.load.model_copy(update={"lora": []})
    check_backbone("wan2.1-14b", backbone.model_copy(update={"load": without}))
