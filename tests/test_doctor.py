"""`python -m methods doctor` and `families`: one case in which each rule speaks, and one in which it is silent."""

import json
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_folders import TESTBED, ltx, save, without_weights
from tiny_pipelines import PIPELINES

from methods.__main__ import main
from methods.command_line import families_table
from methods.command_line.doctor_rules import RULES
from methods.command_line.doctor_setup import NATIVE_BACKENDS
from methods.families import FAMILIES

ROOT = Path(__file__).parent.parent
OK = ["--steps", "50", "--height", "64", "--width", "64", "--frames", "17", "--vae-dtype", "float32"]
# rule -> (model, options with which it speaks, options with which it does not)
CASES = {
    "no-family": ("stable", [], None),
    "guidance-off": ("wan-i2v", [*OK, "--guidance", "1"], [*OK, "--guidance", "5"]),
    "scale-ignored": ("hunyuan-token-replace", ["--set", "guidance_scale=6"], ["--set", "true_cfg_scale=6"]),
    "few-steps": ("wan-i2v", ["--steps", "4"], ["--steps", "9"]),
    "method-never-acts": ("wan-i2v", ["--method", "alignvid", "--gamma", "1.35", "--steps", "3"], ["--method", "alignvid", "--gamma", "1.35", "--steps", "4"]),
    "short-windows": ("wan-i2v", ["--steps", "4"], ["--steps", "40"]),
    "early-cache": ("wan-i2v", ["--cache", "teacache"], []),
    "cache-hides-methods": ("wan-i2v", ["--cache", "mag", "--method", "dymos", "--gamma", "1"], ["--cache", "mag"]),
    "backend-replaced": ("wan-i2v", ["--backend", "sage"], ["--backend", "_native_flash"]),
    "ltx-size": ("ltx", ["--height", "480", "--width", "720"], ["--height", "480", "--width", "704"]),
    "size": ("wan-i2v", ["--height", "70"], ["--height", "64", "--width", "64"]),
    "frames": ("wan-i2v", ["--frames", "16"], ["--frames", "17"]),
    "ltx-clean-reference": ("ltx", [], None),
    "reference-twice": ("ltx-condition", ["--set", "strength=0.75"], ["--set", "strength=1.0"]),
    "wan-text-split": ("wan-i2v", ["--text-length", "226"], ["--text-length", "512"]),
    "text-shorter": ("wan2.2-5b", ["--text-length", "226"], ["--text-length", "512"]),
    "text-longer": ("cogvideox-i2v", [], ["--text-length", "24"]),
    "wan-vae-precision": ("wan-i2v", ["--dtype", "bfloat16"], ["--dtype", "bfloat16", "--vae-dtype", "float32"]),
    "wan-too-long": ("wan-i2v", ["--frames", "121"], ["--frames", "81"]),
    "framepack-still-start": ("framepack", [], ["--sampling-type", "vanilla"]),
    "framepack-f1-long": ("framepack-f1", ["--sampling-type", "vanilla", "--frames", "181"], ["--sampling-type", "vanilla"]),
    "f1-order": ("framepack-f1", [], ["--set", "sampling_type=vanilla"]),
    "quantised": ("quantised", [], None),
    "dynamic-guidance": ("cogvideox-i2v", ["--set", "use_dynamic_cfg=true"], ["--set", "use_dynamic_cfg=false"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> folder with configuration files alone."""
    folder = tmp_path_factory.mktemp("models")
    for name in [n for n in PIPELINES if not n.startswith(("wan2.1", "wan-t2v", "cogvideox"))]:
        save(name, folder / f"{name}-saved")
        without_weights(folder / f"{name}-saved", folder / name)
    for name in ("wan-i2v", "cogvideox-i2v"):
        without_weights(TESTBED / name, folder / name)
    ltx(folder / "ltx", "LTXImageToVideoPipeline")
    ltx(folder / "ltx-condition", "LTXConditionPipeline")
    without_weights(folder / "wan-i2v", folder / "quantised")
    path = folder / "quantised/transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "torchao"}}))
    (folder / "stable").mkdir()
    (folder / "stable/model_index.json").write_text('{"_class_name": "StableVideoDiffusionPipeline"}')
    return folder


@pytest.fixture
def found(models, capsys, monkeypatch):
    """The findings by rule."""
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND", raising=False)

    def run(model, *options):
        try:
            main(["doctor", str(models / model), *options, "--json"])
            status = 0
        except SystemExit as stop:
            status = stop.code
        findings = json.loads(capsys.readouterr().out)
        assert status == any(f["severity"] == "error" for f in findings)
        return {f["rule"]: f for f in findings}

    return run


def test_every_rule_has_a_case_and_a_name_of_its_own():
    assert [r.key for r in RULES] == list(CASES)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_where_it_should_and_is_silent_where_not(found, rule):
    model, loud, quiet = CASES[rule]
    said = found(model, *loud)[rule]
    assert said["found"] and said["change"] and said["sources"]
    if quiet is not None:
        assert rule not in found(model, *quiet)


def test_rules_about_one_family_are_silent_elsewhere(found):
    for model in ("wan-i2v", "cogvideox-i2v", "framepack"):
        assert not {"ltx-clean-reference", "ltx-size", "reference-twice", "quantised"} & set(found(model))
    assert "no-family" not in found("wan-i2v") and "ltx-clean-reference" not in found("ltx-condition")
    assert "ltx-clean-reference" in found("ltx-condition", "--set", "image_cond_noise_scale=0")
    assert not {"f1-order", "framepack-still-start"} & set(found("wan-i2v"))


def test_a_good_set_up_has_no_findings(models, capsys, monkeypatch):
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND", raising=False)
    main(["doctor", str(models / "wan-i2v"), *OK, "--guidance", "5"])
    assert "nothing that is known to freeze videos was found" in capsys.readouterr().out


def test_findings_in_words_name_change_and_source(models, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(models / "wan-i2v"), "--steps", "4", "--height", "70", "--backend", "sage"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1 and lines[1].startswith("error: height 70: not a multiple of 16")
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")][1:] == sorted(
        [line.split(":")[0] for line in lines if not line.startswith(" ")][1:], key=("error", "warning", "note").index
    )
    assert any(line.startswith("    change: ") for line in lines) and any(
        line.startswith("    source: ") for line in lines
    )


def test_the_backend_of_the_environment_is_seen(found, monkeypatch):
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flash")
    assert "backend-replaced" in found("wan-i2v")


def test_backends_are_those_that_steer_sees():
    backends = pytest.importorskip("methods.core.backends")
    assert set(NATIVE_BACKENDS) == backends.SEEN


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.key)
def test_sources_are_addresses_or_files_that_exist(rule):
    package = resources.files("diffusers")
    for source in rule.sources:
        if source.startswith("https://"):
            assert re.fullmatch(
                r"https://(github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+|arxiv\.org/abs/[\d.]+)(, .+)?", source
            )
        elif source.startswith("diffusers: "):
            named = re.findall(r"[\w/]+\.py", source)
            assert all((package / name).is_file() for name in named)
        else:
            assert (ROOT / source).exists()


def test_wrong_arguments_are_errors(models):
    for options, words in (
        (["--set", "foo=1"], "WanImageToVideoPipeline takes"),
        (["--set", "num_frames=9", "--frames", "9"], "are the same thing"),
        (["--method", "magic"], "unknown method 'magic'"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(["doctor", str(models / "wan-i2v"), *options])
    with pytest.raises(SystemExit, match="no such folder"):
        main(["doctor", "nowhere"])


# --- families ------------------------------------------------------------------------------------------------------------
def test_families_are_those_of_the_package(capsys):
    main(["families"])
    parts = capsys.readouterr().out.split("\n\n")
    assert [p.splitlines()[0] for p in parts if not p.startswith("cannot")] == list(FAMILIES)
    wan = next(p for p in parts if p.startswith("WanTransformer3DModel"))
    assert "WanImageToVideoPipeline" in wan and "attn1 (self), attn2 (cross)" in wan and "image, self, text" in wan
    hunyuan = next(p for p in parts if p.startswith("HunyuanVideoTransformer3DModel"))
    assert "HunyuanSkyreelsImageToVideoPipeline" in hunyuan and "HunyuanVideo15" not in hunyuan.split("attention")[0]


@pytest.mark.parametrize(
    ("kind", "pipeline"),
    [
        ("LTXVideoTransformer3DModel", "LTXImageToVideoPipeline"), ("LTX2VideoTransformer3DModel", "LTX2ImageToVideoPipeline"),
        ("Kandinsky5Transformer3DModel", "Kandinsky5I2VPipeline"), ("HeliosTransformer3DModel", "HeliosPipeline"),
        ("SkyReelsV2Transformer3DModel", "SkyReelsV2ImageToVideoPipeline"),
    ],
)  # fmt: skip
def test_pipelines_are_found_by_what_they_hold(kind, pipeline):
    """Also of families that this package does not have."""
    found = families_table.pipelines(SimpleNamespace(class_name=kind))
    assert pipeline in found and "WanPipeline" not in found


def test_what_a_family_refuses_has_a_reason():
    family = FAMILIES["HunyuanVideo15Transformer3DModel"]
    reasons = families_table.refused(families_table.models(family))
    assert "LowPassGuidance needs" in reasons["lowpass"] and not {"alignvid", "dymos"} & set(reasons)


# --- The page -----------------------------------------------------------------------------------------------------------
def test_the_page_shows_what_the_commands_print(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND", raising=False)
    import command_outputs

    text = command_outputs.PAGE.read_text()
    assert len(command_outputs.BLOCK.findall(text)) == 6
    assert command_outputs.page(text) == text
