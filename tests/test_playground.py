"""The playground: a pair of videos from a described scene, what cannot be described, the widgets, and the notebook."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from notebook_session import outputs_of
from PIL import Image
from random_testbed import cogvideox_backbone
from ruamel.yaml import YAML
from transformers import CLIPVisionModel

from analysis.playground import panel as playground_panel
from analysis.playground import steered_pair as playground
from analysis.playground.panel import Panel
from analysis.playground.pictures import animation, attention_figure, attention_sentence, strips_figure
from analysis.playground.scenes import (
    benchmark_sample,
    build_scene,
    check_prompt,
    questions_about,
    sample_names,
)
from analysis.playground.steered_pair import Request, benchmark_request, first_neglected, run_pair
from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from analysis.videos.generate import reference_files, sample_video
from testbed import wan as wan_lineage
from testbed.benchmark import draw_benchmark, write_benchmark
from testbed.models import build_clip, build_clip_tokenizer
from testbed.oracle import Oracle
from testbed.world import render

ROOT = Path(__file__).parent.parent
TWO = [("red", "circle", 18, 18), ("blue", "square", 46, 44)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a benchmark, random weights of three backbones and parameters with one or two denoising steps."""
    folder = tmp_path_factory.mktemp("playground")
    torch.manual_seed(0)
    vae, text_encoder, clip = wan_lineage.build_vae(), wan_lineage.build_text_encoder(), build_clip()
    vision = CLIPVisionModel(clip.config.vision_config)
    vision.load_state_dict(clip.vision_model.state_dict(), strict=False)
    text_to_video = wan_lineage.build_transformer(image_to_video=False)
    transformer = wan_lineage.image_to_video_from(text_to_video)
    for name, value in transformer.named_parameters():
        if ".add_v_proj." in name or name == "patch_embedding.weight":  # else the reference has no say
            torch.nn.init.normal_(value, std=0.1)
    wan_lineage.image_to_video_pipeline(vae, text_encoder, transformer, vision).save_pretrained(folder / "i2v")
    wan_lineage.text_to_video_pipeline(vae, text_encoder, text_to_video).save_pretrained(folder / "t2v")
    clip.save_pretrained(folder / "clip")
    build_clip_tokenizer().save_pretrained(folder / "clip")
    write_benchmark(folder / "benchmark", 3)
    given = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    given["benchmark"] = {"folder": str(folder / "benchmark"), "seed": 3}
    for name in ("alignvid", "alignvid-early-half"):  # one step is not in an early window
        given["methods"][name][0]["window"] = "all"
    wan = given["backbones"]["wan-i2v"] | {"steps": 1}
    given["backbones"] = {
        "wan-i2v": wan | {"checkpoint": str(folder / "i2v")},
        "wan-t2v": wan | {"checkpoint": str(folder / "t2v"), "pipeline": "WanPipeline"},
        "gone": wan | {"checkpoint": str(folder / "nowhere")},
        "cogvideox-i2v": cogvideox_backbone(folder / "cogvideox").model_dump(exclude_none=True),
    }
    for entry in given["methods"].values():
        for method in entry:
            method |= {"clip": str(folder / "clip")} if method.get("method") == "focal" else {}
    given["sweeps"] = {"small": {"backbone": "wan-i2v", "samples": 4, "seeds": [0, 1], "guidance_scale": [3.0]}}
    given["notebooks"]["10_playground"] = {"interactive": False, "backbone": "wan-i2v"}
    with (folder / "params.yaml").open("w") as f:
        YAML(pure=True).dump(json.loads(json.dumps(given)), f)
    return folder


@pytest.fixture(scope="module")
def parameters(world):
    return load_parameters(world / "params.yaml")


# --- A pair ----------------------------------------------------------------------------------------------------------
def test_the_unsteered_video_is_that_of_the_sweep(parameters):
    cell = expand(parameters, "small")[5]
    expected, _ = sample_video(
        cell, parameters.backbones["wan-i2v"], reference_files(parameters, "small", [cell])[cell.key]
    )
    request = benchmark_request(parameters, cell.sample, "alignvid-always-all", seed=cell.seed, guidance_scale=3.0)
    pair = run_pair(parameters, request)
    assert np.array_equal(pair.videos[0], expected)
    assert pair.videos[1].shape == expected.shape and not np.array_equal(pair.videos[1], expected)
    other = run_pair(parameters, replace(request, seed=cell.seed + 1))
    assert not np.array_equal(other.videos[0], expected)


def test_a_pair_has_answers_attention_and_pictures(parameters):
    pair = run_pair(parameters, benchmark_request(parameters, "motion_000", "alignvid-always-all"))
    record = benchmark_sample(parameters, "motion_000")[0]
    assert list(pair.answers["question"]) == [q["question"] for q in record["questions"]]
    for run, video in zip(("unsteered", "steered"), pair.videos, strict=True):
        assert list(pair.answers[run]) == [Oracle().answer(video, q).value for q in pair.answers["question"]]
    total = pair.attention.groupby(["run", "panel", "block"])["share"].sum()
    assert np.allclose(total, 1, atol=1e-4) and len(total) == 2 * 3 * 10
    words = pair.attention[pair.attention["group"] == "words"].pivot(index="block", columns="run", values="share")
    assert (words["steered"] != words["unsteered"]).all()
    for figure in (strips_figure(pair), attention_figure(pair)):
        assert playground_panel.png(figure).startswith(b"\x89PNG")
    moving = Image.open(io.BytesIO(animation(pair)))
    assert moving.n_frames == len(pair.videos[0]) and moving.info["loop"] == 0
    assert animation(pair) == animation(pair)


@pytest.mark.parametrize("steering", [[], [{"method": "alignvid", "gamma": 1.0}], [{"method": "dymos", "gamma": 0.0}]])
def test_nothing_on_and_neutral_strengths_change_no_bit(parameters, steering):
    pair = run_pair(parameters, benchmark_request(parameters, "addition_000", methods=steering))
    assert np.array_equal(*pair.videos)
    assert any("no method is on" in note for note in pair.notes) == (not steering)
    assert "the same" in attention_figure(pair).get_suptitle()


def test_a_pair_says_what_was_mended_broken_and_lost(parameters):
    pair = run_pair(parameters, benchmark_request(parameters, "addition_000", methods=[]))
    question = "Is there a red circle at the end of the video?"
    answers = pd.DataFrame(
        {"question": ["Is there a green square at the end of the video?", question], "wanted": ["yes", "yes"],
         "unsteered": ["no", "yes"], "steered": ["yes", "no"]}
    )  # fmt: skip
    told = replace(pair, answers=answers).told
    assert "1 of 2 answers right unsteered, 1 steered" in told
    assert "Steering mends: “Is there a green square at the end of the video?” (no → yes)" in told
    assert f"Steering breaks: “{question}” (yes → no)" in told
    assert "At the end of the steered video the red circle is not found." in told
    assert "Nothing was asked" in replace(pair, answers=answers[:0]).told


def test_the_blocks_that_a_method_acts_in_are_marked(parameters):
    method = [{"method": "alignvid", "gamma": 2.0, "window": "all", "blocks": [0, 2]}]
    pair = run_pair(parameters, benchmark_request(parameters, "motion_000", methods=method))
    assert pair.acting == {0, 2} and "marked blocks" in attention_sentence(pair)
    assert "grey" in attention_figure(pair).get_suptitle()
    plain = run_pair(parameters, benchmark_request(parameters, "motion_000", methods=[]), earlier=pair)
    assert plain.acting == frozenset() and attention_sentence(plain) == "Both runs looked at the same."


def test_demonstrations_are_the_first_neglected_prompts(parameters):
    order = [record["id"] for record, _, _ in draw_benchmark(parameters.benchmark.seed)]
    found = first_neglected(parameters, "wan-i2v", 2)  # a random model follows none
    assert len(found) == 2 and found == [s for s in order if s in found]
    with pytest.raises(ValueError, match="2 are needed"):
        first_neglected(parameters, "wan-i2v", 2, limit=1)


def test_what_an_earlier_pair_made_is_not_made_again(parameters, monkeypatch):
    made = []
    monkeypatch.setattr(playground, "sample_video", lambda cell, *rest: made.append(cell) or sample_video(cell, *rest))
    request = benchmark_request(parameters, "motion_000", "alignvid")
    first = run_pair(parameters, request)
    stronger = replace(request, methods=[{"method": "alignvid", "gamma": 2.0, "window": "all"}])
    second = run_pair(parameters, stronger, earlier=first)
    assert [bool(cell.steering) for cell in made] == [False, True, True]
    assert np.array_equal(first.videos[0], second.videos[0])
    run_pair(parameters, replace(stronger, seed=1), earlier=second)
    drawn = replace(stronger, scene=build_scene(TWO, 0))  # another picture under the same prompt and seed
    run_pair(parameters, drawn, earlier=second)
    assert len(made) == 7


def test_joint_attention_and_text_to_video_have_their_own_groups(parameters):
    joint = run_pair(
        parameters, benchmark_request(parameters, "motion_000", "dymos-1", backbone="cogvideox-i2v", guidance_scale=3.0)
    )
    assert set(joint.attention["panel"]) == {"joint attention"}
    assert set(joint.attention["group"]) == {"words", "reference frame", "other frames"}
    mass = joint.attention.pivot(index=["block", "group"], columns="run", values="share").xs("reference frame", level=1)
    assert (mass["steered"] < mass["unsteered"]).all()
    attention_figure(joint)
    request = benchmark_request(parameters, "motion_000", "alignvid-early-half", backbone="wan-t2v")
    assert set(run_pair(parameters, request).attention["panel"]) == {"self-attention", "text attention"}


def test_what_a_method_warns_of_is_noted(parameters):
    focal = parameters.methods["focal-full"][0] | {"select": 1.0}
    pair = run_pair(parameters, benchmark_request(parameters, "motion_000", methods=[focal]))
    assert len(pair.notes) == 1 and pair.notes[0].startswith("FocalGuidance: no word of")
    assert np.array_equal(*pair.videos)


# --- Scenes and questions --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["modification", "addition", "deletion", "motion"])
def test_a_prompt_gets_the_questions_of_its_event_and_truth_answers_them_right(parameters, kind):
    for index in range(8):
        record, scene, event = benchmark_sample(parameters, f"{kind}_{index:03d}")
        questions, why = questions_about(scene, record["prompt"])
        assert not why and len(questions) == 4
        wanted = {"yes": set(), "no": set()}
        for q in questions:
            wanted[q["expected_answer"]].add(q["question"])
        own = {q["question"] for q in record["questions"] if q["expected_answer"] == "yes"}
        assert wanted["yes"] == own and len(wanted["no"]) == 2
        truth = render(scene, event)
        assert [Oracle().answer(truth, q["question"]).value for q in questions] == [
            q["expected_answer"] for q in questions
        ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "an elephant appears."}, "never saw the word 'an'; it knows a, all"),
        ({"methods": [{"method": "alignvid", "gamma": 0.0}]}, "gamma must be a finite number above 0, not 0.0"),
        ({"methods": [{"method": "dymos", "gamma": 1.0, "window": [0, 0]}]}, "0 <= from < to <= 1"),
        ({"methods": [{"method": "magic"}]}, "unknown method 'magic'"),
        ({"methods": [{"method": "dymos", "gamma": 1.0}], "backbone": "wan-t2v"}, "needs a reference frame"),
        (
            {"methods": "focal-full", "backbone": "cogvideox-i2v"},
            "needs a trained `projection` of its anchors for CogVideoX",
        ),
        ({"backbone": "wan"}, "no backbone 'wan'"),
        ({"backbone": "gone"}, "no checkpoint at"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(parameters, monkeypatch, changes, said):
    monkeypatch.setattr(playground, "sample_video", lambda *_: pytest.fail("a video was made"))
    changes = {k: parameters.methods[v] if k == "methods" and isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=said):
        run_pair(parameters, replace(benchmark_request(parameters, "motion_000", "none"), **changes))


def test_names_that_do_not_exist_are_refused(parameters):
    with pytest.raises(ValueError, match="no sample 'motion_999'"):
        benchmark_request(parameters, "motion_999")
    with pytest.raises(ValueError, match="no method 'magic'"):
        benchmark_request(parameters, "motion_000", "magic")
    assert len(sample_names()) == 467
    check_prompt("The red circle.".lower())


def test_progress_says_the_remaining_time_of_a_long_run_only(monkeypatch):
    for pace, spoken in ((1.0, 8), (0.1, 0)):
        clock, said = iter(np.arange(0, 100, pace)), []
        monkeypatch.setattr(playground, "time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))
        pipe = SimpleNamespace(scheduler=SimpleNamespace(step=lambda x: x + 1))
        original = pipe.scheduler.step
        with playground.steps_counted(pipe, 8, said.append):
            assert [pipe.scheduler.step(i) for i in range(8)] == list(range(1, 9))
        assert len(said) == spoken and pipe.scheduler.step is original
        if said:
            assert said[0] == "step 1 of 8, 7 s left" and said[-1] == "step 8 of 8, 0 s left"


# --- The widgets -----------------------------------------------------------------------------------------------------
@pytest.fixture
def panel(parameters):
    return Panel(parameters, "motion_000")


def switch(panel, label, **strengths):
    for name, (box, controls) in panel.methods.items():
        box.value = name == label
        for setting, value in (strengths if name == label else {}).items():
            controls[setting].value = value


def test_the_panel_starts_with_the_sample_and_runs_it(panel, parameters):
    record, scene, event = benchmark_sample(parameters, "motion_000")
    assert panel.prompt.value == record["prompt"] and panel.event.value == "move"
    assert panel.subject.value == scene.objects[event.target].name and panel.direction.value == event.direction
    request = panel.request()
    assert request == benchmark_request(parameters, "motion_000", methods=parameters.methods["alignvid"])
    panel.button.click()
    assert not panel.message.value and not panel.button.disabled and not panel.progress.value
    strips, moving, answers, attention = panel.results.children
    assert bytes(strips.value[:4]) == bytes(attention.value[:4]) == b"\x89PNG"
    assert bytes(moving.value[:6]) == b"GIF89a" and record["questions"][0]["question"] in answers.value
    expected = run_pair(parameters, request)
    assert np.array_equal(panel.pair.videos, expected.videos)


def test_the_panel_follows_every_sample(panel, parameters):
    for name in ("addition_001", "deletion_001", "modification_001", "motion_001"):
        panel.source.value = name
        record, scene, event = benchmark_sample(parameters, name)
        assert panel.prompt.value == record["prompt"] and panel.event.value == event.kind and not panel.message.value
        assert panel.request().questions == record["questions"] and panel.request().scene == scene
        panel.event.value = "nothing"
        assert panel.prompt.value != record["prompt"] and panel.request().questions is None


def test_drawing_writes_the_prompt(panel):
    panel.source.value = playground.DRAWN
    panel.event.value, panel.subject.value, panel.colour.value = "recolour", "blue square", "cyan"
    assert not panel.message.value
    assert "red circle" in panel.prompt.value and panel.prompt.value.endswith("the blue square turns cyan.")
    before = panel.picture.value
    panel.shapes[0][2].value = 20
    assert panel.picture.value != before
    panel.count.value = 3
    assert "green triangle" in panel.prompt.value and "green" not in panel.colour.options
    assert panel.request() == Request(
        build_scene([("red", "circle", 20, 18), TWO[1], ("green", "triangle", 18, 48)], 0),
        panel.prompt.value,
        panel.request().methods,
    )


def test_errors_are_one_line_and_lose_nothing(panel, monkeypatch):
    switch(panel, None)
    panel.button.click()
    shown, pair = panel.results.children, panel.pair
    good = panel.prompt.value

    def refused(said):
        panel.button.click()
        text = panel.message.value
        assert said in text and "\n" not in text and "Traceback" not in text, text
        assert panel.results.children is shown and panel.pair is pair and not panel.button.disabled

    panel.prompt.value = "an <b>elephant</b> appears."
    refused("never saw the word &#x27;an&#x27;")
    panel.prompt.value = good
    switch(panel, "AlignVid", gamma=0.0)
    refused("AlignVid gamma must be a finite number above 0, not 0.0")
    switch(panel, "DyMoS")
    panel.backbone.value = "wan-t2v"
    refused("DyMoS needs a reference frame")
    panel.backbone.value = "gone"
    refused("no checkpoint at")
    panel.backbone.value = "cogvideox-i2v"
    switch(panel, "Focal Guidance")
    refused("FocalGuidance needs a trained `projection`")
    panel.backbone.value = "wan-i2v"
    switch(panel, None)
    panel.source.value = playground.DRAWN
    panel.shapes[1][2].value, panel.shapes[1][3].value = 20, 20
    assert "pixels apart" in panel.message.value
    refused("pixels apart")
    panel.shapes[1][0].value = "red"
    refused("two shapes are red")
    panel.source.value = "motion_000"
    assert not panel.message.value

    def fail(*_, **__):
        raise KeyError("something\nnobody thought of")

    monkeypatch.setattr(playground_panel, "run_pair", fail)
    refused("KeyError")
    monkeypatch.undo()
    panel.button.click()
    assert not panel.message.value and panel.pair is not pair
    assert np.array_equal(panel.pair.videos, pair.videos)


@pytest.mark.slow
def test_every_method_of_the_panel_runs(panel):
    for label, strengths in {"DyMoS": {"gamma": 2.0, "window": [0, 1.0]}, "low-pass guidance": {"factor": 0.1},
                             "Focal Guidance": {"latent": 3.0}, "AlignVid": {"gamma": 3.0, "window": "all"}}.items():  # fmt: skip
        switch(panel, label, **strengths)
        panel.button.click()
        assert not panel.message.value, panel.message.value
        settings = panel.pair.request.methods
        assert len(settings) == 1 and settings[0].items() >= strengths.items()
        assert not np.array_equal(*panel.pair.videos), label


# --- The notebook ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_notebook_runs_without_widgets_and_gives_the_same_bytes_twice(world, monkeypatch):
    """By the command, and in its own folder in a session of this process."""
    (world / "notebooks").mkdir()
    path = shutil.copy(ROOT / "notebooks/10_playground.ipynb", world / "notebooks")
    shutil.copy(ROOT / "matplotlibrc", world)
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "notebook", "10_playground"],
        cwd=world, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first = {p.name: p.read_bytes() for p in (world / "results/10_playground").iterdir()}
    book = nbformat.reads(text := first.pop("10_playground.ipynb").decode(), as_version=4)
    assert "jupyter.widget" not in text and "data:image/gif;base64," in text

    monkeypatch.chdir(world / "notebooks")
    shown = json.dumps(outputs_of(path, interactive=False, output=str(world / "again")), default=repr)
    second = {p.name: p.read_bytes() for p in (world / "again").iterdir()}
    assert second == first and len(first) == 5
    animations = re.findall(r"data:image/gif;base64,([\w+/=]+)", shown)
    assert animations and all(animation in text for animation in animations)
    pictures = sum("image/png" in str(c.outputs) for c in book.cells if "outputs" in c)
    assert "widgets" not in book.metadata and pictures == 4
