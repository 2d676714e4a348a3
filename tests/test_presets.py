"""papers/presets.yaml: every setting of every row of the papers' tables stands somewhere, and is what stands there."""

import inspect
from pathlib import Path

import pandas as pd
import pytest

from analysis.papers.table_schema import load_paper
from analysis.study.parameters import load_parameters
from analysis.study.presets import (
    OWN,
    REQUIRED,
    MethodPreset,
    Value,
    load_presets,
    preset,
    presets_of_table,
    split_table,
)
from methods import DyMoS
from methods.core.block_lists import PUBLISHED_BLOCKS
from methods.registry import from_dict

ROOT = Path(__file__).parent.parent
PUBLISHED = pd.read_csv(ROOT / "papers/published.csv", dtype=str, keep_default_na=False)
VALUES = PUBLISHED.set_index(["paper", "table", "row", "column"])["value"].to_dict()
TABLES = ["alignvid/2", "dymos/1", "focal_guidance/1"]
SETTINGS = [
    (p, b, k) for p, found in load_presets().items() for b, own in found.backbones.items() for k in own.settings
]
SCHEDULERS = {"UniPC": "UniPCMultistepScheduler", "DDIM": "CogVideoXDDIMScheduler",
              "FlowMatch-Euler": "FlowMatchEulerDiscreteScheduler"}  # fmt: skip


def printed(paper, value, key):
    """The published value behind a setting, as the setting is written."""
    text = VALUES[(value.of or paper, *value.published)]
    if key in ("frames", "width", "height"):
        return int(text.split("x")[("frames", "width", "height").index(key)])
    if key == "scheduler":
        return SCHEDULERS[text]
    if key == "checkpoint":
        return text.removeprefix("https://huggingface.co/")
    return type(value.value)(text)


@pytest.mark.parametrize(("paper", "backbone", "key"), SETTINGS)
def test_a_setting_is_what_its_source_has(paper, backbone, key):
    import diffusers

    value = load_presets()[paper].backbones[backbone].settings[key]
    if value.published:
        assert value.value == printed(paper, value, key)
    elif value.diffusers:
        pipeline, argument = value.diffusers
        assert value.value == inspect.signature(getattr(diffusers, pipeline).__call__).parameters[argument].default
        assert pipeline == load_presets()[paper].backbones[backbone].pipeline
    else:
        assert value.source if value.value is not None else value.note


@pytest.mark.parametrize("paper", load_presets())
def test_strengths_are_the_published_ones(paper):
    for method in load_presets()[paper].methods.values():
        for settings in method.settings or []:
            if None not in settings.values():
                from_dict(settings)
            for key, place in method.published.items():
                value = settings[key][-1] if key == "window" else settings[key]  # they are from the first step on
                assert value == float(VALUES[(method.of or paper, *place)])
    for table in load_presets()[paper].tables.values():
        for value in filter(None, [table.samples, *table.data_sets.values()]):
            assert not value.published or value.value == int(VALUES[(paper, *value.published)])


@pytest.mark.parametrize("table", TABLES)
def test_every_printed_row_has_presets_and_its_backbone_and_method_are_those_of_the_table(table):
    paper, name = split_table(table)
    spec = load_paper(ROOT / f"papers/tables/{paper}.yaml", load_parameters(ROOT / "params.yaml"))
    rows = {r.row: r for r in spec.tables[name].rows if not r.beside}
    found = presets_of_table(table)
    assert list(found) == list(rows)
    for label, row in rows.items():
        own, model = found[label], spec.backbones[row.backbone]
        assert own.against == row.against
        if own.unserved:
            assert model.note and not model.model
            continue
        assert set(REQUIRED) <= set(own.settings) and own.pipeline
        if model.model and own.get("checkpoint") and "CogVideoX" not in model.model:  # it moved to another organisation
            assert own.get("checkpoint") == model.model
        if row.real is not None:
            assert own.steering == row.real
        assert (own.method == "none") == (row.method in ("none", None) and not row.why)


def test_the_rows_that_were_made_with_other_settings_have_the_papers():
    wan = preset("alignvid", "Wan2.1 + AlignVid")
    assert [wan.get(k) for k in ("guidance_scale", "steps", "flow_shift")] == [1.0, 40, 3.0]
    assert wan.steering == [{"method": "alignvid", "gamma": 1.35, "blocks": "wan2.1-i2v-14b"}]
    for row, sampling in (("FramePack", "inverted_anti_drifting"), ("FramePack-F1", "vanilla")):
        own = preset("alignvid", row)
        keys = ("width", "height", "frames", "steps", "guidance_scale", "sampling_type")
        assert [own.get(k) for k in keys] == [832, 480, 181, 25, 10.0, sampling]
    expected = {"Wan 2.2-14B": (3.5, 40, 81, 16), "Wan 2.1-14B": (5.0, 40, 81, 16), "HunyuanVideo-1.5": (6.0, 50, 81, 16),
                "CogVideoX-5B": (6.0, 50, 49, 8)}  # fmt: skip
    for backbone, values in expected.items():
        own = preset("dymos", f"{backbone} | Ours")
        assert tuple(own.get(k) for k in ("guidance_scale", "steps", "frames", "fps")) == values
    shares = [preset("dymos", f"{b} | Ours").steering[0]["window"] for b in expected]
    assert shares == [[0, 0.2], [0, 0.25], [0, 0.2], [0, 0.24]]
    for name in ("guidance_scale", "steps", "frames", "flow_shift"):
        assert name in preset("focal_guidance", "HunyuanVideo-I2V").unstated


def test_methods_know_the_same_settings():
    names = {"Wan 2.2-14B": "wan2.2-i2v-a14b", "Wan 2.1-14B": "wan2.1-i2v-14b", "HunyuanVideo-1.5": "hunyuanvideo-1.5",
             "CogVideoX-5B": "cogvideox-5b"}  # fmt: skip
    for backbone, name in names.items():
        assert from_dict(preset("dymos", f"{backbone} | Ours").steering[0]) == DyMoS.published(name)
    rows = {"framepack": "FramePack (single-stream blocks)", "framepack-f1": "FramePack-F1 (single-stream blocks)",
            "wan2.1-i2v-14b": "Wan2.1 (I2V-14B blocks)"}  # fmt: skip
    for found in presets_of_table("alignvid/2").values():
        for blocks in (s["blocks"] for s in found.steering):
            printed = VALUES["alignvid", "table10", rows[blocks], "foreground-sensitive block indices"]
            assert [str(b).removeprefix("single.") for b in PUBLISHED_BLOCKS[blocks]] == printed.split()


def test_unknown_names_are_refused_and_unknown_rows_have_no_preset():
    assert preset("alignvid", "FramePack, early steps") is None
    assert preset("dymos", "Wan 2.2-14B").method == "none"
    with pytest.raises(ValueError, match=r"OmniGen2 makes images; there are alignvid/2, alignvid/1, .*dymos/figure5"):
        split_table("alignvid/7")
    with pytest.raises(ValueError, match="no presets of 'nobody'"):
        preset("nobody", "Wan2.1")
    for bad in (dict(value=3), dict(value=None), dict(value=None, source="a book", note="?")):
        with pytest.raises(ValueError):
            Value(**bad)
    with pytest.raises(ValueError, match="differ"):
        MethodPreset(settings=[{"method": "dymos", "gamma": 1.0}], sources={"steps": "x"})


def test_own_is_no_value():
    assert preset("dymos", "CogVideoX-5B | Ours").settings["flow_shift"].value == OWN
    assert preset("dymos", "CogVideoX-5B | Ours").get("flow_shift") is None
