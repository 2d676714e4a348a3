"""`load: {compile, attention_backend}`: refused before anything is loaded where it cannot be had, part of the key only when given, and
methods act in what was compiled and under each backend as they do without."""

import functools

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from pydantic import ValidationError
from small_study import parameters
from tiny_pipelines import build

from analysis.studies.check_packages import package_findings
from analysis.studies.settings import comment, get, put
from analysis.study.backbone_settings import ATTENTION_BACKENDS, Backbone, Compile, Load
from analysis.videos import compiled_transformer
from analysis.videos.load_backbone import check_backbone, drop_pipeline, load_pipeline
from methods import AlignVid, DyMoS, SkipLayerGuidance, record, steer
from methods.core.backends import SEEN

PLAIN = {"checkpoint": "x", "pipeline": "WanImageToVideoPipeline", "dtype": "float32", "height": 32, "width": 48, "frames": 9, "fps": 8,
         "steps": 2, "negative_prompt": ""}  # fmt: skip


def backbone(pipeline="WanImageToVideoPipeline", **load):
    return Backbone(**PLAIN | {"pipeline": pipeline, "load": load})


def test_both_enter_the_key_only_when_they_are_given():
    plain = Backbone(**PLAIN)
    assert Load().model_dump() == {} and backbone(compile=False).sampler() == plain.sampler()
    assert backbone(compile=True) == backbone(compile={}) == backbone(compile={"part": "blocks"})
    found = [plain, backbone(compile=True), backbone(compile={"part": "transformer"}), backbone(attention_backend="native"),
             backbone(attention_backend="_native_math"), backbone(compile={"mode": "max-autotune-no-cudagraphs"})]  # fmt: skip
    assert len({str(b.sampler()) for b in found}) == len(found)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"attention_backend": "saeg"}, "'native', '_native_math'.*'sage'"),
        ({"attention_backend": "flash_hub"}, "'native', '_native_math'.*'sage'"),  # it would download code
        ({"compile": {"mode": "reduce-overhead"}}, "'default' or 'max-autotune-no-cudagraphs'"),
        ({"compile": {"part": "vae"}}, "'blocks' or 'transformer'"),
        ({"compile": "yes"}, "Compile"),
        ({"compile": True, "offload": "sequential"}, "allowed are none and model"),
    ],
)
def test_unknown_values_are_refused_with_what_is_allowed(load, said):
    with pytest.raises(ValidationError, match=said):
        backbone(**load)


def test_the_backends_are_those_of_diffusers_that_download_no_code():
    known = {b.value for b in AttentionBackendName}
    assert set(ATTENTION_BACKENDS) <= known and set(ATTENTION_BACKENDS) >= SEEN
    left_out = known - set(ATTENTION_BACKENDS)
    assert all(n.endswith("_hub") or n in ("_native_npu", "_native_xla") for n in left_out)


@pytest.mark.parametrize("name", ["sage", "flash", "_flash_3", "xformers"])
def test_a_backend_that_is_not_installed_is_reported_before_loading(name, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"backbones.b.load.attention_backend is '{name}': .*(install|build|Please)"):
        check_backbone("b", backbone(attention_backend=name))
    monkeypatch.chdir(tmp_path)
    said = [str(f) for f in package_findings(parameters(load={"attention_backend": name})) if f.level == "blocks"]
    assert len(said) == 1 and f"attention_backend is '{name}'" in said[0]


def test_what_would_change_nothing_or_cannot_be_compiled_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match="would change nothing: CogVideoXTransformer3DModel calls PyTorch's attention itself"
    ):
        check_backbone("b", backbone("CogVideoXImageToVideoPipeline", attention_backend="_native_math"))
    check_backbone("b", backbone(attention_backend="_native_math", compile=True))
    monkeypatch.setattr(compiled_transformer.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"b\.load\.compile needs a C\+\+ compiler"):
        check_backbone("b", backbone(compile=True))
    import diffusers

    monkeypatch.setattr(diffusers.WanTransformer3DModel, "_repeated_blocks", [])
    with pytest.raises(ValueError, match=r"say `compile: \{part: transformer\}`"):
        check_backbone("b", backbone(compile=True))


def test_a_change_against_none_under_a_fused_backend_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.models.attention_dispatch._check_attention_backend_requirements", lambda name: None)
    for name, methods, noted in (
        ("sage", {"alignvid": [{}]}, True),
        ("sage", {}, False),
        ("native", {"alignvid": [{}]}, False),
    ):
        found = parameters(load={"attention_backend": name})
        sweep = found.sweeps["real"].model_copy(update={"methods": ["none", *methods]})
        found = found.model_copy(update={"methods": {"none": []} | methods, "sweeps": {"real": sweep}})
        assert any("difference of the two backends" in str(f) for f in package_findings(found)) == noted


def test_a_study_sets_them_and_takes_them_out_again(tmp_path):
    document = {"backbones": {"wan": {"pipeline": "WanImageToVideoPipeline"}}, "sweeps": {}}
    for key, value in (("compile", True), ("attention_backend", "flash")):
        put(document, "wan", key, value, tmp_path)
        assert get(document, "wan", key) == value and document["backbones"]["wan"]["load"][key] == value
        put(document, "wan", key, "own", tmp_path)
        assert key not in document["backbones"]["wan"]["load"]
        comment(document, "wan", key, "nothing there to comment")


# Methods on what was compiled ----------------------------------------------------------------------------------------
METHODS = {
    "none": [],
    "alignvid": [AlignVid(1.5, window="all", blocks="all")],
    "dymos": [DyMoS(1.0, window=(0, 1))],
    "skip-layer": [
        SkipLayerGuidance(blocks=(1,), scale=2.0, window=(0.0, 1.0))
    ],  # which wraps the compiled blocks themselves
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the folder of a tiny Wan 2.1 pipeline, the inputs of its call)."""
    folder = tmp_path_factory.mktemp("wan")
    pipe, inputs = build("wan2.1-i2v")
    pipe.save_pretrained(folder)
    return folder, inputs


def videos(saved, names=tuple(METHODS), **load):
    """{method: the latents of a video} of the saved pipeline, and the pipeline."""
    folder, inputs = saved
    pipe = load_pipeline(backbone(**load).model_copy(update={"checkpoint": str(folder)}))

    def video():
        return pipe(**inputs, generator=torch.Generator().manual_seed(0), output_type="latent").frames

    found = {}
    for name in names:
        if METHODS[name]:
            with steer(pipe, *METHODS[name]):
                found[name] = video()
        else:
            found[name] = video()
    with record(pipe, entropy=True):
        found["recorded"] = video()
    found["again"] = video()
    return found, pipe


@pytest.fixture(scope="module")
def plain(saved):
    found, _ = videos(saved)
    assert torch.equal(found["again"], found["none"]) and torch.equal(found["recorded"], found["none"])
    assert all(not torch.equal(found[m], found["none"]) for m in METHODS if m != "none")
    yield found
    drop_pipeline()


@pytest.mark.parametrize("part", ["blocks", "transformer"])
@pytest.mark.slow
def test_methods_act_in_a_compiled_transformer_as_in_the_plain_one(saved, plain, part, monkeypatch):
    """By dynamo's eager backend: what the graphs hold and where they are left is the compiler's, the arithmetic is PyTorch's own."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    names = tuple(METHODS) if part == "blocks" else ("none", "alignvid")
    found, pipe = videos(saved, names, compile={"part": part})
    compiled = [m for m in pipe.transformer.modules() if m._compiled_call_impl is not None]
    assert len(compiled) == (len(pipe.transformer.blocks) if part == "blocks" else 1)
    for name, video in found.items():
        wanted = plain["none" if name in ("recorded", "again") else name]
        assert torch.allclose(video, wanted, atol=1e-5, rtol=0), name
    torch._dynamo.reset()


@pytest.mark.slow
def test_native_backends_give_the_same_videos_and_stay_in_their_pipeline(saved, plain):
    before = _AttentionBackendRegistry.get_active_backend()[0]
    for name, atol in (("native", 0.0), ("_native_math", 1e-4)):
        found, pipe = videos(saved, ("none", "alignvid", "dymos"), attention_backend=name)
        processors = [m.processor for m in pipe.transformer.modules() if hasattr(m, "processor")]
        assert {p._attention_backend for p in processors} == {AttentionBackendName(name)}
        assert _AttentionBackendRegistry.get_active_backend()[0] == before
        for method, video in found.items():
            wanted = plain["none" if method in ("recorded", "again") else method]
            assert torch.allclose(video, wanted, atol=atol, rtol=0), (name, method)


def test_both_transformers_of_a_pipeline_are_compiled_and_one_that_is_missing_is_not():
    class Part(torch.nn.Module):
        def compile_repeated_blocks(self, **how):
            self.how = how

    class Pipe:
        transformer, transformer_2 = Part(), Part()

    compiled_transformer.compile_transformers(Pipe, Compile(mode="max-autotune-no-cudagraphs"))
    assert Pipe.transformer.how == Pipe.transformer_2.how == {"mode": "max-autotune-no-cudagraphs"}
    Pipe.transformer_2 = None
    compiled_transformer.compile_transformers(Pipe, Compile())
    assert Pipe.transformer.how == {"mode": "default"}
