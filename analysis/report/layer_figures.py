"""Figures and verdicts of the study of layers: how coherent the maps of words are in each block."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from testbed.world import COLOURS

from ..attention.keyword_anchors import object_mask
from ..attention.semantic_layers import SPACES, weak_layers
from ..study.significance import mean_and_p, paired_difference
from . import labels, plots
from .findings import decided, effect, interval, number
from .token_outlines import outline

MEASURES = {"morans_i": "Moran's I", "std": "standard deviation"}
TOKENS = 64  # of a latent frame of the testbed
KINDS = {"keywords": "keywords", "others": "other words"}


def _panels(scores: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(backbone, space) -> its rows."""
    return {(b, s): scores[(scores["backbone"] == b) & (scores["space"] == s)]
            for b in scores["backbone"].unique() for s in SPACES}  # fmt: skip


def _name(case: tuple[str, str], part: pd.DataFrame) -> str:
    return f"{labels.backbone(case[0])}, {case[1]}\nn = {part['sample'].nunique()}"


def over_steps(scores: pd.DataFrame):
    """Mean of both measures over steps (x) and blocks (y), a column per backbone and space; one scale per measure."""
    cases = _panels(scores[scores["words"] == "keywords"])
    figure, axes = plt.subplots(2, len(cases), figsize=(2.9 * len(cases) + 1, 5.6), sharex=True, sharey=True)
    for line, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        grids = {case: part.groupby(["block", "step"])[measure].mean().unstack() for case, part in cases.items()}
        low, high = min(g.min().min() for g in grids.values()), max(g.max().max() for g in grids.values())
        for ax, (case, grid) in zip(line, grids.items(), strict=True):
            image = ax.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high)
            ax.grid(False)
            if measure == "morans_i":
                ax.set_title(_name(case, cases[case]), fontsize=9)
            else:
                ax.set_xlabel("denoising step")
        line[0].set_ylabel("block")
        figure.colorbar(image, ax=line, label=label)
    figure.suptitle(
        "How coherent (top) and uneven (bottom) the maps of keywords are", fontweight="bold", x=0.01, ha="left"
    )
    return figure


def profile(scores: pd.DataFrame):
    """Both measures per block with intervals over prompts, for keywords and other words; one scale per measure."""
    cases = _panels(scores)
    figure, axes = plt.subplots(2, len(cases), figsize=(3.1 * len(cases) + 0.6, 5.4), sharey="row", sharex=True)
    for line, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for ax, (case, part) in zip(line, cases.items(), strict=True):
            for i, (kind, words) in enumerate(KINDS.items()):
                mean = plots.summarise(part[part["words"] == kind], ["block"], measure)
                plots.intervals(ax, mean["block"] + 0.1 * (2 * i - 1), mean, label=words, percent=False, fmt="o-")
            if measure == "morans_i":
                ax.set_title(_name(case, part), fontsize=9)
                ax.axhline(-1 / (TOKENS - 1), color="black", ls=":", lw=1, label="expected of noise")
            else:
                ax.set_xlabel("block")
        line[0].set_ylabel(label)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("Coherence and unevenness of the maps, per block", fontweight="bold", x=0.01, ha="left")
    return figure


def agreement_of_measures(scores: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """(backbone, space) -> rank correlation over blocks of the two measures: mean over prompts, low, high, n, p."""
    found = {}
    for case, part in _panels(scores[scores["words"] == "keywords"]).items():
        means = part.groupby(["sample", "block"])[list(MEASURES)].mean()
        ranks = means.groupby("sample").rank()
        rho = ranks.groupby("sample").apply(lambda d: d["morans_i"].corr(d["std"]))
        found[case] = mean_and_p(rho, rho.index)
    return found


def agreement(scores: pd.DataFrame):
    """Blocks by both measures, a panel per backbone and space, with the rank correlation over blocks."""
    cases, rho = _panels(scores[scores["words"] == "keywords"]), agreement_of_measures(scores)
    figure, axes = plt.subplots(1, len(cases), figsize=(2.9 * len(cases) + 0.6, 3.1), sharex=True, sharey=True)
    for ax, (case, part) in zip(axes, cases.items(), strict=True):
        mean = part.groupby("block")[list(MEASURES)].mean()
        ax.plot(mean["morans_i"], mean["std"], "o")
        for block, row in mean.iterrows():
            ax.annotate(
                f"{block}", (row["morans_i"], row["std"]), xytext=(4, 3), textcoords="offset points", fontsize=8
            )
        value, low, high = (rho[case][k] for k in ("mean", "low", "high"))
        ax.set(xlabel="Moran's I", title=f"{_name(case, part)}\nρ {number(value, 2)} ({interval(low, high, 2)})")
        ax.title.set_size(9)
        ax._left_title.set_size(9)
    axes[0].set_ylabel("standard deviation")
    figure.suptitle(
        "Blocks by both measures: two views of one thing would rise together", fontweight="bold", x=0.01, ha="left"
    )
    return figure


def shown_words(maps: pd.DataFrame) -> list[tuple[str, str]]:
    """(sample, word) to draw: every word once, of the first sample that has it."""
    found = {}
    for sample, word in maps[["sample", "word"]].drop_duplicates().itertuples(index=False):
        found.setdefault(word, sample)
    return [(sample, word) for word, sample in found.items()]


def word_maps(maps: pd.DataFrame, backbone: str, images: Path):
    """Maps of words in every block at the last step kept: rows are words and spaces, columns the reference and the blocks.

    maps: rows of one backbone (sample, word, space, step, block, row, column, value). A word for a colour that the
    reference shows is outlined there and in the maps.
    """
    maps = maps[maps["step"] == maps["step"].max()]
    words, blocks = shown_words(maps), sorted(maps["block"].unique())
    rows = [(space, *word) for space in SPACES for word in words]
    figure, axes = plt.subplots(len(rows), 1 + len(blocks), figsize=(1.0 * len(blocks) + 2.4, 1.02 * len(rows) + 0.7))
    for line, (space, sample, word) in zip(axes, rows, strict=True):
        picture = np.asarray(Image.open(images / f"{sample}.png").convert("RGB"))
        own = maps[(maps["sample"] == sample) & (maps["word"] == word) & (maps["space"] == space)]
        grids = [own[own["block"] == b].pivot(index="row", columns="column", values="value") for b in blocks]
        side = len(grids[0])
        named = object_mask(picture, word, side) if word in COLOURS else np.zeros((side, side), bool)
        line[0].imshow(picture, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
        for ax, grid in zip(line[1:], grids, strict=True):
            image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=1)
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            outline(ax, named)
        line[0].set_ylabel(f'"{word}"\n{space}', rotation=0, ha="right", va="center", fontsize=8)
    for ax, name in zip(axes[0], ["reference", *(f"block {b}" for b in blocks)], strict=True):
        ax.set_title(name, fontsize=8, fontweight="normal")
    figure.colorbar(image, ax=axes, label="similarity, scaled to 0..1 per word and block", shrink=0.4)
    figure.suptitle(
        f"{labels.backbone(backbone)}: where each block finds a word, last step", fontweight="bold", x=0.01, ha="left"
    )
    return figure


def weak_table(scores: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """A row per backbone, space and block: both measures with intervals, n, whether the block is weak, and the share of
    resamples in which it is."""
    rows = []
    for (backbone, space), part in _panels(scores[scores["words"] == "keywords"]).items():
        coherence, spread = (plots.summarise(part, ["block"], m).set_index("block") for m in MEASURES)
        both = coherence.drop(columns="n").add_prefix("Moran's I ").join(spread.add_prefix("std "))
        weak = weak_layers(part, resamples).set_index("block")[["weak", "share"]]
        rows.append(both.join(weak).rename(columns={"std n": "n"}).reset_index().assign(backbone=backbone, space=space))
    return pd.concat(rows).set_index(["backbone", "space", "block"]).reset_index()


def weak_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """A row per backbone and space of `weak_table`: the weak blocks, and those that more than one resample in twenty leaves
    open."""
    rows = []
    for (backbone, space), part in table.groupby(["backbone", "space"], sort=False):
        lists = part.loc[part["weak"], "block"], part.loc[part["share"].between(0.05, 0.95), "block"]
        weak, unsettled = (", ".join(map(str, x)) or "none" for x in lists)
        rows.append(
            {"backbone": labels.backbone(backbone), "space": space, "weak blocks": weak, "unsettled": unsettled}
        )
    return pd.DataFrame(rows)


def verdicts(scores: pd.DataFrame) -> pd.DataFrame:
    """Claims of section 3.2 and this study's control, for findings.verdict_table; also space, low and high."""
    rows, rho = [], agreement_of_measures(scores)
    for case, part in _panels(scores).items():
        keywords = part[part["words"] == "keywords"]
        first, middle, last = np.array_split(sorted(keywords["block"].unique()), 3)
        of = {name: keywords[keywords["block"].isin(b)] for name, b in (("f", first), ("m", middle), ("l", last))}
        compared = {
            "the middle third is below the first third (Fig. 2)": (of["m"], of["f"], -1),
            "the middle third is below the last third (Fig. 2)": (of["m"], of["l"], -1),
            "control: keywords are above other words": (keywords, part[part["words"] == "others"], 1),
        }
        where = {"backbone": labels.backbone(case[0]), "space": case[1]}
        for claim, (a, b, sign) in compared.items():
            pair = (x.assign(seed=0).groupby(["sample", "seed"], as_index=False)["morans_i"].mean() for x in (a, b))
            d = paired_difference(*pair, "morans_i")
            words = effect(d["difference"], d["low"], d["high"], "of Moran's I", digits=3)
            tested = {k: d[k] for k in ("n", "low", "high", "p")}
            rows.append(where | {"claim": f"{case[1]}: {claim}", "effect": words, "sign": sign} | tested)
        value, low, high = (rho[case][k] for k in ("mean", "low", "high"))
        words = f"ρ {number(value, 2)} ({interval(low, high, 2)})"
        tested = {k: rho[case][k] for k in ("n", "low", "high", "p")}
        rows.append(where | {"claim": f"{case[1]}: both measures agree over blocks (Fig. 2)", "effect": words} | tested)
        rows[-1]["sign"] = 1
    return decided(rows, "backbone")


def found(table: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Sentences: the weak blocks by attention, whether a band in the middle shows, and what the control says."""
    sentences = []
    for _, row in weak_blocks(table).iterrows():
        mine = rows[(rows["backbone"] == row["backbone"]) & (rows["space"] == row["space"])]
        middle = mine[mine["claim"].str.contains("middle third")]
        band = "shows" if (middle["verdict"] == "supported").all() else "does not show"
        control = mine[mine["claim"].str.contains("control")].iloc[0]
        sentences.append(
            f"**{row['backbone']}, {row['space']} space**: weak blocks {row['weak blocks']}; the paper's weak middle {band}; "
            f"keywords against other words: {control['effect']}, {control['verdict']}."
        )
    return sentences
