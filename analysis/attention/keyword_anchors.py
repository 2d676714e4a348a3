"""What Focal Guidance works with: where a prompt's words are found in the reference image, and what its cache sees."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

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

from ..study.cells import Cell, expand
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters, Sweep
from ..study.progress import track
from ..videos.generate import load_pipeline, reference_files, sample_video


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

    def active(self, model, context, block, site) -> bool:
        """Never inside an attention module."""
        return False

    def edit_block(self, model, context, block, grid, hidden, encoder_hidden_states):
        """Note the maps of the tokens that enter a block."""
        if context.branch == "cond":
            found, self.grid = self.guidance.anchors(context.pipe), grid
            if found.words:
                values = self.guidance._text_values(context.pipe.transformer, block, found, encoder_hidden_states)
                self.maps[context.step, block.index] = keyword_maps(values, hidden)[0].cpu().numpy()
        return hidden


def _one(cell: Cell, image: Path, truth, draw: bool, *, backbone: Backbone, guidance: FocalGuidance):
    """(rows of localisation, rows of maps) of one sample."""
    pipe = load_pipeline(backbone)
    everything = replace(guidance, sign=1, select=-1.0)
    off = replace(guidance, text=0.0, latent=0.0, cache=0.0)
    seen = {}
    for state, method in (("plain", off), ("guided", guidance)):
        observer = CacheMaps(guidance)
        with attach(pipe, [method, observer]):
            sample_video(replace(cell, steering=""), backbone, image)
            words, found = everything.anchors(pipe), guidance.anchors(pipe)
        seen[state] = observer
        if not draw:
            break
    picture, side = np.asarray(Image.open(image).convert("RGB")), words.similarity.shape[-1]
    rows = []
    for thing in truth.objects:
        for kind, word in (("colour", thing.colour), ("shape", thing.shape)):
            if word in words.words:
                similar = words.similarity[words.words.index(word)].cpu().numpy()
                area = localisation(similar, object_mask(picture, thing.colour, side))
                rows.append({"sample": cell.sample, "word": word, "kind": kind, "auc": area})
    keywords = {"sample": cell.sample, "kind": "keywords", "word": " ".join(found.words), "auc": float("nan")}
    named = [word for word in found.words if word in {r["word"] for r in rows}]
    return [*rows, keywords], _maps(cell.sample, found, named or found.words[:4], seen) if draw else []


def _maps(sample: str, found, shown, seen: dict) -> list[pd.DataFrame]:
    parts = []
    for word in shown:
        k = found.words.index(word)
        for name, grid in (("similarity", found.similarity[k]), ("weight", found.weights[k])):
            parts.append(_grid(grid.cpu().numpy(), sample=sample, word=word, what=name, step="", block=""))
        for state, observer in seen.items():
            frames, rows, columns = observer.grid
            for (step, block), values in observer.maps.items():
                if step == max(s for s, _ in observer.maps) // 2:
                    grid = values[k].reshape(frames, rows, columns)[frames // 2]
                    parts.append(_grid(grid, sample=sample, word=word, what=f"cache, {state}", step=step, block=block))
    return parts


def _grid(values: np.ndarray, **labels) -> pd.DataFrame:
    rows, columns = np.indices(values.shape)
    return pd.DataFrame(labels | {"row": rows.ravel(), "column": columns.ravel(), "value": values.ravel()})


def focal_study(
    parameters: Parameters, backbone: str, method: str, executor: Executor, *, samples: int, drawn: int, out: Path
) -> pd.DataFrame:
    """Write `<out>/focal-words.csv` and `focal-maps.csv` for the benchmark's first samples under `methods.<method>`.

    words: per named colour and shape of an object that the reference shows, how well the plain similarity (sign 1) points
    at it (auc), and per sample the keywords that the method selects. maps: for the first `drawn` samples, similarity and
    region over the patches of each keyword that names an object, and Eq. 10's maps of the middle step and latent frame,
    unguided and guided.
    """
    guidance = next(m for m in map(from_dict, parameters.methods[method]) if isinstance(m, FocalGuidance))
    sweep = Sweep(backbone=backbone, samples=samples, seeds=[0], guidance_scale=[1.0])
    alone = parameters.model_copy(update={"sweeps": {"focal": sweep}})
    cells = expand(alone, "focal")
    images = reference_files(alone, "focal", cells)
    scenes = {record["id"]: scene for record, scene, _ in draw_benchmark(parameters.benchmark.seed)}
    one = partial(_one, backbone=parameters.backbones[backbone], guidance=guidance)
    truths, draws = [scenes[c.sample] for c in cells], [i < drawn for i in range(len(cells))]
    work = executor.map(one, cells, [images[c.key] for c in cells], truths, draws)
    found = list(track(work, len(cells), "focal study"))
    words = pd.DataFrame([row for rows, _ in found for row in rows])
    maps = pd.concat([part for _, parts in found for part in parts], ignore_index=True)
    for name, table in (("focal-words", words), ("focal-maps", maps)):
        write_table(table.round(4), out / f"{name}.csv")
    return words
