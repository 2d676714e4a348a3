"""A study of photographs in a folder of its own: parameters, a benchmark in OmitI2V's format, and videos without a model."""

from __future__ import annotations

import json
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.study.parameters import Parameters
from analysis.videos import run_cell as worker

QUESTIONS = [{"id": "q", "question": "Is it there?", "expected_answer": "yes", "category": "visible"}]


def write_benchmark(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """A benchmark with a photograph of noise per size (width, height)."""
    (folder / "images").mkdir(parents=True)
    samples, kinds = [], ("modification", "addition", "deletion")
    for i, size in enumerate(sizes):
        noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{i}.png")
        samples.append({"id": f"sample_{i}", "prompt": f"a cat dances {i}", "image-path": f"images/{i}.png", "domain": "real",
                        "main-category": kinds[i % 3], "sub-category": f"{kinds[i % 3]}-x", "questions": QUESTIONS})  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(samples))


def parameters(sizes=((48, 32),) * 6, *, checkpoint: str = "model", **backbone) -> Parameters:
    """Parameters of the sweep `real` in the current folder: one cell per photograph, on a checkpoint that has an index only."""
    if not Path("photos").exists():
        write_benchmark(Path("photos"), list(sizes))
    if checkpoint == "model":
        Path("model").mkdir(exist_ok=True)
        Path("model/model_index.json").write_text("{}")
    settings = {"checkpoint": checkpoint, "pipeline": "WanImageToVideoPipeline", "dtype": "float32", "height": 32, "width": 48,
                "frames": 5, "fps": 8, "steps": 2, "negative_prompt": ""} | backbone  # fmt: skip
    return Parameters.model_validate({
        "benchmark": {"folder": "photos"}, "backbones": {"tiny-i2v": settings}, "methods": {"none": []},
        "sweeps": {"real": {"backbone": "tiny-i2v", "samples": len(sizes), "seeds": [0], "guidance_scale": [1.0]}},
        "testbed": {}, "notebooks": {},
    })  # fmt: skip


def without_a_model(monkeypatch, failing=lambda cell: None) -> list[str]:
    """Let videos be noise of the cell's seed; `failing(cell)` may raise. The samples that were made, in order."""
    made = []

    def sample(cell, backbone, reference):
        failing(cell)
        made.append(cell.sample)
        width, height = (backbone.width, backbone.height) if reference is None else reference.image.size
        shape = (backbone.frames, height, width, 3)
        return np.random.default_rng(cell.noise).integers(0, 256, shape, dtype=np.uint8), None

    monkeypatch.setattr(worker, "load_pipeline", lambda backbone: None)
    monkeypatch.setattr(worker, "sample_fitted", sample)
    return made


class Here(Executor):
    """Does a task when it is submitted, in this process."""

    def submit(self, function, /, *args, **kwargs) -> Future:
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Lazily(Executor):
    """Does a task when its result is asked for, as a queue would that is worked off by one worker; counts those done."""

    done = 0

    def submit(self, function, /, *args, **kwargs) -> Future:
        outer = self

        class Later(Future):
            def result(self, timeout=None):
                outer.done += 1
                return function(*args, **kwargs)

        future = Later()
        future.set_result(None)
        return future
