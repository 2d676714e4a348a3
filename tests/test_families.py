"""Families: what is refused and with which words, plug-ins of other packages, and what is particular to one family."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import diffusers
import pytest
import torch
from families import FAMILIES as TINY
from families import forward, make, options
from tiny_pipelines import build, video

from methods import AlignVid, DyMoS, families, record, steer
from methods.families import FAMILIES, REFUSED, attention_modules
from methods.families.wan_vace import IMAGES

ALWAYS = AlignVid(1.5, sites=("self", "k_text"), window="all", blocks="all")


# --- Refused -------------------------------------------------------------------------------------------------------
def test_every_video_transformer_of_diffusers_is_a_family_or_refused_with_a_reason():
    named = {n for n in dir(diffusers) if n.endswith("Transformer3DModel")} | {"Cosmos3OmniTransformer"}
    assert named == FAMILIES.keys() | REFUSED.keys()
    assert not FAMILIES.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_the_user_is_told_why_a_transformer_cannot_be_steered(name):
    model = type(name, (torch.nn.Module,), {})()
    for open_context in (steer, lambda m, _: record(m)):
        with pytest.raises(TypeError) as error, open_context(model, ALWAYS):
            pass
        assert str(error.value) == f"cannot steer a {name}: {REFUSED[name]}"


def changed(tiny, **config):
    """A tiny model whose configuration says something else."""
    model, _ = make(tiny)
    model.register_to_config(**config)
    return model


@pytest.mark.parametrize(
    ("build_model", "words"),
    [
        (lambda: changed("skyreels-v2-i2v", num_frame_per_block=5), "SkyReelsV2.*diffusion forcing"),
        (lambda: changed("kandinsky-5-i2v", attention_type="nabla"), "Kandinsky5.*sparse"),
        (lambda: changed("cosmos-2.5", img_context_dim_in=8), "Cosmos.*control latents"),
        (lambda: changed("cosmos-2", controlnet_block_every_n=7), "Cosmos.*control latents"),
    ],
)
def test_models_of_a_family_that_cannot_be_steered_are_refused(build_model, words):
    with pytest.raises(TypeError, match=words), steer(build_model(), ALWAYS):
        pass


@pytest.mark.parametrize(
    ("tiny", "inputs", "words"),
    [
        (
            "skyreels-v2-i2v",
            {"enable_diffusion_forcing": True, "timestep": torch.tensor([[0.0, 900.0, 900.0]])},
            "diffusion forcing",
        ),
        ("kandinsky-5-i2v", {"sparse_params": {"to_fractal": False}}, "sparse"),
    ],
)
def test_calls_that_cannot_be_steered_are_refused(tiny, inputs, words):
    model, given = make(tiny)
    with pytest.raises(ValueError, match=words), steer(model, ALWAYS, **options(tiny)):
        forward(model, given | inputs)


@pytest.mark.parametrize(
    ("family", "pipeline"), [(f.class_name, p) for f in FAMILIES.values() for p in f.refused_pipelines]
)
def test_pipelines_that_cannot_be_steered_are_refused(family, pipeline):
    known = FAMILIES[family]
    assert hasattr(diffusers, pipeline)
    pipe = type(pipeline, (), {})()
    pipe.transformer = make(next(iter(known.tiny)))[0]
    with pytest.raises(TypeError) as error, steer(pipe, ALWAYS):
        pass
    assert str(error.value) == f"a {pipeline} cannot be steered: {known.refused_pipelines[pipeline]}"


def test_pipelines_that_families_name_exist():
    for family in FAMILIES.values():
        assert family.title and family.pipelines and family.tiny, family.class_name
        for pipeline in (*family.pipelines, *family.without_reference):
            assert hasattr(diffusers, pipeline), pipeline


# --- Plug-ins of other packages ------------------------------------------------------------------------------------
def with_entry_points(monkeypatch, folder, *objects):
    """FAMILIES as they would be found beside packages whose modules hold these objects."""
    monkeypatch.syspath_prepend(folder)
    points = []
    for i, value in enumerate(objects):
        name = f"package_{i}_of_{folder.name}"
        (folder / f"{name}.py").write_text("FAMILY = None\n")
        monkeypatch.setattr(__import__(name), "FAMILY", value)
        points.append(EntryPoint(f"point-{i}", f"{name}:FAMILY", "i2v_steering.families"))
    monkeypatch.setattr(families, "entry_points", lambda group: [p for p in points if p.group == group])
    return families._find_families()


def other_family():
    return dataclasses.replace(
        FAMILIES["WanTransformer3DModel"],
        class_name="OtherTransformer3DModel",
        title="Other",
        pipelines=("OtherPipeline",),
    )


def test_a_family_of_another_package_is_found_by_its_entry_point_and_used(monkeypatch, calls, tmp_path):
    found = with_entry_points(monkeypatch, tmp_path, other_family())
    assert found.keys() == FAMILIES.keys() | {"OtherTransformer3DModel"}
    monkeypatch.setitem(FAMILIES, "OtherTransformer3DModel", found["OtherTransformer3DModel"])
    assert families.family_of_pipeline("OtherPipeline") == "OtherTransformer3DModel"
    wan, inputs = make("wan2.1-i2v")
    other = type("OtherTransformer3DModel", (type(wan),), {})(**dict(wan.config)).eval()
    other.load_state_dict(wan.state_dict())
    with steer(wan, ALWAYS):
        expected = forward(wan, inputs)
    with steer(other, ALWAYS):
        assert torch.equal(forward(other, inputs), expected)
    assert calls and calls[-1][0].model.family == "OtherTransformer3DModel"


def test_entry_points_that_are_no_family_or_a_second_one_are_errors(monkeypatch, tmp_path):
    with pytest.raises(TypeError, match=r"'point-0' of i2v_steering\.families is a dict, not a Family"):
        with_entry_points(monkeypatch, tmp_path, {})
    with pytest.raises(ValueError, match="two families are for WanTransformer3DModel"):
        with_entry_points(monkeypatch, tmp_path, FAMILIES["WanTransformer3DModel"])
    with pytest.raises(ValueError, match="two families are for OtherTransformer3DModel"):
        with_entry_points(monkeypatch, tmp_path, other_family(), other_family())


# --- What is particular ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TINY)
def test_a_block_that_is_left_out_gives_its_tokens_back(name):
    """Leaving out a block by hand gives the same as the method's hook, whatever a family's blocks take and return."""

    class Skip:
        def check(self, model):
            pass

        def active(self, model, context, block, site):
            return False

        def skip_block(self, model, context, block):
            return block.index == 1

    model, inputs = make(name)
    plain = forward(model, inputs)
    with steer(model, Skip(), **options(name)):
        found = forward(model, inputs)
    module = families.block_modules(model)[1][1]
    family = FAMILIES[type(model).__name__]
    names = list(inspect.signature(type(module).forward).parameters)[1:]

    def passed_on(*args, **kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        left = tuple(given[n] for n in family.block_outputs)
        return left if len(left) > 1 else left[0]

    module.forward = passed_on
    assert torch.equal(forward(model, inputs), found) and not torch.equal(found, plain)


def test_the_attentions_of_ltx_2_between_picture_and_sound_are_left_alone():
    model, inputs = make("ltx-2.3-i2v")
    steered = {id(m) for _, _, m in attention_modules(model)}
    with steer(model, ALWAYS, **options("ltx-2.3-i2v")):
        out = model(**inputs, return_dict=False)
        for block in model.transformer_blocks:
            for name in ("audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn"):
                assert id(getattr(block, name)) not in steered and "forward" not in vars(getattr(block, name))
    assert len(steered) == 2 * len(model.transformer_blocks) and all(x.isfinite().all() for x in out)


def test_a_block_of_ltx_2_is_left_out_only_where_all_samples_are_perturbed():
    model, inputs = make("ltx-2.3-i2v", batch=2)
    with steer(model, ALWAYS, **options("ltx-2.3-i2v")) as steering:
        forward(model, inputs | {"spatio_temporal_guidance_blocks": [1], "perturbation_mask": torch.tensor([0.0, 1.0])})
        both = steering.report().to_frame().acted.sum()
    with steer(model, ALWAYS, **options("ltx-2.3-i2v")) as steering:
        forward(model, inputs | {"spatio_temporal_guidance_blocks": [1]})
        assert steering.report().to_frame().acted.sum() == both - 1


def test_the_keys_that_helios_amplifies_are_those_that_methods_see(calls):
    """History keys are multiplied by 1 + 9 sigmoid(w) of their head before anything of ours acts."""
    found = {}
    for name in ("helios", "helios-amplified"):
        calls.clear()
        model, inputs = make(name)
        with steer(model, AlignVid(1.5, sites=("self",), window="all", blocks=[0]), **options(name)):
            forward(model, inputs)
        found[name] = calls[0][0].key
    factor = 1 + 9 * torch.sigmoid(model.blocks[0].attn1.history_key_scale)
    history = calls[0][0].keys.where("history", "reference")[0]
    assert torch.allclose(
        found["helios-amplified"][:, :, history], found["helios"][:, :, history] * factor[:, None, None]
    )
    assert torch.equal(found["helios-amplified"][:, :, ~history], found["helios"][:, :, ~history])


def test_vace_has_a_reference_only_with_reference_images(calls):
    pipe, inputs = build("wan-vace")
    with steer(pipe, AlignVid(1.2, sites=("self",), window="all", blocks=[0])):
        video(pipe, inputs, 1)
        assert calls[-1][0].reference == slice(0, 6) and calls[-1][0].layout.grid == (3, 2, 3)
        assert int(calls[-1][0].keys.where("history").sum()) == 6
        video(pipe, {k: v for k, v in inputs.items() if k != "reference_images"}, 1)
        assert calls[-1][0].reference is None and calls[-1][0].layout.grid == (3, 2, 3)
    assert pipe.transformer not in IMAGES and "prepare_video_latents" not in vars(pipe)
    with pytest.raises(ValueError, match="no reference frame in this call"), steer(pipe, DyMoS(1.0)):
        video(pipe, {k: v for k, v in inputs.items() if k != "reference_images"}, 1)


def test_the_time_of_cosmos_is_told_as_that_of_others():
    """Its model is given sigma / (sigma + 1); contexts count in 0..1000."""
    pipe, inputs = build("cosmos-2")
    with record(pipe, blocks=[0], queries=1) as recording:
        video(pipe, inputs, 2)
    times = recording.to_frame().groupby("step").timestep.first()
    sigmas = pipe.scheduler.sigmas[:2]
    assert times.tolist() == pytest.approx((1000 * sigmas / (sigmas + 1)).tolist(), rel=1e-5)


# --- Pages -----------------------------------------------------------------------------------------------------------
ROOT = Path(__file__).parents[1]


def test_the_page_of_families_is_what_the_registry_says():
    sys.path.insert(0, str(ROOT / "docs"))
    import families_page

    assert families_page.PAGE.read_text() == families_page.markdown(families_page.pipelines_run()), (
        "run `PYTHONPATH=.:tests python docs/families_page.py`"
    )


def test_the_numbers_of_lines_that_a_family_needs_are_those_of_its_file():
    text = (ROOT / "docs/new-families.md").read_text()
    count = lambda name: len((ROOT / "methods/families" / name).read_text().splitlines())  # noqa: E731
    ltx = (ROOT / "methods/families/ltx.py").read_text().splitlines()
    starts = [
        next(i for i, x in enumerate(ltx) if x.startswith(w)) for w in ("def reference_is", "def tiny_model", "FAMILY")
    ]
    parts = [starts[1] - starts[0], len(ltx) - starts[2], starts[2] - starts[1]]
    found = re.search(r"has\s+(\d+) lines: (\d+) say.*?(\d+) are the entry, (\d+) make", text, re.S)
    assert [int(n) for n in found.groups()] == [len(ltx), *parts]
    assert int(re.search(r"chronoedit.py\) has (\d+) lines", text).group(1)) == count("chronoedit.py")
