"""A scene, a prompt and methods, run twice on the same noise, unsteered and steered, and the pictures of both.

Scenes and questions come from analysis/scenes.py; analysis/playground_panel.py has the widgets of notebook 10.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from transformers.utils import logging as transformers_logging

from methods import steer
from methods.core.interception import replace_attribute
from methods.registry import from_dict
from testbed.oracle import Oracle
from testbed.world import SIZE, Scene

from ..report.plots import film_strips
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

    @property
    def verdict(self) -> str:
        """How many answers are right in both."""
        right = [int((self.answers[run] == self.answers["wanted"]).sum()) for run in RUNS]
        return f"{right[0]} of {len(self.answers)} answers right unsteered, {right[1]} steered"


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
    # As in analysis/cells.py: the same noise as in the sweeps.
    noise = int(np.frombuffer(hashlib.sha256(f"{request.name}/{request.seed}".encode()).digest()[:4], np.uint32)[0])
    cells = [
        Cell(request.backbone, weights, "", request.name, "", prompt, request.seed, noise, float(request.guidance_scale),
             0.0, "own", steering=steering, record=RECORD)
        for steering in ("", canonical(request.methods) if used else "")
    ]  # fmt: skip
    keys = [(cell, request.scene, backbone) for cell in cells]
    made = {k: v for k, v in (earlier.made if earlier else {}).items() if k in keys}
    todo = [k for k in dict.fromkeys(keys) if k not in made]
    with steps_counted(pipe, len(todo) * backbone.steps, say):
        made |= {key: make(*key) for key in todo}
    (plain, looked, _), (steered, looked_steered, notes) = (made[k] for k in keys)
    questions, why = (request.questions, "") if request.questions else questions_about(request.scene, prompt)
    answers = pd.DataFrame({"question": [q["question"] for q in questions]})
    answers["wanted"] = [q["expected_answer"] for q in questions]
    for run, video in zip(RUNS, (plain, steered), strict=True):
        oracle = Oracle()
        answers[run] = [oracle.answer(video, q["question"]).value for q in questions]
    attention = pd.concat([looked.assign(run=RUNS[0]), looked_steered.assign(run=RUNS[1])], ignore_index=True)
    notes = [n for n in (*notes, why, "" if used else "no method is on: both videos are the same") if n]
    return Pair(request, (plain, steered), answers, attention, notes, backbone.fps, made)


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


# --- Showing ---------------------------------------------------------------------------------------------------------
def film_strip(video: np.ndarray) -> np.ndarray:
    """Five frames of a video (T, H, W, 3), from the first to the last, side by side: (H, 5 W, 3)."""
    return np.concatenate(video[np.linspace(0, len(video) - 1, 5).round().astype(int)], axis=1)


def strips_figure(pair: Pair):
    """Film strips of both videos, the unsteered one above."""
    strips = np.stack([film_strip(video) for video in pair.videos])
    title = f"“{pair.request.prompt}”\n{pair.verdict}" if len(pair.answers) else f"“{pair.request.prompt}”"
    return film_strips({"start to end": strips}, list(RUNS), title)


def attention_figure(pair: Pair):
    """Shares of attention by token group in every block: unsteered, steered, and the change in percent points."""
    panels = list(pair.attention["panel"].unique())
    figure, axes = plt.subplots(len(panels), 3, figsize=(9.5, 2.1 * len(panels) + 0.5), squeeze=False)
    largest, what = 0.0, ""
    for line, panel in zip(axes, panels, strict=True):
        part = pair.attention[pair.attention["panel"] == panel]
        blocks, groups = part["block"].unique(), part["group"].unique()
        shares = part.pivot(index=["run", "block"], columns="group", values="share") * 100
        shown = [shares.loc[run].loc[blocks, groups] for run in RUNS]
        change = shown[1] - shown[0]
        block, group = change.abs().stack().idxmax()
        if abs(change.loc[block, group]) > abs(largest):
            largest, what = change.loc[block, group], f"{group} in {panel}, block {block}"
        for ax, table, title in zip(line, shown, RUNS, strict=False):
            bottom = table.cumsum(axis=1) - table
            for i, name in enumerate(groups):
                ax.bar(blocks, table[name], bottom=bottom[name], color=f"C{i}")
            ax.set(ylim=(0, 100), title=title if panel == panels[0] else "")
        for i, name in enumerate(groups):
            line[2].plot(blocks, change[name], "o-", color=f"C{i}", label=name)
        line[2].axhline(0, color="black", linewidth=0.8)
        line[2].set(ylabel="percent points", title="change" if panel == panels[0] else "")
        line[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        line[0].set_ylabel(f"{panel}\nshare in %")
    for ax in axes[-1]:
        ax.set_xlabel("block")
    text = f"Largest change: {what}, by {largest:+.1f} points" if what else "Both runs looked at the same"
    figure.suptitle(text, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure


def animation(pair: Pair, scale: int = 2) -> bytes:
    """Both videos side by side as a GIF that repeats, its last frame held; 64 colours keep it small."""
    side, header, canvases = SIZE * scale, 14, []
    for both in zip(*pair.videos, strict=True):
        canvas = Image.new("RGB", (2 * side + scale, side + header), "white")
        for i, frame in enumerate(both):
            canvas.paste(Image.fromarray(frame).resize((side, side), Image.NEAREST), (i * (side + scale), header))
            ImageDraw.Draw(canvas).text((i * (side + scale) + 2, 1), RUNS[i], fill="black")
        canvases.append(canvas)
    palette = Image.fromarray(np.concatenate([np.asarray(c) for c in canvases])).quantize(64)
    first, *rest = [c.quantize(palette=palette, dither=Image.Dither.NONE) for c in canvases]
    out = io.BytesIO()
    held = [1000 // pair.fps] * len(rest) + [1000]  # milliseconds
    first.save(out, "GIF", save_all=True, append_images=rest, duration=held, loop=0)
    return out.getvalue()
