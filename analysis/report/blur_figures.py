"""Notebook 02: the figures of the blurred references."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from methods.blur import blur_image

from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.video_files import load_reference
from . import film_strips, labels, plots
from .blur_study import ADHERENCE, CONDITIONS, FIDELITY, FLOW, MOVED_ASKED, REFERENCE, WORDS, Blurred
from .score_tables import study_table, sweep_table
from .step_block_figure import relative_change, step_block_figure

PANELS = (ADHERENCE, MOVED_ASKED, FLOW, "sharpness retention", FIDELITY)
COMPLEMENTS = ("padding in text attention", "other frames in self-attention")  # 1 minus another measure


def reference(parameters: Parameters, sample: str, sigma: float) -> np.ndarray:
    """A sample's reference (H, W, 3), uint8, blurred as the pipeline blurs it."""
    picture = load_reference(parameters.benchmark.folder / "images" / f"{sample}.png")
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()
    return blur_image(pixels, sigma).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def changes_figure(changes: pd.DataFrame):
    """PANELS against the blur level: paired changes with intervals, both backbones in each panel."""
    backbones = list(changes["backbone"].unique())
    levels = sorted(changes["blur sigma (px)"].unique())
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 3.3))
    for ax, measure in zip(axes, PANELS, strict=True):
        counts = []
        for i, b in enumerate(backbones):
            own = changes[(changes["backbone"] == b) & (changes["measure"] == measure)]
            x = np.arange(len(levels)) + 0.12 * (i - (len(backbones) - 1) / 2)
            bars = np.abs(own[["low", "high"]].to_numpy().T - own["difference"].to_numpy())
            ax.errorbar(x, own["difference"], bars, fmt="o", capsize=3, color=f"C{i}", label=labels.backbone(b))
            counts.append(str(own["n"].iloc[0]))
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(levels)), [f"{v:g}" for v in levels])
        ax.set(xlabel="blur σ (px)", xlim=(-0.5, len(levels) - 0.5))
        ax.set_title(f"{measure.replace(', ', ',' + chr(10))}\nn = {' and '.join(counts)}", fontsize=9)
    axes[0].set_ylabel("change against the clean reference")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside lower right")
    title = "What blurring the reference changes, same prompts and noise: zero is no effect"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def events_figure(studies: dict[str, Blurred]):
    """Share of prompts followed against the blur level, a line per event, a panel per backbone."""
    figure, axes = plt.subplots(1, len(studies), figsize=(6 * len(studies), 3.5), sharey=True, squeeze=False)
    for ax, (b, own) in zip(axes[0], studies.items(), strict=True):
        table = plots.summarise(own.scores, ["main_category", "blur"], "adherence").set_index("main_category")
        lines = {f"{words} (n = {table.loc[k, 'n'].max()})": table.loc[k] for k, words in labels.EVENTS.items()}
        plots.by_level(ax, lines, own.levels)
        ax.set(ylim=(0, 100), xlabel="blur σ (px)", title=labels.backbone(b))
        ax.legend(ncols=2, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    axes[0, 0].set_ylabel("followed (%)")
    figure.suptitle("Adherence per event against blur", x=0.01, ha="left", fontweight="bold")
    return figure


def strips_figure(parameters: Parameters, backbone: str, count: int):
    """The reference that the model was given, then its video, for the small run's first `count` samples at every level."""
    sharp, soft = (sweeps_by_backbone(parameters, s)[backbone] for s in ("baseline", "blur"))
    scores = {s: sweep_table(parameters, s, results="results") for s in (sharp, soft)}
    samples, rows, sigmas = list(scores[soft]["sample"].unique()[:count]), {}, {}
    for sigma, sweep in [(0.0, sharp), *((v, soft) for v in sorted(scores[soft]["blur"].unique()))]:
        films, words = plots.load_strips(sweep, blur=sigma), f"σ {sigma:g} px" if sigma else "clean"
        own = scores[sweep][scores[sweep]["blur"] == sigma].head(len(films))
        rows[words], sigmas[words] = (films, own), sigma
    strips, marks = film_strips.by_setting(rows, samples, parameters.benchmark.seed)
    given = [reference(parameters, sample, sigmas[words]) for words in rows for sample in samples]
    strips = {key: np.concatenate([g, film], axis=1) for g, (key, film) in zip(given, strips.items(), strict=True)}
    title = f"{labels.backbone(backbone)}: the reference as given, and the video made from it"
    return film_strips.film_figure(strips, marks, title, ["given", 0, 8, 16])


def attention_figure(ratios: pd.DataFrame):
    """Attention under the most blurred reference over that under the clean one, a panel per backbone."""
    own = ratios[~ratios["measure"].isin(COMPLEMENTS)]
    return plots.ratio_forests(own, "blurred / clean", "Attention under blur: right of the line is more")


def where_figure(studies: dict[str, Blurred]):
    """Change of attention to text and reference, and of the entropy over the conditions, per step and block."""
    changes = {}
    for b, own in studies.items():
        clean, blurred = own.ends(own.steps)
        names = [n for pair in (WORDS, REFERENCE, CONDITIONS) for n in pair if n in own.steps]
        changes[b] = {name: relative_change(clean, blurred, name) for name in names}
    counts = {b: own.cells["sample"].nunique() for b, own in studies.items()}
    return step_block_figure(changes, counts, "Where blur changes attention: red is more, blue is less")


def maps_figure(parameters: Parameters, backbone: str, count: int):
    """Share of attention on the words per video token, for the small run's first `count` samples: with the clean
    reference, and what blur changes, beside the references themselves."""
    table = study_table("token-maps", backbone, "attention-blur")
    samples, strong = list(table["sample"].unique()[:count]), table["blur"].max()
    grids = {
        key: part.pivot(index="row", columns="column", values="words").to_numpy()
        for key, part in table[table["sample"].isin(samples)].groupby(["sample", "blur", "frame"])
    }
    frames = sorted(table["frame"].unique())
    clean = {(s, f): 100 * grids[s, 0.0, f] for s in samples for f in frames}
    change = {(s, f): 100 * grids[s, strong, f] - clean[s, f] for s in samples for f in frames}
    low, high = (pick(m.min() if pick is min else m.max() for m in clean.values()) for pick in (min, max))
    limit = max(abs(m).max() for m in change.values())
    size = (1.25 * (len(frames) + 1) + 2, 1.2 * 2 * len(samples) + 0.7)
    figure, axes = plt.subplots(2 * len(samples), 1 + len(frames), figsize=size, squeeze=False)
    for i, sample in enumerate(samples):
        for line, sigma, maps in ((axes[2 * i], 0.0, clean), (axes[2 * i + 1], strong, change)):
            line[0].imshow(reference(parameters, sample, sigma), interpolation="lanczos")
            style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if sigma else {"vmin": low, "vmax": high}
            for ax, frame in zip(line[1:], frames, strict=True):
                picture = ax.imshow(maps[sample, frame], **{"cmap": "cividis"} | style)
            words = f"σ {sigma:g} px minus clean" if sigma else "clean"
            line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)
            label = "points" if sigma else "on words (%)"
            figure.colorbar(picture, ax=line, label=label, shrink=0.9)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    for ax, words in zip(axes[0], ["reference", *(f"latent frame {f}" for f in frames)], strict=True):
        ax.set_title(words, fontsize=8, fontweight="normal")
    title = f"{labels.backbone(backbone)}: how much each token looks at the words"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
