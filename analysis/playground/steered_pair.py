"""A scene, a prompt and methods, run twice on the same noise, unsteered and steered: videos, answers, attention, outcomes."""

from __future__ import annotations

import functools
import hashlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from transformers.utils import logging as transformers_logging

from methods import steer
from methods.core.block_lists import choose_blocks
from methods.core.interception import replace_attribute
from methods.families import Model, describe
from methods.registry import from_dict
from testbed.benchmark import draw_benchmark
from testbed.oracle import Oracle
from testbed.world import SIZE, Scene

from ..study.cells import Cell
from ..study.parameters import Backbone, Parameters
from ..study.video_key import canonical, weights_hash
from ..videos.generate import load_pipeline, sample_video
from .scenes import benchmark_sample, check_prompt, questions_about, reference

DRAWN = "your own"  # the name of a scene that is not of the benchmark
RUNS = ("unsteered", "steered")
RECORD = canonical({"entropy": False, "groups": True, "norm": True, "queries": 16})
SITES = {"self": "self-attention", "text": "text attention", "joint": "joint attention"}
GROUPS = {"text": "words", "text_padding": "padding", "reference": "reference frame", "video": "other frames"}


@dataclass(frozen=True)
class Request:
    """What to run. `name` and `seed` choose the noise, as for the benchmark's samples; `questions` are those of the
    event that the prompt describes if not given."""

    scene: Scene
    prompt: str
    methods: list[dict] = field(default_factory=list)
    name: str = DRAWN
    backbone: str = "wan-i2v"
    guidance_scale: float = 1.0
    seed: int = 0
    questions: list[dict] | None = None


@dataclass(frozen=True)
class Pair:
    """Two videos (T, 64, 64, 3) uint8, the oracle's answers about both, and where both looked: a row per run, panel,
    block and token group, with `share` in [0, 1]. `made` holds what a later pair may reuse."""

    request: Request
    videos: tuple[np.ndarray, np.ndarray]
    answers: pd.DataFrame
    attention: pd.DataFrame
    notes: list[str]
    fps: int
    made: dict = field(repr=False)
    outcomes: tuple[str | None, str | None] = (None, None)  # of both videos, a key of film_strips.COLOURS
    acting: frozenset[int] = frozenset()  # blocks that the methods with a list of blocks act in

    @property
    def verdict(self) -> str:
        """How many answers are right in both."""
        right = [int((self.answers[run] == self.answers["wanted"]).sum()) for run in RUNS]
        return f"{right[0]} of {len(self.answers)} answers right unsteered, {right[1]} steered"

    @property
    def told(self) -> str:
        """What the oracle says in words: answers that steering mended or broke, and shapes that are lost at the end."""
        if self.answers.empty:
            return "Nothing was asked."
        right = {run: self.answers[run] == self.answers["wanted"] for run in RUNS}
        said = [f"The oracle finds {self.verdict}."]
        for words, chosen in (
            ("Steering mends", ~right[RUNS[0]] & right[RUNS[1]]), ("Steering breaks", right[RUNS[0]] & ~right[RUNS[1]])
        ):  # fmt: skip
            if chosen.any():
                changed = [
                    f"“{a['question']}” ({a[RUNS[0]]} → {a[RUNS[1]]})" for a in self.answers[chosen].to_dict("records")
                ]
                said.append(f"{words}: {'; '.join(changed)}.")
        for run in RUNS:
            shapes = self.answers["question"].str.extract(r"^Is there an? (.+) at the end(?: of the video)?\?$")[0]
            lost = shapes[shapes.notna() & (self.answers["wanted"] == "yes") & ~right[run]]
            if len(lost):
                said.append(
                    f"At the end of the {run} video the {' and the '.join(lost)} {'is' if len(lost) == 1 else 'are'} not found."
                )
        return " ".join(said)


# --- Running ---------------------------------------------------------------------------------------------------------
def benchmark_request(parameters: Parameters, name: str, method: str = "alignvid", **changes) -> Request:
    """A sample of the benchmark, with its own prompt and questions, under a method of params.yaml."""
    record, scene, _ = benchmark_sample(parameters, name)
    if method not in parameters.methods:
        raise ValueError(f"no method {method!r}; params.yaml has {', '.join(parameters.methods)}")
    given = dict(methods=parameters.methods[method], name=name, questions=record["questions"])
    return Request(scene, record["prompt"], **given | changes)


def run_pair(
    parameters: Parameters, request: Request, *, say: Callable[[str], None] | None = None, earlier: Pair | None = None
) -> Pair:
    """Make the video without and with the request's methods, on the same noise; what `earlier` has made is reused.

    say: told of the progress, if it takes more than 5 s; stderr if not given. Raises ValueError for what the request
    cannot have, before anything is made.
    """
    say = say or functools.partial(print, file=sys.stderr)
    prompt = " ".join(request.prompt.lower().split())
    check_prompt(prompt)
    if request.backbone not in backbones(parameters):
        raise ValueError(f"no backbone {request.backbone!r} of the world's size; there are {backbones(parameters)}")
    backbone = parameters.backbones[request.backbone]
    weights = weights_hash(request.backbone, backbone)
    used = [from_dict(settings) for settings in request.methods]
    say(f"loading {request.backbone}")
    transformers_logging.disable_progress_bar()  # in a notebook it would be a widget, with a new id in every run
    pipe = load_pipeline(backbone)
    with steer(pipe, *used):
        pass  # a method says here that the model cannot take it
    # As in analysis/study/cells.py: the same noise as in the sweeps.
    noise = int(np.frombuffer(hashlib.sha256(f"{request.name}/{request.seed}".encode()).digest()[:4], np.uint32)[0])
    cells = [
        Cell(request.backbone, weights, "", request.name, "", prompt, request.seed, noise, float(request.guidance_scale),
             0.0, "own", steering=steering, record=RECORD)
        for steering in ("", canonical(request.methods) if used else "")
    ]  # fmt: skip
    keys = [(cell, request.scene, canonical(backbone.model_dump())) for cell in cells]
    made = {k: v for k, v in (earlier.made if earlier else {}).items() if k in keys}
    todo = [k for k in dict.fromkeys(keys) if k not in made]
    with steps_counted(pipe, len(todo) * backbone.steps, say):
        made |= {key: make(key[0], request.scene, backbone) for key in todo}
    (plain, looked, _), (steered, looked_steered, notes) = (made[k] for k in keys)
    questions, why = (request.questions, "") if request.questions else questions_about(request.scene, prompt)
    answers = pd.DataFrame({"question": [q["question"] for q in questions]})
    answers["wanted"] = [q["expected_answer"] for q in questions]
    for run, video in zip(RUNS, (plain, steered), strict=True):
        oracle = Oracle()
        answers[run] = [oracle.answer(video, q["question"]).value for q in questions]
    attention = pd.concat([looked.assign(run=RUNS[0]), looked_steered.assign(run=RUNS[1])], ignore_index=True)
    notes = [n for n in (*notes, why, "" if used else "no method is on: both videos are the same") if n]
    marks = tuple(_outcome(request.scene, answers, run, len(plain)) for run in RUNS)
    acting = _acting_blocks(used, describe(pipe.transformer))
    return Pair(request, (plain, steered), answers, attention, notes, backbone.fps, made, marks, acting)


def _outcome(scene: Scene, answers: pd.DataFrame, run: str, frames: int) -> str | None:
    """What became of a video: followed, still copy (answered as one), or wrong; None if nothing was asked."""
    if answers.empty:
        return None
    if (answers[run] == answers["wanted"]).all():
        return "followed"
    copy, oracle = np.repeat(reference(scene)[None], frames, axis=0), Oracle()
    return (
        "still copy" if [oracle.answer(copy, q).value for q in answers["question"]] == list(answers[run]) else "wrong"
    )


def _acting_blocks(used: list, model: Model) -> frozenset[int]:
    """Positions of the blocks that the methods with a list of blocks act in; none if no method has one."""
    listed = [m.blocks if hasattr(m, "blocks") else m.weak for m in used if hasattr(m, "blocks") or hasattr(m, "weak")]
    return frozenset().union(*(choose_blocks(model, which) for which in listed))


def first_neglected(parameters: Parameters, backbone: str, count: int, limit: int = 40) -> list[str]:
    """The first `count` samples of the benchmark's order whose prompt the unsteered model does not follow. A rule, so that no
    demonstration is chosen by hand. Raises ValueError if there are not so many among the first `limit`."""
    found = []
    for record, _, _ in draw_benchmark(parameters.benchmark.seed)[:limit]:
        pair = run_pair(parameters, benchmark_request(parameters, record["id"], methods=[], backbone=backbone))
        if pair.outcomes[0] != "followed":
            found.append(record["id"])
        if len(found) == count:
            return found
    raise ValueError(
        f"{backbone} follows all but {len(found)} of the benchmark's first {limit} prompts; {count} are needed"
    )


def backbones(parameters: Parameters) -> list[str]:
    """The backbones that make videos of the world's size."""
    return [name for name, b in parameters.backbones.items() if (b.height, b.width) == (SIZE, SIZE)]


def make(cell: Cell, scene: Scene, backbone: Backbone) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """A video, its attention by token group, and what methods warned of."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        path = Path(folder) / "reference.png"
        Image.fromarray(reference(scene)).save(path)
        video, recording = sample_video(cell, backbone, path)
    notes = [str(w.message) for w in raised if Path(w.filename).parent.name == "methods"]
    return video, attention_by_group(recording.to_frame()), notes


@contextmanager
def steps_counted(pipe, total: int, say: Callable[[str], None]):
    """Tell `say` after every denoising step how many of `total` are done, if all will take more than 5 s."""
    began, done, original = time.monotonic(), 0, pipe.scheduler.step

    @functools.wraps(original)
    def step(*args, **kwargs):
        nonlocal done
        out, done = original(*args, **kwargs), done + 1
        each = (time.monotonic() - began) / done
        if each * total > 5:
            say(f"step {done} of {total}, {each * (total - done):.0f} s left")
        return out

    undo = replace_attribute(pipe.scheduler, "step", step)
    try:
        yield
    finally:
        undo()


def attention_by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Columns panel, block, group, share from a recording: means over heads, steps and the conditional branch's queries
    in frames other than the reference's. Wan's text and image branch have a softmax each: their part of what
    cross-attention puts out is by the lengths of their outputs."""
    table = table[(table["branch"] == "cond") & (table["query_frame"] > 0)]
    mean = table.groupby(["site", "statistic", "key", "block"], sort=False, as_index=False)["value"].mean()
    mass = mean[(mean["statistic"] == "mass") & mean["site"].isin(SITES)]
    parts = [mass.assign(panel=mass["site"].map(SITES), group=mass["key"].replace(GROUPS), share=mass["value"])]
    lengths = mean[(mean["statistic"] == "norm") & mean["site"].isin(["text", "image"])]
    lengths = lengths.sort_values("site", ascending=False, kind="stable")  # text first
    if lengths["site"].nunique() == 2:
        share = lengths["value"] / lengths.groupby("block")["value"].transform("sum")
        named = lengths["site"].map({"text": "text branch", "image": "image tokens"})
        parts.append(lengths.assign(panel="cross-attention output", group=named, share=share))
    return pd.concat(parts, ignore_index=True)[["panel", "block", "group", "share"]]
