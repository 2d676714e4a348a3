"""What Focal Guidance works with: where a prompt's words are found in the reference image, and what its cache sees."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import rankdata

from methods import FocalGuidance
from methods.core.steer import attach
from methods.focal_guidance import keyword_maps
from methods.registry import from_dict
from testbed.benchmark import draw_benchmark
from testbed.world import COLOURS

from ..study.cells import Cell
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters
from ..videos.generate import load_pipeline, sample_video
from ..videos.study_videos import study_cells, study_videos


def object_mask(image: np.ndarray, colour: str, side: int) -> np.ndarray:
    """Patches, bool (side, side), at least half of whose pixels have a palette colour, of a uint8 image (H, W, 3)."""
    near = np.abs(image.astype(int) - np.array(COLOURS[colour])).sum(-1) < 60
    return cv2.resize(near.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) >= 0.5


def localisation(similar: np.ndarray, mask: np.ndarray) -> float:
    """Area under the curve: the chance that a patch on the object has a higher similarity than one beside it; 0.5 is
    none, and the opposite sign of the similarity gives 1 minus it. nan if the mask is empty or full."""
    on, ranks = mask.ravel(), rankdata(similar.ravel())
    inside, outside = int(on.sum()), int((~on).sum())
    if not inside or not outside:
        return float("nan")
    return float((ranks[on].sum() - inside * (inside + 1) / 2) / (inside * outside))


@dataclass
class CacheMaps:
    """Keeps, without changing anything, Eq. 10's map of each keyword in every block; put it after the guidance."""

    guidance: FocalGuidance
    maps: dict = field(default_factory=dict)  # (step, block) -> (K, L)
    grid: tuple = ()

    def check(self, model) -> None:
        """Nothing to refuse."""

    reads_block_input: ClassVar[bool] = True

    def active(self, model, context, block, site) -> bool:
        """In the text attention of every block."""
        return site == "text" and context.branch == "cond"

    def observe(self, call, out) -> None:
        """Note the maps of the tokens that enter the block."""
        pipe = call.context.pipe
        found, self.grid = self.guidance.anchors(pipe), call.layout.grid
        if found.words:
            values = self.guidance.values(pipe, call.value.device).text_values(call, found)
            entered = call.block_input.hidden_states
            self.maps[call.context.step, call.block.index] = keyword_maps(values, entered)[0].cpu().numpy()


def _watch(
    cell: Cell,
    image: Path,
    backbone: Backbone,
    guidance: FocalGuidance,
    scenes: dict,
    drawn: tuple[str, ...],
    outlined: tuple[str, ...],
) -> tuple[list[dict], list[pd.DataFrame]]:
    """(rows of the table of words, parts of the table of maps) of one sample. `scenes`: what each reference shows;
    `drawn`: the samples whose cache is kept, for which a guided video is made, too; `outlined`: those whose similarity and
    weights are."""
    pipe, draw = load_pipeline(backbone), cell.sample in drawn
    every_word = replace(guidance, sign=1, select=-1.0)
    off = replace(guidance, text=0.0, latent=0.0, cache=0.0)
    observers = {}
    for state, method in (("plain", off), ("guided", guidance))[: 2 if draw else 1]:
        observers[state] = observer = CacheMaps(guidance)
        with attach(pipe, [method, observer]):
            sample_video(replace(cell, steering=""), backbone, image)
            words, selected = every_word.anchors(pipe), guidance.anchors(pipe)
    picture, side = np.asarray(Image.open(image).convert("RGB")), words.similarity.shape[-1]
    rows = []
    for thing in scenes[cell.sample].objects:
        for kind, word in (("colour", thing.colour), ("shape", thing.shape)):
            if word in words.words:
                similarity = words.similarity[words.words.index(word)].cpu().numpy()
                mask = object_mask(picture, thing.colour, side)
                inside = float("nan")
                if word in selected.words and mask.any():
                    inside = float(selected.weights[selected.words.index(word)].cpu().numpy()[mask].sum())
                area = localisation(similarity, mask)
                rows.append({"sample": cell.sample, "word": word, "kind": kind, "auc": area, "inside": inside})
    named = {row["word"] for row in rows}
    keywords = {"sample": cell.sample, "word": " ".join(selected.words), "kind": "keywords"}
    rows.append(keywords | {"auc": float("nan"), "inside": float("nan")})
    shown = [word for word in selected.words if word in named] or selected.words[:4]
    if not (draw or cell.sample in outlined):
        return rows, []
    return rows, _keyword_maps(cell.sample, selected, shown, observers if draw else {})


def _keyword_maps(sample: str, selected, shown: list[str], observers: dict[str, CacheMaps]) -> list[pd.DataFrame]:
    """Maps of the words `shown`: similarity and region over the patches, and the cache's at the middle step and frame."""
    parts = []
    for word in shown:
        k = selected.words.index(word)
        for name, grid in (("similarity", selected.similarity[k]), ("weight", selected.weights[k])):
            parts.append(_as_rows(grid.cpu().numpy(), sample=sample, word=word, what=name, step="", block=""))
        for state, observer in observers.items():
            frames, rows, columns = observer.grid
            middle = max(step for step, _ in observer.maps) // 2
            for (step, block), values in observer.maps.items():
                if step == middle:
                    grid = values[k].reshape(frames, rows, columns)[frames // 2]
                    what = f"cache, {state}"
                    parts.append(_as_rows(grid, sample=sample, word=word, what=what, step=step, block=block))
    return parts


def _as_rows(values: np.ndarray, **labels) -> pd.DataFrame:
    rows, columns = np.indices(values.shape)
    return pd.DataFrame(labels | {"row": rows.ravel(), "column": columns.ravel(), "value": values.ravel()})


def focal_study(
    parameters: Parameters, backbone: str, method: str, executor: Executor, *, samples: int, drawn: int, out: Path,
    outlined: int = 8,
) -> pd.DataFrame:  # fmt: skip
    """Write `<out>/words.csv` and `maps.csv` for the benchmark's first samples under `methods.<method>`.

    words: per named colour and shape of an object that the reference shows, how well the plain similarity (sign 1) points
    at it (auc), which share of its anchor's weight lies on it (inside; none for a word that is no keyword), and per sample the
    keywords that the method selects. maps: for the first `outlined` samples, similarity and weight over the patches of each
    keyword that names an object; for the first `drawn` also Eq. 10's maps of the middle step and latent frame, unguided
    and guided.
    """
    first = tuple(cell.sample for cell, _ in study_cells(parameters, backbone, samples))
    found = study_videos(
        parameters, backbone, samples, _watch, executor, "keyword anchors",
        guidance=next(m for m in map(from_dict, parameters.methods[method]) if isinstance(m, FocalGuidance)),
        scenes={record["id"]: scene for record, scene, _ in draw_benchmark(parameters.benchmark.seed)},
        drawn=first[:drawn], outlined=first[:outlined],
    )  # fmt: skip
    words = pd.DataFrame([row for rows, _ in found.values() for row in rows])
    maps = pd.concat([part for _, parts in found.values() for part in parts], ignore_index=True)
    for name, table in (("words", words), ("maps", maps)):
        write_table(table.round(4), out / f"{name}.csv")
    return words
