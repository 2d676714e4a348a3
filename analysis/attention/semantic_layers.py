"""How strongly each layer responds to the words of the prompt: Focal Guidance, section 3.2 and Figures 1 and 2.

Two numbers of the similarity map between the video tokens and a word: Moran's I (Eqs. 3 and 4), high where neighbouring
tokens have similar values, and the standard deviation (Eq. 5), high where the map is uneven. The paper calls the layers
with low Moran's I semantically weak. The maps are taken in two spaces:

    hidden      cosine of a block's output with the embedded text, z_t^l and c_text in the paper
    attention   mean over heads of q.k / sqrt(d) between video queries and text keys, as the model itself compares them

The embedded text is what enters the first block: the output of Wan's text embedder, of the text projection in CogVideoX's
patch embedding, or of HunyuanVideo's token refiner, whose blocks go on to change it. The block's output was never trained to
lie near the text features, so the first space is a convention, the second is what acts: in Wan the logits of the text
cross-attention, in the others those of the joint attention, where rotary positions turn the video queries and leave the text
keys.

Words that name nothing ("a", "then") are measured beside the keywords: a map that is as coherent for them says more about
the layer than about the word.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from methods.core.attention_call import AttentionCall
from methods.core.steer import attach
from methods.families import COGVIDEOX, HUNYUAN, WAN, block_modules
from testbed.world import COLOURS, SHAPES

from ..study.cells import Cell
from ..study.files import write_table
from ..study.parameters import Backbone, Parameters
from ..videos.generate import load_pipeline, sample_video
from ..videos.study_videos import study_cells, study_videos
from .morans_i import morans_i

SPACES = ("hidden", "attention")
MAP_SAMPLES, MAP_FRAME = 2, 2  # which maps are kept to be looked at, of the last step


def normalised(maps: np.ndarray) -> np.ndarray:
    """`maps` (..., F, H, W) scaled to 0..1 over frames, rows and columns, float64; nan where a map is constant."""
    x = np.asarray(maps, float)
    low, high = x.min((-3, -2, -1), keepdims=True), x.max((-3, -2, -1), keepdims=True)
    return (x - low) / np.where(high > low, high - low, np.nan)


def word_positions(tokenizer, prompt: str) -> dict[str, list[int]]:
    """The prompt's words, in order of appearance, with the positions of their tokens (a word may occur twice)."""
    words: dict[str, list[int]] = {}
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    for position, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        word = token.removeprefix("▁")
        if word.isalpha():  # no full stop
            words.setdefault(word, []).append(position)
    return words


def is_keyword(word: str) -> bool:
    """Whether a word of the testbed's captions names a colour or a shape."""
    return word in COLOURS or word in SHAPES


@dataclass
class WordMaps:
    """An observer of the attention to text (see methods/core/method_protocol.py) that keeps the similarity maps of some words.

    positions: token positions of each word; a word with several has the mean of their maps.
    maps: (space, step, block) -> (words, F, H, W) float64.
    """

    positions: list[list[int]]
    maps: dict[tuple[str, int, int], np.ndarray] = field(default_factory=dict)
    _text: torch.Tensor | None = field(default=None, repr=False)  # embedded text (1, L, C)
    _step: int = field(default=-1, repr=False)
    _before: int = field(default=0, repr=False)  # tokens of an image encoder, before the words
    _grid: tuple[int, int, int] = field(default=(0, 0, 0), repr=False)

    def check(self, model) -> None:
        """Raise ValueError for a model whose text tokens are not those of its tokenizer, in the same order."""
        if model.family not in (WAN, COGVIDEOX, HUNYUAN):
            raise ValueError(f"similarity maps are read from {WAN}, {COGVIDEOX} and {HUNYUAN}, not from {model.family}")

    def active(self, model, context, block, site: str) -> bool:
        """In the text cross-attention or joint attention of every block."""
        return site in ("text", "joint")

    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Keep q.k / sqrt(d), mean over heads, of the calling block. Raises ValueError for more than one sample, and for
        a word beyond the model's text tokens."""
        if call.query.shape[0] != 1 or call.context.branch == "uncond":
            raise ValueError("similarity maps are recorded for one sample without guidance")
        query, text = call.query[:, :, call.queries.video], call.keys.where("text", "text_padding")[0]
        key, last = call.key[:, :, text], max(p for positions in self.positions for p in positions)
        if last >= key.shape[2]:
            raise ValueError(f"the prompt has a word at token {last}; the model gets {key.shape[2]} text tokens")
        self._step, self._grid = call.context.step, call.layout.grid
        self._before = int(call.keys.where("image").sum())
        self._store("attention", call.block.index, lambda p: (query @ key[:, :, p].mT * call.scale).mean(1))

    def text_hook(self, module, inputs, output: torch.Tensor) -> None:
        """Forward hook on the text embedder."""
        self._text = output

    def block_hook(self, block: int, module, inputs, output: torch.Tensor | tuple) -> None:
        """Forward hook on a block; it runs after the block's attention has told the step. Blocks with joint attention return
        the video tokens and the text tokens."""
        video, text = output[0] if isinstance(output, tuple) else output, self._text[:, self._before :]
        self._store("hidden", block, lambda p: F.cosine_similarity(video[:, :, None], text[:, None, p], dim=-1))

    def _store(self, space, block, similarity) -> None:
        """`similarity(positions)` is (1, tokens, positions)."""
        values = torch.stack([similarity(p)[0].double().mean(-1) for p in self.positions])
        self.maps[space, self._step, block] = values.unflatten(1, self._grid).cpu().numpy()


def _hooked(transformer) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """The module whose output is the text as it enters the first block, and the blocks."""
    embedder = {
        WAN: lambda: transformer.condition_embedder.text_embedder,
        COGVIDEOX: lambda: transformer.patch_embed.text_proj,
        HUNYUAN: lambda: transformer.context_embedder,
    }[type(transformer).__name__]
    return embedder(), [module for _, module in block_modules(transformer)]


@contextmanager
def record_maps(pipe, positions: list[list[int]]) -> Iterator[WordMaps]:
    """Record the similarity maps of the words at `positions` while the context is open; the hooks are gone after it."""
    recorder = WordMaps(positions)
    with attach(pipe, [recorder]):
        embedder, blocks = _hooked(pipe.transformer)
        handles = [embedder.register_forward_hook(recorder.text_hook)]
        handles += [b.register_forward_hook(partial(recorder.block_hook, i)) for i, b in enumerate(blocks)]
        try:
            yield recorder
        finally:
            for handle in handles:
                handle.remove()


def block_scores(recorder: WordMaps, words: list[str], sample: str) -> list[dict]:
    """Rows of Moran's I and standard deviation per (words, space, step, block): means over frames, then over words.

    `words` names the recorder's words; keywords and the others are averaged apart.
    """
    key = np.array([is_keyword(w) for w in words])
    rows = []
    for (space, step, block), maps in recorder.maps.items():
        coherence = morans_i(maps).mean(-1)
        spread = normalised(maps).std((-2, -1)).mean(-1)
        rows += [
            {"sample": sample, "words": kind, "space": space, "step": step, "block": block,
             "morans_i": coherence[chosen].mean(), "std": spread[chosen].mean()}
            for kind, chosen in (("keywords", key), ("others", ~key))
        ]  # fmt: skip
    return rows


def keyword_maps(recorder: WordMaps, words: list[str], sample: str) -> pd.DataFrame:
    """The normalised maps of the first and the last keyword in latent frame MAP_FRAME at the last step, one row a token."""
    keywords = [w for w in words if is_keyword(w)]
    parts, last = [], max(step for _, step, _ in recorder.maps)
    for (space, step, block), maps in recorder.maps.items():
        if step != last:
            continue
        for word in dict.fromkeys([keywords[0], keywords[-1]]):
            values = normalised(maps[words.index(word)])[MAP_FRAME]
            row, column = np.indices(values.shape)
            where = {"sample": sample, "word": word, "space": space, "step": step, "block": block}
            cells = {"row": row.ravel(), "column": column.ravel(), "value": values.ravel()}
            parts.append(pd.DataFrame(where | cells))
    return pd.concat(parts, ignore_index=True)


def record_video(cell: Cell, backbone: Backbone, image_path: Path) -> tuple[WordMaps, list[str]]:
    """Make a cell's video; the maps of all words of its prompt, and the words."""
    pipe = load_pipeline(backbone)
    words = word_positions(pipe.tokenizer, cell.prompt)
    with record_maps(pipe, list(words.values())) as recorder:
        sample_video(cell, backbone, image_path)
    return recorder, list(words)


def _measure(cell: Cell, image: Path, backbone: Backbone, drawn: tuple[str, ...]):
    """(rows of scores, maps or None) of one video; `drawn` names the samples whose maps are kept."""
    recorder, words = record_video(cell, backbone, image)
    kept = keyword_maps(recorder, words, cell.sample) if cell.sample in drawn else None
    return block_scores(recorder, words, cell.sample), kept


def semantic_layers(
    parameters: Parameters, backbone: str, executor: Executor, *, samples: int, out: Path
) -> pd.DataFrame:
    """Record the first `samples` benchmark samples; returns the scores and writes two tables into the folder `out`.

    layers.csv: sample, words ("keywords" or "others"), space, step, block, morans_i, std.
    maps.csv: sample, word, space, step, block, row, column, value (0..1) for the first MAP_SAMPLES.
    Raises ValueError for more samples than the benchmark has.
    """
    drawn = tuple(cell.sample for cell, _ in study_cells(parameters, backbone, min(samples, MAP_SAMPLES)))
    found = study_videos(parameters, backbone, samples, _measure, executor, "semantic layers", drawn=drawn)
    scores = pd.DataFrame([row for rows, _ in found.values() for row in rows]).round(4)
    maps = pd.concat([m for _, m in found.values() if m is not None], ignore_index=True).round(4)
    for name, table in (("layers", scores), ("maps", maps)):
        write_table(table, out / f"{name}.csv")
    return scores


def weak_layers(scores: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """The weak layers: blocks whose Moran's I lies below the midpoint of the lowest and the highest block.

    `scores` has sample, block and morans_i (rows of one space and kind of words; steps are averaged). Returns one row a
    block: block, morans_i (mean over samples), weak (bool), share (of `resamples` bootstrap resamples of the samples in
    which the rule picks the block). The midpoint is ours: the paper takes layers 11 to 26 of Wan's 40 and states no
    threshold. Raises ValueError if a sample lacks a value for a block.
    """
    table = scores.groupby(["sample", "block"])["morans_i"].mean().unstack()
    values = table.to_numpy()
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} samples and blocks have no Moran's I")
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    means = np.concatenate([values.mean(0)[None], values[draws].mean(1)])
    weak = means < (means.min(1, keepdims=True) + means.max(1, keepdims=True)) / 2
    return pd.DataFrame(
        {"block": table.columns, "morans_i": means[0], "weak": weak[0], "share": weak[1:].mean(0)}
    ).reset_index(drop=True)
