"""The papers' other tables: every published row has a preset or the reason why it has none, every preset builds methods that fit its
model, and a study of every table is asked for what is unknown, planned cell by cell, and filled by its guidance scale."""

import csv
import functools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from accelerate import init_empty_weights
from families import FAMILIES, make
from photographs import make_omiti2v

from analysis.papers.table_schema import load_paper
from analysis.studies.check_study import check_study
from analysis.studies.new_study import new_study, slug
from analysis.studies.plan_study import plan_study
from analysis.studies.set_values import set_values
from analysis.studies.settings import setting_of
from analysis.studies.study import RowOf, Study, StudyFile, unstated
from analysis.studies.table_costs import cost_page, costs_of_table
from analysis.studies.table_study import table_of_study
from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from analysis.study.presets import (
    MethodPreset,
    PaperPresets,
    TablePreset,
    load_presets,
    presets_of_table,
    split_table,
    tables_with_presets,
)
from methods.core.block_lists import choose_blocks
from methods.families import describe
from methods.registry import from_dict

ROOT = Path(__file__).parent.parent
PUBLISHED = pd.read_csv(ROOT / "papers/published.csv", dtype=str, keep_default_na=False)
ROWS = list(dict.fromkeys(zip(PUBLISHED["paper"], PUBLISHED["table"], PUBLISHED["row"], strict=True)))
PAPERS = {p: load_paper(ROOT / f"papers/tables/{p}.yaml", load_parameters(ROOT / "params.yaml"))
          for p in ("alignvid", "dymos", "focal_guidance")}  # fmt: skip
# Backbone -> (tiny model of its family, how many blocks the real one has).
TINY = {"Wan2.1": ("wan2.1-i2v", 40), "FramePack": ("framepack", 40), "FramePack-F1": ("framepack", 40), "Wan2.1-T2V-1.3B": ("wan-t2v", 30),
        "Wan 2.2-14B": ("wan2.2-a14b", 40), "Wan 2.1-14B": ("wan2.1-i2v", 40), "HunyuanVideo-1.5": ("hunyuan-1.5", 54),
        "CogVideoX-5B": ("cogvideox-i2v", 42), "Wan2.1-I2V": ("wan2.1-i2v", 40)}  # fmt: skip
# What a study is told where a paper says nothing.
STATED = {"checkpoint": "model", "dtype": "float32", "vae_dtype": "float32", "scheduler": "own", "flow_shift": "own", "fit": "crop",
          "width": 48, "height": 32, "frames": 9, "fps": 8, "steps": 10, "guidance_scale": 2.0, "true_cfg_scale": 1.0, "seeds": 1,
          "negative_prompt": ""}  # fmt: skip
OF_METHODS = {"gamma": 1.7, "energy": "centred", "window": [0, 0.3], "select": 0.1, "region": 0.5, "text": 1.0, "latent": 0.1, "cache": 0.1,
              "cache_threshold": 0.0, "clip": "clip"}  # fmt: skip


def reached():
    """(paper, table, row) of published.csv of every row that has a preset."""
    found = set()
    for name in tables_with_presets():
        paper, table = split_table(name)
        spec = {r.row: r for r in PAPERS[paper].tables[table].rows}
        for label, row in load_presets()[paper].tables[table].rows.items():
            own = spec.get(row.row or label)
            place = (own.table or table, own.published or own.row) if own else (table, row.row or label)
            found.add((paper, *place))
    return found


@pytest.mark.parametrize(("paper", "table", "row"), ROWS)
def test_every_published_row_has_a_preset_or_a_reason(paper, table, row):
    why = load_presets()[paper].not_made.get(table, {})
    said = why if isinstance(why, str) else why.get(row, "")
    assert ((paper, table, row) in reached()) != bool(said), said or "neither a preset nor a reason"


def test_every_reason_is_of_a_published_row():
    for paper, found in load_presets().items():
        for table, why in found.not_made.items():
            for row in [None] if isinstance(why, str) else why:
                assert any(p == paper and t == table and row in (None, r) for p, t, r in ROWS), (paper, table, row)


@pytest.mark.parametrize("name", tables_with_presets())
def test_a_preset_is_the_row_of_the_paper_s_table_with_the_settings_it_names(name):
    paper, table = split_table(name)
    spec = {r.row: r for r in PAPERS[paper].tables[table].rows if not r.beside}
    published = {r for p, t, r in ROWS if (p, t) == (paper, table)}
    own = load_presets()[paper].tables[table].rows
    for label, preset in presets_of_table(name).items():
        row = spec.get(own[label].row or label)
        assert row or (own[label].row or label) in published, label
        if row is None:
            continue
        assert row.guidance_scale == preset.guidance_scale
        against = preset.against and (own[preset.against].row or preset.against)
        assert against == row.against, label
        model = PAPERS[paper].backbones[row.backbone]
        if model.model and preset.get("checkpoint") and "or" not in row.backbone and "CogVideoX" not in model.model:
            assert preset.get("checkpoint") == model.model
        if row.real is not None and not preset.asked:
            assert preset.steering == row.real, label
        if row.method is not None and not row.why:
            unsteered = row.method == "none" and "control" not in (model.stand_in or "")  # which is post-trained
            assert (preset.method == "none") == unsteered, label
    assert len(set(own)) == len(own) and (len(own) > 1)


@functools.cache
def real_shape(backbone):
    """The Model of a backbone: its family's tiny model with as many blocks as the real one has."""
    tiny, blocks = TINY[backbone]
    model, _ = make(tiny)
    more = {k: blocks for k in ("num_layers", "num_single_layers") if k in model.config}
    with init_empty_weights():
        return describe(type(model).from_config(dict(model.config) | more))


STEERED = {(p.backbone, m): p.steering for t in tables_with_presets() for m, p in ((q.method, q) for q in presets_of_table(t).values())
           if p.steering}  # fmt: skip


@pytest.mark.parametrize(("backbone", "method"), STEERED)
def test_every_preset_builds_methods_that_fit_the_model_of_its_family(backbone, method):
    model = real_shape(backbone)
    assert TINY[backbone][0] in FAMILIES
    for settings in STEERED[backbone, method]:
        made = from_dict({k: OF_METHODS[k] if v is None else v for k, v in settings.items()})
        if settings["method"] == "focal":  # which loads CLIP when it is checked
            assert choose_blocks(model, made.weak) == frozenset(range(11, 27))
        else:
            made.check(model)
            assert not made.neutral


def test_a_list_of_a_longer_model_does_not_fit():
    with pytest.raises(ValueError, match="no block"):
        from_dict({"method": "alignvid", "gamma": 1.35, "blocks": "wan2.1-i2v-14b"}).check(
            real_shape("Wan2.1-T2V-1.3B")
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_omiti2v(tmp_path_factory.mktemp("bench"))


def state_all(study):
    """State what is unknown, as `study set` does; every setting that was asked for."""
    asked = unstated(study.raw())
    set_values(study, "all", {"checkpoint": "model"})  # the hub's names need a revision
    (study.folder / "model").mkdir(exist_ok=True)
    (study.folder / "model/model_index.json").write_text("{}")
    for path in asked:
        name, key = setting_of(path)
        values = OF_METHODS if path.startswith("methods.") else STATED
        set_values(study, name, {key: values[key]})
    return asked


@pytest.mark.parametrize("table", tables_with_presets())
@pytest.mark.slow
def test_a_study_of_every_table_asks_for_what_is_unknown_and_has_a_cell_for_every_video(table, bench, tmp_path):
    study = new_study(tmp_path / "s", table, bench)
    rows = {k: p for k, p in presets_of_table(table).items() if not study.of_table.rows[k].missing}
    missing, said = unstated(study.raw()), [str(f) for f in check_study(study) if f.level == "blocks"]
    for path in missing:
        name, key = setting_of(path)
        assert any(f"{key} has to be stated" in line and "it is null" not in line for line in said), path
    notes = {(slug(p.backbone), k) for p in rows.values() for k in p.unstated}
    of_methods = {(p.method, k) for p in rows.values() for k in p.asked}
    assert {setting_of(m) for m in missing} == notes | of_methods
    assert state_all(study) == missing and unstated(study.raw()) == []
    with study.inside():
        parameters = study.parameters()
        costs = plan_study(parameters, dict.fromkeys(parameters.backbones, 1.0))
        cells = [c for sweep in parameters.sweeps for c in expand(parameters, sweep)]
    seeds = {s.backbone: len(s.seeds) for s in parameters.sweeps.values()}
    wanted = {(slug(p.backbone), p.method, p.guidance_scale) for p in rows.values()}
    assert sum(c.videos for c in costs) == len(cells) == sum(6 * seeds[b] for b, _, _ in wanted)
    for row in (r for r in study.of_table.rows.values() if not r.missing):
        scales = {c.guidance_scale for c in cells if c.backbone == row.sweep and c.method == row.method}
        assert scales and (row.guidance_scale is None or row.guidance_scale in scales)


def test_what_a_method_lacks_is_asked_for_by_its_name_and_may_be_stated_one_after_another(bench, tmp_path):
    study = new_study(tmp_path / "s", "focal_guidance/3", bench)
    lines = [str(f) for f in check_study(study)]
    assert any("latent has to be stated: the paper does not give its strengths" in x and "set" in x for x in lines)
    assert any(x.startswith("note") and "weights were not released" in x for x in lines)
    text = study.parameters_file.read_text()
    assert "latent: null" in text and "latent: not known, the paper does not give its strengths" in text
    asked = [setting_of(m)[1] for m in unstated(study.raw()) if m.startswith("methods.focal-wan-zero-shot.")]
    assert asked == ["clip", "select", "region", "text", "latent", "cache", "cache_threshold"]
    for key in asked[:-1]:
        set_values(study, "focal-wan-zero-shot", {key: OF_METHODS[key]})
    with pytest.raises(ValueError, match="cache_threshold"):  # all are known now, and the method looks at them
        set_values(study, "focal-wan-zero-shot", {"cache_threshold": 7.0})
    set_values(study, "focal-wan-zero-shot", {"cache_threshold": "own"})
    assert not any(m.startswith("methods.") for m in unstated(study.raw()))


def test_the_page_names_the_tables_that_have_presets():
    page = (ROOT / "docs/gpu-users.md").read_text()
    assert all(re.search(rf"\b{table}\b", page) for table in tables_with_presets())
    assert set(re.findall(r"\b(?:alignvid|dymos|focal_guidance)/\w+", page)) <= set(tables_with_presets())


def test_a_study_is_of_one_data_set(bench, tmp_path):
    first = new_study(tmp_path / "a", "dymos/2", bench)
    assert first.of_table.samples == 246 and first.of_table.rows["VBench-I2V | Ours"].sweep == "wan2.2-14b"
    assert "--data-set 'PVD'" in first.of_table.rows["PVD | Ours"].missing
    other = new_study(tmp_path / "b", "dymos/2", bench, data_set="VidProM")
    assert other.of_table.samples == 500 and other.of_table.rows["VidProM | Baseline"].method == "none"
    for table, name in (
        ("dymos/2", "has no data set 'COCO'; it has VBench-I2V, PVD, VidProM"),
        ("dymos/6", "one alone"),
    ):
        with pytest.raises(ValueError, match=name):
            new_study(tmp_path / "c", table, bench, data_set="COCO")
    (cost,) = costs_of_table("dymos/2", {"wan2.2-14b": 1.0})
    assert cost.videos == (246 + 200 + 500) * 2


def test_costs_count_guidance_scales_and_say_what_is_not_known():
    (cost,) = costs_of_table("alignvid/6", {"wan2.1": 2.0})
    assert cost.videos == 367 * 4 and cost.hours == pytest.approx(367 * 4 * 40 * 2 / 3600)
    unknown = costs_of_table("alignvid/13")
    assert all(c.videos is None and c.unknown == ("samples",) for c in unknown) and "| - |" in cost_page(unknown)


def test_a_row_is_measured_at_its_own_guidance_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/scores").mkdir(parents=True)
    rows = [
        [f"{s}-{g:g}.mkv", f"s{s}", 0, "wan2.1", "none", f"{g:g}", "addition"] for s in range(4) for g in (1.0, 5.0)
    ]
    for path, head, body in (
        ("manifest", ["video", "id", "seed", "sweep", "method", "guidance_scale", "main_category"], rows),
        (
            "scores/x",
            ["video", "metric", "status", "value"],
            [[r[0], "macro", "ok", "1" if r[5] == "5" else "0"] for r in rows],
        ),
    ):
        with open(f"results/{path}.csv", "w") as file:
            csv.writer(file).writerows([head, *body])
    said = {
        "scorer": "j",
        "version": "1",
        "inputs": ["questions"],
        "metrics": {"macro": {"low": 0, "high": 1, "imitates": ""}},
    }
    (tmp_path / "results/scores/x.json").write_text(json.dumps(said))
    rows = {f"CFG={g}": RowOf(sweep="wan2.1", method="none", guidance_scale=g) for g in (1, 5)}
    found = table_of_study(Study(tmp_path, StudyFile(table="alignvid/6", rows=rows))).set_index(["row", "column"])
    assert found.loc[("CFG=1", "Addition"), "value"] == 0 and found.loc[("CFG=5", "Addition"), "value"] == 100
    assert found.loc[("CFG=1", "Addition"), "n"] == 4


def test_presets_that_contradict_themselves_are_refused():
    row, many = {"backbone": "b", "method": "none"}, {"value": 3, "source": "x"}
    for table, said in (
        ({"benchmark": "x", "rows": {"a": row}}, "`samples`, or else `data_sets`"),
        (
            {"benchmark": "x", "samples": many, "settings": {"wdith": many}, "rows": {"a": row}},
            "unknown setting 'wdith'",
        ),
        (
            {"benchmark": "x", "samples": many, "rows": {"a": row | {"guidance_scale": 2.0}}},
            "guidance 2.0 is not one of",
        ),
        ({"benchmark": "x", "data_sets": {"A": many}, "rows": {"a": row}}, "lacks its data set"),
        ({"benchmark": "x", "data_sets": {"A": many}, "rows": {"a": row | {"data_set": "B"}}}, "no data set 'B'"),
    ):
        with pytest.raises(ValueError, match=said):
            TablePreset.model_validate(table)
    with pytest.raises(ValueError, match="the notes in unknown"):
        MethodPreset(settings=[{"method": "dymos", "gamma": None}])
    with pytest.raises(ValueError, match="unknown backbone 'b'"):
        PaperPresets.model_validate(
            {"code": "", "tables": {"t": {"benchmark": "x", "samples": many, "rows": {"a": row}}}}
        )
