"""The page on writing methods: its examples run, do what they say, and have the lines that it counts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
import torch
from guided_steps import Watcher, watched_steps
from tiny_pipelines import build, video

import methods
from methods import record, steer

PAGE = Path(__file__).parents[1] / "docs" / "new-methods.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
EXAMPLES = {re.search(r"class (\w+)", block)[1]: block for block in BLOCKS if "class " in block}


def example(name):
    found = {"__name__": "an_example"}
    exec(compile(EXAMPLES[name], str(PAGE), "exec", dont_inherit=True), found)
    return found[name]


def lines_of_code(source):
    """Lines with something other than comments and docstrings."""
    lines, documented = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, 0):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            documented.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines - documented)


def test_there_is_an_example_of_each_kind():
    assert list(EXAMPLES) == ["LessPadding", "QuietReference", "Steadier", "MirrorAverage"]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("family", ["wan2.1-i2v", "hunyuan-1.5"])
def test_an_example_acts_in_a_pipeline_and_comes_off(name, family):
    pipe, inputs = build(family)
    plain = video(pipe, inputs)
    with steer(pipe, example(name)()) as steering, record(pipe, queries=1) as recording:
        assert not torch.equal(video(pipe, inputs), plain)
    assert f"{name}: acted" in str(steering.report()) and set(recording.to_frame().branch) == {"cond", "uncond"}
    assert torch.equal(video(pipe, inputs), plain)


def test_the_examples_do_what_they_say():
    pipe, inputs = build("wan2.1-i2v")
    watcher = Watcher()
    with steer(
        pipe, example("LessPadding")(2.0), example("QuietReference")(0.5, "all"), example("Steadier")(0.3), watcher
    ):
        video(pipe, inputs, 1)
    for call, out in watcher.seen:
        z = call.scale * call.query.double() @ call.key.double().mT
        if call.site == "text" and call.context.branch == "cond":
            z = z - 2.0 * call.keys.where("text_padding")[0]
        expected = z.softmax(-1) @ call.value.double()
        if call.site == "self":
            frames = expected.unflatten(2, call.layout.grid)
            expected = (0.7 * frames + 0.3 * frames.mean(2, keepdim=True)).flatten(2, 4)
        assert torch.allclose(out.double(), expected, atol=2e-5)
    with watched_steps(pipe) as (passes, _):
        video(pipe, inputs, 1)
    with torch.inference_mode():
        flipped = pipe.transformer(**(passes[0][0] | {"hidden_states": passes[0][0]["hidden_states"].flip(-1)}))[0]
    expected = passes[0][1].lerp(flipped.flip(-1), 0.5)
    with watched_steps(pipe) as (_, steps), steer(pipe, example("MirrorAverage")()):
        video(pipe, inputs | {"guidance_scale": 1.0}, 1)
    assert torch.allclose(steps[0], expected, atol=1e-5)


def test_the_lines_are_counted():
    counted = dict(re.findall(r"`(\w+)`: (\d+) lines", PAGE.read_text()))
    assert set(counted) == {*EXAMPLES, "DyMoS", "SmoothedEnergyGuidance", "EnhanceAVideo", "PerturbedAttentionGuidance"}
    shared = re.search(r"on top of (\d+) shared", PAGE.read_text())[1]
    assert int(shared) == lines_of_code((PAGE.parents[1] / "methods/perturbed_guidance.py").read_text())
    for name, lines in counted.items():
        source = EXAMPLES.get(name)
        if source is None:
            module = getattr(methods, name).__module__.rsplit(".", 1)[1]
            source = (PAGE.parents[1] / f"methods/{module}.py").read_text()
        assert int(lines) == lines_of_code(source), name
        assert name not in EXAMPLES or lines_of_code(source) <= 20


def test_the_last_example_prints_a_report(capsys):
    found = {"Steadier": example("Steadier")}
    exec(compile(BLOCKS[-1], str(PAGE), "exec", dont_inherit=True), found)
    assert "Steadier: acted in" in capsys.readouterr().out
