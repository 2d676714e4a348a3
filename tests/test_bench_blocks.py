"""The benchmark of real blocks: real sizes, compared things that are the same, and a row for whatever cannot run."""

import ast
import inspect
from pathlib import Path

import diffusers
import pandas as pd
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from analysis.bench import block_cost
from analysis.bench.block_cost import (
    CANNOT,
    COUNTERPART,
    EXECUTIONS,
    FLEX,
    MEASURED,
    NO_MEMORY,
    NOT_RUN,
    PLAIN,
    bench_blocks,
    rows_of,
    settings_of,
    time_settings,
)
from analysis.bench.block_shapes import SHAPES, build_block, smaller
from analysis.bench.wrapper_cost import bench_wrapper
from analysis.report.block_cost_table import SHOWN, markdown
from methods import DyMoS, steer

# Source of the pipeline whose defaults are the sizes, pixels of a token's side, frames of a latent one.
PIPELINES = {
    "wan-14b": ("wan/pipeline_wan_i2v.py", 16, 4),
    "ltx-2": ("ltx2/pipeline_ltx2_image2video.py", 32, 8),
}


def defaults_of(source):
    """Default values of the call of a pipeline, read without importing it, which takes seconds."""
    tree = ast.parse((Path(diffusers.__path__[0]) / "pipelines" / source).read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__call__").args
    names = [a.arg for a in call.args][-len(call.defaults) :]
    return {n: d.value for n, d in zip(names, call.defaults, strict=True) if isinstance(d, ast.Constant)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_blocks_have_the_width_of_the_real_ones(shape):
    """The class's own defaults, but for what `make` names; nothing is allocated."""
    with torch.device("meta"):
        model, inputs = shape.make(shape.grid, shape.heads)
    defaults = {k: p.default for k, p in inspect.signature(type(model).__init__).parameters.items()}
    own = {k for k, v in model.config.items() if k in defaults and v != defaults[k]}
    assert own <= {"num_layers", "in_channels", "image_dim", "added_kv_proj_dim", "num_attention_heads",
                   "use_rotary_positional_embeddings", "use_learned_positional_embeddings"}, own  # fmt: skip
    assert (shape.name == "cogvideox-5b") == ("num_attention_heads" in own)
    assert model.config.attention_head_dim == shape.size and model.config.num_attention_heads == shape.heads
    assert inputs["hidden_states"].numel() % shape.tokens == 0
    if shape.name in PIPELINES:
        source, pixels, frames = PIPELINES[shape.name]
        size = defaults_of(source)
        count = size["num_frames"] or 121  # LTX-2 says so in its call
        assert shape.grid == ((count - 1) // frames + 1, size["height"] // pixels, size["width"] // pixels)


def test_lengths_are_those_of_the_papers():
    assert {n: s.tokens for n, s in SHAPES.items()} == {
        "wan-14b": 32760, "cogvideox-5b": 17550, "hunyuanvideo-1.5": 49290, "ltx-2": 6144
    }  # fmt: skip


@pytest.mark.parametrize("tokens", [8, 9, 100, 1040, 8190, 10**6])
def test_a_smaller_grid_has_two_frames_and_no_more_tokens(tokens):
    for shape in SHAPES.values():
        grid = smaller(shape.grid, tokens)
        assert min(grid) >= 2 and grid[0] * grid[1] * grid[2] <= max(8, min(tokens, shape.tokens))
    with pytest.raises(ValueError, match="8 or more"):
        bench_blocks(tokens=4)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_compared_computes_the_same(name):
    """FlexAttention makes the edits that AlignVid and DyMoS make, in the block that a GPU would run in bfloat16."""
    block = build_block(SHAPES[name], "cpu", torch.float32, tokens=24, heads=1)
    settings, found = settings_of(block, flex_attention), {}
    for setting in (PLAIN, FLEX, "AlignVid", "AlignVid by FlexAttention", "DyMoS", "DyMoS by FlexAttention"):
        with settings[setting]():
            found[setting] = block.forward()
    for setting in (PLAIN, "AlignVid", "DyMoS"):
        assert torch.allclose(found[setting], found[COUNTERPART[setting]], atol=2e-6), setting
        assert setting == PLAIN or (found[setting] - found[PLAIN]).abs().max() > 1e-4
    half = build_block(SHAPES[name], "cpu", torch.bfloat16, tokens=8, heads=1)
    with steer(half.called, DyMoS(0.6, window="all")):
        assert half.forward().isfinite().all()


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """In an empty folder, without a GPU, without compiling FlexAttention."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(block_cost, "compiled_flex", lambda: flex_attention)
    monkeypatch.setattr(block_cost, "CPU_HEADS", 1)
    monkeypatch.setattr(block_cost, "WARM", 1)


def check_measured(rows):
    assert set(rows["status"]) == {MEASURED}, rows["reason"].tolist()
    assert (rows["ms"] > 0).all() and rows.loc[PLAIN, "to_sdpa"] == rows.loc[FLEX, "to_flex"] == 1
    assert ((rows["to_sdpa_low"] <= rows["to_sdpa"]) & (rows["to_sdpa"] <= rows["to_sdpa_high"])).all()
    assert rows["to_flex"].notna().all()


def test_every_setting_has_a_row_and_the_gpu_is_not_run(quick, monkeypatch):
    monkeypatch.setitem(EXECUTIONS, "compiled", {"backend": "nowhere"})
    table = bench_blocks(tokens=24, repeats=1, shapes={"wan-14b": SHAPES["wan-14b"]})
    written = pd.read_csv("results/bench/blocks-cpu.csv")
    assert list(written) == block_cost.COLUMNS and len(written) == len(table) == 4 * 3 * len(COUNTERPART)
    wan = written[written["model"] == "Wan 2.1 14B"].set_index(["execution", "setting"])
    assert (wan["torch"] == torch.__version__).all() and list(wan.loc["eager"].index) == list(COUNTERPART)
    check_measured(wan.loc["eager"])
    assert (
        set(wan.loc["compiled", "status"]) == {CANNOT} and wan.loc["compiled", "reason"].str.contains("nowhere").all()
    )
    assert (wan.loc["CUDA graphs", "reason"] == "CUDA graphs need a GPU").all()
    assert set(written.loc[written["model"] != "Wan 2.1 14B", "status"]) == {NOT_RUN}
    gpu = pd.read_csv("results/bench/blocks-cuda.csv")
    assert set(gpu["status"]) == {NOT_RUN} and gpu["ms"].isna().all() and gpu["to_sdpa"].isna().all()
    assert gpu["reason"].str.contains("bench-blocks").all() and len(gpu) == len(written)
    assert set(gpu["tokens"]) == {32760, 17550, 49290, 6144} and gpu["device"].isna().all()


@pytest.mark.slow
def test_a_compiled_block_is_timed_without_compiling_again(quick, monkeypatch):
    """Steered and with FlexAttention, whose contexts are entered anew in every round."""
    kept = {n: COUNTERPART[n] for n in (PLAIN, FLEX, "DyMoS", "DyMoS by FlexAttention")}
    monkeypatch.setattr(block_cost, "COUNTERPART", kept)
    monkeypatch.setattr(block_cost, "settings_of", lambda b, a: {n: settings_of(b, a)[n] for n in kept})
    monkeypatch.setattr(block_cost, "WARM", 2)
    monkeypatch.setitem(EXECUTIONS, "compiled", {"backend": "eager"})
    block = build_block(SHAPES["cogvideox-5b"], "cpu", torch.float32, tokens=8, heads=1)
    check_measured(pd.DataFrame(block_cost.bench_execution(block, "compiled", "cpu", 1)).set_index("setting"))


def test_a_table_of_a_gpu_is_left_alone(quick, tmp_path):
    (tmp_path / "results/bench").mkdir(parents=True)
    (tmp_path / "results/bench/blocks-cuda.csv").write_text("measured elsewhere")
    bench_blocks(tokens=24, repeats=1, shapes={})
    assert (tmp_path / "results/bench/blocks-cuda.csv").read_text() == "measured elsewhere"


@pytest.mark.parametrize("name", ["cogvideox-5b", "hunyuanvideo-1.5", "ltx-2"])
def test_nag_is_refused_with_its_reason(name):
    block = build_block(SHAPES[name], "cpu", torch.float32, tokens=24, heads=1)
    _, failed = time_settings({"NAG": settings_of(block)["NAG"]}, block.forward, "cpu", 1)
    assert failed["NAG"]["status"] == CANNOT and "Normalized attention guidance" in failed["NAG"]["reason"]


def test_memory_that_is_short_is_a_row():
    def short():
        raise torch.OutOfMemoryError("Tried to allocate\n3 GiB")

    calls = []
    settings = {PLAIN: short, FLEX: lambda: torch.no_grad(), "DyMoS": lambda: torch.no_grad()}
    times, failed = time_settings(settings, lambda: calls.append(1), "cpu", 2)
    assert set(times) == {FLEX, "DyMoS"} and len(times[FLEX]) == 3 and len(calls) == 2 * (2 * 3 + 3 * 2)
    failed |= {n: {"status": CANNOT, "reason": "left out"} for n in COUNTERPART if n not in settings}
    rows = pd.DataFrame(rows_of(times, failed)).set_index("setting")
    assert rows.loc[PLAIN, "status"] == NO_MEMORY and rows.loc[PLAIN, "reason"].endswith("Tried to allocate 3 GiB")
    assert rows.loc["DyMoS", "ms"] >= 0 and pd.isna(rows.loc["DyMoS", "to_flex"]) and pd.isna(rows.loc[PLAIN, "ms"])
    assert "left out" in rows.loc["DyMoS", "reason"]


def test_the_wrapper_is_timed_where_nothing_acts(quick):
    table = bench_wrapper(repeats=3, layers=2)
    row = pd.read_csv("results/bench/wrapper-cpu.csv").iloc[0]
    assert row["calls"] == 4 and row["pairs"] == 3 and len(table) == 1
    assert row["us_per_call_low"] <= row["us_per_call"] <= row["us_per_call_high"]


def test_the_page_names_what_is_not_run(tmp_path):
    page = markdown(tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("| Wan 2.1 14B | AlignVid |")]
    assert len(lines) == 1 and lines[0].count("*not run*") == 2 * len(EXECUTIONS)
    assert page.count("on a machine with a GPU fills it.") == 1 and "FlexAttention |" in page and len(SHOWN) == 5
    table = block_cost.not_run("cuda")
    at = (table["setting"] == "DyMoS") & (table["execution"] == "eager") & (table["model"] == "LTX-2")
    measured = {"device": "a card", "torch": "2", "diffusers": "0", "status": MEASURED, "to_sdpa": 1.25,
                "to_sdpa_low": 1.2, "to_sdpa_high": 1.3}  # fmt: skip
    for column, value in measured.items():
        table[column] = table[column].astype(object)
        table.loc[at, column] = value
    table.to_csv(tmp_path / "blocks-cuda.csv", index=False)
    page = markdown(tmp_path)
    assert "| LTX-2 | DyMoS | 1.250 (1.200 to 1.300) | *no baseline* | *not run*" in page
    assert "a card, bfloat16, torch 2, diffusers 0. Rows that are *not run* were not reached." in page


def test_the_page_is_that_of_the_tables():
    root = Path(__file__).parents[1]
    assert (root / "docs/cost.md").read_text() == markdown(root / "results/bench"), "run python docs/cost_page.py"
