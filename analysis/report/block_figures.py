"""Figures and verdicts of the study of blocks that look at the foreground: masks, ratios, and AlignVid's calibrated list."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from ..attention.calibrated_blocks import DEFINITION, MASK, Calibration, calibrate, jaccard
from ..attention.foreground_ratio import DEFINITIONS, MASKS
from ..study.significance import mean_and_p
from . import film_strips, labels, plots
from .findings import decided, interval, number
from .token_outlines import outline, outlined_strip

GRID = (5, 8, 8)  # latent frames, rows and columns of tokens of the testbed's videos
LINES = [("mass", "tau"), ("mass", "area"), ("tokens", "tau"), ("tokens", "area"), ("per token", "tau")]
LATENTS = {"noise": "noise", "velocity": "velocity", "clean": "clean video"}
CLEAR = 0.75  # balanced accuracy half-way from chance to perfect


def masks_figure(masks: pd.DataFrame, strips: np.ndarray, backbone: str, frames: list[int]):
    """The outlines of every mask on the video, a column per sample: from the pixels, and from three latents at the first and
    the last step kept. strips: (samples, H, 5 W, 3) in the samples' order."""
    steps = sorted(masks["step"].unique())
    shown = [("pixels", steps[-1]), *[(name, step) for name in ("clean", "velocity", "noise") for step in steps]]
    cells = {}
    for sample, strip in zip(masks["sample"].unique(), strips, strict=False):
        own = masks[masks["sample"] == sample]
        cells["video", sample] = strip
        for name, step in shown:
            values = own[(own["mask"] == name) & (own["step"] == step)].sort_values("token")["value"].to_numpy()
            row = "from the pixels" if name == "pixels" else f"{name}, step {step + 1}"
            cells[row, sample] = outlined_strip(strip, values.reshape(GRID))
    title = f"{labels.backbone(backbone)}: foreground masks, outlined"
    return film_strips.film_figure(cells, None, title, frames)


def agreement_figure(agreement: dict[str, pd.DataFrame]):
    """Agreement of the PCA masks with the pixels' mask per step, with intervals over prompts; a row per backbone."""
    measures = {"iou": "intersection over union", "balanced accuracy": "balanced accuracy"}
    figure, axes = plt.subplots(len(agreement), 2, figsize=(9, 3.1 * len(agreement)), squeeze=False, sharex=True)
    for line, (backbone, table) in zip(axes, agreement.items(), strict=True):
        for ax, (measure, words) in zip(line, measures.items(), strict=True):
            means = plots.summarise(table[table["measure"] == measure], ["mask", "step"], "value")
            for i, mask in enumerate(MASKS[1:]):
                rows = means[means["mask"] == mask]
                plots.intervals(ax, rows["step"] + 1, rows, label=mask, percent=False, fmt="o-", color=f"C{i + 1}")
            title = f"{labels.backbone(backbone)}, n = {table['sample'].nunique()}"
            ax.set(ylim=(0, 1), xlabel="denoising step", ylabel=words, title=title)
        line[1].axhline(0.5, color="black", ls=":", label="chance")
    axes[0, 1].legend(ncols=2, loc="lower right", fontsize=8)
    title = "Which latent's masks find the coloured pixels, and from which step on"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def received_figure(received: dict[str, pd.DataFrame], masks: dict[str, pd.DataFrame], strips: dict[str, np.ndarray]):
    """Attention received by each token, as a multiple of a uniform one, under the video: blocks with the highest, the middle
    and the lowest ratio. One scale; the pixels' mask is outlined."""
    columns = [(b, sample) for b, table in received.items() for sample in table["sample"].unique()]
    top = max(table["value"].quantile(0.99) for table in received.values())
    names = ["video", "highest ratio", "middle", "lowest ratio"]
    figure, axes = plt.subplots(len(names), len(columns), figsize=(3.3 * len(columns) + 1.6, 4.1))
    for j, (backbone, sample) in enumerate(columns):
        own = received[backbone][received[backbone]["sample"] == sample]
        truth = masks[backbone][(masks[backbone]["sample"] == sample) & (masks[backbone]["mask"] == "pixels")]
        truth = truth[truth["step"] == truth["step"].max()].sort_values("token")["value"].to_numpy().reshape(GRID)
        wide = np.concatenate(list(truth), axis=1).astype(bool)
        axes[0, j].imshow(strips[backbone][list(received[backbone]["sample"].unique()).index(sample)])
        axes[0, j].set_title(f"{labels.backbone(backbone)}\n{sample}", fontsize=9, fontweight="normal")
        for ax, block in zip(axes[1:, j], own["block"].unique(), strict=True):
            values = own[own["block"] == block].sort_values("token")["value"].to_numpy().reshape(GRID)
            image = ax.imshow(np.concatenate(list(values), axis=1), cmap="magma", vmin=0, vmax=top)
            outline(ax, wide, colour="cyan", width=1)
            ax.set_xlabel(f"block {block}", fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.colorbar(image, ax=axes, label="attention received\n(1 is uniform)", shrink=0.7)
    title = "Attention received, in blocks that favour the objects (outlined) most and least"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def ratio_figure(ratios: dict[str, pd.DataFrame]):
    """How far each block's ratio lies above chance, by three definitions and every mask; zero is chance in every panel."""
    figure, axes = plt.subplots(len(ratios), 3, figsize=(13, 3.3 * len(ratios)), squeeze=False, sharex="row")
    for line, (backbone, table) in zip(axes, ratios.items(), strict=True):
        chance = np.where(table["definition"] == "per token", 0.5, table["area"])
        above = table.assign(above=table["ratio"] - chance)
        means = plots.summarise(above, ["mask", "definition", "block"], "above").set_index(["mask", "definition"])
        half = (table["block"].nunique() - 1) / 2
        for ax, definition in zip(line, DEFINITIONS, strict=True):
            for i, mask in enumerate(MASKS):
                rows = means.loc[(mask, definition)]
                plots.intervals(ax, rows["block"] + 0.14 * (i - 1.5), rows, label=mask, percent=False, color=f"C{i}")
            ax.axhline(0, color="black", lw=0.8)
            ax.axvline(half, color="grey", lw=0.8, ls=":")
            ax.set(xlabel="block (dotted: half of the network)", ylabel="ratio above chance")
            ax.set_title(f"{labels.backbone(backbone)}: {definition}, n = {table['sample'].nunique()}", fontsize=9)
    axes[0, 2].legend(ncols=2, title="mask", fontsize=8)
    figure.suptitle("Ratios of each block above chance, by three definitions", fontweight="bold", x=0.01, ha="left")
    return figure


def every_list(ratios: dict[str, pd.DataFrame], threshold: float) -> tuple[pd.DataFrame, dict[tuple, Calibration]]:
    """A row per backbone, mask, definition and line: the blocks above it and how stable the list is; and the calibrations."""
    found, rows = {}, []
    for backbone, table in ratios.items():
        half = first_half(table)
        shipped = calibrate(table, threshold=threshold)
        above = {"tau": table["ratio"] - threshold, "area": table["ratio"] - table["area"]}
        for mask, (definition, line) in [(m, x) for m in MASKS for x in LINES]:
            result = calibrate(table.assign(ratio=above[line]), definition, 0.0, mask)
            found[backbone, mask, definition, line] = result
            near = (float(jaccard(result.picked, x)) for x in (half, shipped.picked))
            rows.append((backbone, mask, definition, line, " ".join(map(str, result.blocks)), *result.stability(),
                         result.in_first_half()[0], *near))  # fmt: skip
    columns = ["backbone", "mask", "definition", "line", "blocks", "overlap resampled", "low", "high"]
    columns += ["share in first half", "overlap first half", "overlap shipped"]
    return pd.DataFrame(rows, columns=columns), found


def first_half(ratios: pd.DataFrame) -> np.ndarray:
    """Which blocks lie in the first half of the network: bool (blocks,)."""
    count = ratios["block"].nunique()
    return np.arange(count) < count // 2


def lists_table(lists: pd.DataFrame) -> pd.DataFrame:
    """The rows of `every_list` that a reader needs, in words: by the mask, and by the definition, of the list in use."""
    part = lists[(lists["mask"] == MASK) | ((lists["definition"] == DEFINITION) & (lists["line"] == "tau"))]
    stable = [f"{number(r.overlap, 2)} ({interval(r.low, r.high, 2)})"
              for r in part.rename(columns={"overlap resampled": "overlap"}).itertuples()]  # fmt: skip
    return pd.DataFrame(
        {"backbone": part["backbone"].map(labels.backbone), "mask": part["mask"], "definition": part["definition"],
         "line": part["line"].replace({"tau": "τ", "area": "area"}), "blocks": part["blocks"].replace("", "none"),
         "overlap of resamples": stable, "overlap with the first half": part["overlap first half"].round(2),
         "overlap with the list in use": part["overlap shipped"].round(2)}
    )  # fmt: skip


def stability_figure(found: dict[tuple, Calibration], ratios: dict[str, pd.DataFrame]):
    """Per mask and block, the share of resampled prompt sets that pick the block by the definition in use."""
    figure, axes = plt.subplots(1, len(ratios), figsize=(7 * len(ratios), 2.6), squeeze=False)
    for ax, (backbone, table) in zip(axes[0], ratios.items(), strict=True):
        shares = np.stack([found[backbone, mask, DEFINITION, "tau"].resampled.mean(0) for mask in MASKS])
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else "black")
        ax.axvline(first_half(table).sum() - 0.5, color="C1", lw=2)
        ax.set(xlabel="block (orange line: half of the network)", xticks=range(shares.shape[1]))
        ax.set_title(f"{labels.backbone(backbone)}, n = {table['sample'].nunique()}")
        ax.set_yticks(range(len(MASKS)), MASKS)
        ax.grid(False)
    figure.colorbar(image, ax=axes, label="share of resamples")
    title = "% of resampled prompt sets that pick a block; those between 0 and 100 are unsettled"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return figure


def chance_of_place(found: Calibration) -> float:
    """How likely so many or so few of the picked blocks lie in the first half if as many were picked blindly; two-sided."""
    half, picked = found.picked.size // 2, int(found.picked.sum())
    chance, seen = hypergeom(found.picked.size, half, picked), int(found.picked[:half].sum())
    return float(min(1.0, 2 * min(chance.sf(seen - 1), chance.cdf(seen))))


def verdicts(
    ratios: dict[str, pd.DataFrame], agreement: dict[str, pd.DataFrame], threshold: float, stable: float
) -> pd.DataFrame:
    """Claims of section 5.2 and F.2 for findings.verdict_table, by the definition and mask of the list in use."""
    rows = []
    for backbone, table in ratios.items():
        shipped, prompts = calibrate(table, threshold=threshold), table["sample"].nunique()
        seen = table[(table["mask"] == MASK) & (table["definition"] == DEFINITION)]
        by_block = seen.pivot(index="sample", columns="block", values="ratio")
        choose, test = by_block.iloc[::2], by_block.iloc[1::2]  # chosen on every second prompt, measured on the others
        gap = test[choose.mean().idxmax()] - test[choose.mean().idxmin()]
        found = [
            ("blocks contribute unequally (5.2): highest minus lowest", len(test), 0.0, _tested(gap, 0.0)),
            # An interval over prompts does not tell a place from chance: p is against a blind choice of as many blocks.
            ("sensitive blocks lie mostly in the first half (5.2)", prompts, 0.5,
             (*shipped.in_first_half(), chance_of_place(shipped))),
            ("the calibrated list is stable: overlap of resampled lists", prompts, stable,
             (*shipped.stability(), float("nan"))),
        ]  # fmt: skip
        accuracy = agreement[backbone][agreement[backbone]["measure"] == "balanced accuracy"]
        for mask in MASKS[1:]:
            own = accuracy[accuracy["mask"] == mask].groupby("sample")["value"].mean()
            claim = f"PCA mask of the {LATENTS[mask]} finds the foreground (F.2): balanced accuracy"
            found.append((claim, prompts, CLEAR, _tested(own, CLEAR)))
        for claim, n, line, (mean, low, high, p) in found:
            words = f"{number(mean, 3)} ({interval(low, high, 3)}); line {line:g}"
            row = {"backbone": labels.backbone(backbone), "claim": claim, "effect": words, "n": n}
            rows.append(row | {"low": low, "high": high, "p": p, "sign": 1, "line": line})
    return decided(rows, "backbone")


def _tested(values: pd.Series, line: float) -> tuple[float, float, float, float]:
    test = mean_and_p(values, values.index, line=line)
    return test["mean"], test["low"], test["high"], test["p"]


def found(ratios: dict[str, pd.DataFrame], rows: pd.DataFrame, threshold: float) -> list[str]:
    """Sentences per backbone: the list, its place in the network with the exact chance of it, and which latent gives masks."""
    sentences = []
    for backbone, table in ratios.items():
        shipped, half = calibrate(table, threshold=threshold), first_half(table)
        picked, early = int(shipped.picked.sum()), int(shipped.picked[half].sum())
        one = "favours" if picked == 1 else "favour"
        listed = (
            f"block{'s' if picked > 1 else ''} {', '.join(map(str, shipped.blocks))} {one}"
            if picked
            else "no block favours"
        )
        mine = rows[rows["backbone"] == labels.backbone(backbone)]
        masks = [
            m
            for m in MASKS[1:]
            if (mine.loc[mine["claim"].str.contains(f"the {LATENTS[m]} finds"), "verdict"] == "supported").all()
        ]
        stable = mine.loc[mine["claim"].str.contains("list is stable"), "verdict"].iloc[0]
        sentences.append(
            f"**{labels.backbone(backbone)}**: {listed} the foreground "
            f"({table['sample'].nunique()} prompts; stable: {stable}). {early} of {picked} lie in the first half "
            f"(p {number(chance_of_place(shipped), 2)} against a blind choice). Masks from the "
            f"{' and the '.join(LATENTS[m] for m in masks) if masks else 'latents'} {'find' if masks else 'do not clearly find'} the foreground."
        )
    return sentences
