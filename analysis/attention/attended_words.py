"""What each word of a prompt is attended from: the share of attention that video tokens pay to it, over the frames."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from methods import record
from testbed.benchmark import draw_benchmark

from ..study.cells import Cell
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters
from ..videos.generate import load_pipeline, sample_video
from ..videos.study_videos import study_cells, study_videos
from .keyword_anchors import localisation, object_mask


def _watch(
    cell: Cell, image: Path, backbone: Backbone, scenes: dict, drawn: tuple[str, ...]
) -> tuple[list[dict], list[pd.DataFrame]]:
    """(rows of the table of words, parts of the table of maps) of one sample."""
    with record(load_pipeline(backbone), entropy=False, groups=False, words=True) as recording:
        sample_video(replace(cell, steering="", record=""), backbone, image)
    picture, rows, parts = np.asarray(Image.open(image).convert("RGB")), [], []
    for thing in scenes[cell.sample].objects:
        for kind, word in (("colour", thing.colour), ("shape", thing.shape)):
            try:
                maps = recording.words(word).numpy()
            except KeyError:  # the prompt does not name it
                continue
            first, mask = maps[0], object_mask(picture, thing.colour, maps.shape[1])
            rows.append(
                {"sample": cell.sample, "word": word, "kind": kind, "auc": localisation(first, mask), "mass": first.mean()}
            )  # fmt: skip
            if cell.sample in drawn:
                frames, lines, columns = (x.ravel() for x in np.indices(maps.shape))
                place = {"frame": frames, "row": lines, "column": columns, "value": maps.ravel()}
                parts.append(pd.DataFrame({"sample": cell.sample, "word": word} | place))
    return rows, parts


def attended_words(
    parameters: Parameters, backbone: str, executor: Executor, *, samples: int, drawn: int, out: Path
) -> pd.DataFrame:
    """Write `<out>/words.csv` and `maps.csv` for the benchmark's first samples, unsteered.

    words: for every colour and shape of an object that the prompt names, how well the attention that the tokens of the first
    latent frame pay to the word points at the object (auc: 0.5 is chance), and its mean there (mass, a share of the softmax).
    maps: for the first `drawn` samples, the attention to each of these words in every latent frame. Both are means over
    heads, blocks and steps of the conditional branch.
    """
    first = tuple(cell.sample for cell, _ in study_cells(parameters, backbone, samples))
    scenes = {record["id"]: scene for record, scene, _ in draw_benchmark(parameters.benchmark.seed)}
    found = study_videos(
        parameters, backbone, samples, _watch, executor, "attended words", scenes=scenes, drawn=first[:drawn]
    )
    words = pd.DataFrame([row for rows, _ in found.values() for row in rows])
    maps = pd.concat([part for _, parts in found.values() for part in parts], ignore_index=True)
    write_table(words.round(5), out / "words.csv")
    write_table(maps, out / "maps.csv", "%.4g")
    return words
