"""Notebook 04: does the reference frame dominate attention, what does DyMoS do about it, and does the video move?"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from testbed.benchmark import draw_benchmark

from ..attention.recording_summaries import dominance, frame_distance, frame_matrix
from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.significance import mean_interval
from . import film_strips, labels, plots
from .findings import number
from .score_tables import sweep_table

DOMINANCE, DISTANCE = "attention to frame 0 (points)", "distance to the twin (nats)"
MOVED, MOVED_ASKED = "displacement (px)", "displacement, move prompts (px)"
FLOW, FIDELITY = "flow (px / frame)", "background fidelity (dB)"
COLUMNS = {"displacement_px": MOVED, "flow_px": FLOW, "background_psnr": FIDELITY}
SHOWN = (DOMINANCE, DISTANCE, MOVED_ASKED)
FRAMES = [0, 4, 8, 12, 16]


@dataclass
class Twins:
    """One backbone's pairs. Matrices are {(gamma, sample): (F, F)}, those of the text-to-video twin under gamma 0."""

    steered: str
    twin: str
    early: tuple[dict, dict]
    whole: tuple[dict, dict]
    scores: pd.DataFrame
    twin_scores: pd.DataFrame
    steps: pd.DataFrame
    twin_steps: pd.DataFrame

    @property
    def samples(self) -> list[str]:
        """The pairs, named by their prompt's sample."""
        return list(self.twin_scores["sample"])


def load(parameters: Parameters, backbones: list[str]) -> dict[str, Twins]:
    """The twins of each backbone. Raises NoTables if one of their tables is missing."""
    gammas = {"none": 0.0} | {
        name: parts[0]["gamma"] for name, parts in parameters.methods.items() if name.startswith("dymos-")
    }
    found = {}
    for b in backbones:
        steered = sweeps_by_backbone(parameters, "twin-i2v")[b]
        names = (steered, parameters.sweeps[steered].reference)
        frames, steps, scores = (
            [sweep_table(parameters, n, kind).assign(gamma=lambda t: t["method"].map(gammas)) for n in names]
            for kind in ("attention-frames.csv", "attention-steps.csv", "scores.csv")
        )
        early, whole = (tuple(_matrices(t[t["window"] == w]) for t in frames) for w in ("early", "all"))
        found[b] = Twins(*names, early, whole, *scores, *steps)
    return found


def _matrices(table: pd.DataFrame) -> dict[tuple[float, str], np.ndarray]:
    return {key: frame_matrix(part) for key, part in table.groupby(["gamma", "sample"])}


def pairs_table(twins: dict[str, Twins]) -> pd.DataFrame:
    """A row per backbone, gamma and pair: attention of later frames to frame 0 in percent, distance to the twin, motion
    (of the prompts that ask for a move also in a column of its own, nan elsewhere) and fidelity."""
    rows = []
    for b, own in twins.items():
        scores = own.scores.rename(columns=COLUMNS).set_index(["gamma", "sample"])
        for (gamma, sample), matrix in own.early[0].items():
            values = scores.loc[(gamma, sample)]
            row = {"backbone": b, "gamma": gamma, "sample": sample, DOMINANCE: 100 * dominance(matrix)}
            row[DISTANCE] = frame_distance(matrix, own.early[1][0.0, sample])
            row |= values[list(COLUMNS.values())].astype(float).to_dict()
            rows.append(row | {MOVED_ASKED: row[MOVED] if values["main_category"] == "motion" else np.nan})
    return pd.DataFrame(rows)


def change_interval(values: pd.Series) -> tuple[float, float, float]:
    """(mean, low, high) of changes, one per pair."""
    return mean_interval(values, values.index)


def changes_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Paired changes against gamma 0: columns backbone, measure, gamma, mean, low, high, n."""
    rows = []
    for b, own in pairs.groupby("backbone", sort=False):
        for measure in (DOMINANCE, DISTANCE, MOVED_ASKED, MOVED, FLOW, FIDELITY):
            wide = own.pivot(index="sample", columns="gamma", values=measure).dropna()
            for gamma in wide.columns:
                mean, low, high = change_interval(wide[gamma] - wide[0.0])
                row = {"backbone": b, "measure": measure, "gamma": gamma, "mean": mean, "low": low, "high": high}
                rows.append(row | {"n": len(wide)})
    return pd.DataFrame(rows)


def changes_figure(changes: pd.DataFrame):
    """The changes of SHOWN against gamma, a row per backbone, one scale per measure."""
    backbones = list(changes["backbone"].unique())
    size = (12, 2.9 * len(backbones) + 0.4)
    figure, axes = plt.subplots(len(backbones), len(SHOWN), figsize=size, squeeze=False, sharey="col")
    for line, b in zip(axes, backbones, strict=True):
        for ax, measure in zip(line, SHOWN, strict=True):
            own = changes[(changes["backbone"] == b) & (changes["measure"] == measure)]
            bars = np.abs(own[["low", "high"]].to_numpy().T - own["mean"].to_numpy())
            ax.errorbar(own["gamma"], own["mean"], bars, fmt="o-", capsize=3, color=f"C{backbones.index(b)}")
            ax.axhline(0, color="black", lw=0.8)
            ax.set(xlabel="γ", ylabel=f"change of {measure}")
            ax.set_xticks(own["gamma"], [number(g, int(g % 1 != 0)) for g in own["gamma"]])
            ax.yaxis.label.set_size(8)
            ax.tick_params(axis="x", labelsize=8)
            ax.set_title(f"{labels.backbone(b)}, n = {own['n'].iloc[0]}", fontsize=10)
    title = "Change against γ 0 (unsteered), same pair and noise: zero is no effect"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def matrices_figure(twins: dict[str, Twins], gamma: float):
    """Frame-to-frame attention of later frames in early steps: the twin, image-to-video, the same under `gamma`, on one
    scale; and what image-to-video has more than its twin."""
    titles = ["text-to-video twin", "image-to-video", f"image-to-video, γ {gamma:g}", "image-to-video minus twin"]
    means, n = {}, {b: len(own.samples) for b, own in twins.items()}
    for b, own in twins.items():
        of = [(own.early[1], 0.0), (own.early[0], 0.0), (own.early[0], gamma)]
        shown = [100 * np.mean([found[g, s] for s in own.samples], axis=0)[1:] for found, g in of]
        means[b] = [*shown, shown[1] - shown[0]]
    high = max(m.max() for shown in means.values() for m in shown[:3])
    limit = max(abs(shown[3]).max() for shown in means.values())
    size = (13, 2.7 * len(twins) + 0.5)
    figure, axes = plt.subplots(len(twins), 4, figsize=size, squeeze=False)
    for line, (b, shown) in zip(axes, means.items(), strict=True):
        for i, (ax, matrix) in enumerate(zip(line, shown, strict=True)):
            style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if i == 3 else {"cmap": "cividis", "vmin": 0}
            picture = ax.imshow(matrix, **{"vmax": high} | style, aspect="auto")
            for (row, column), value in np.ndenumerate(matrix):
                dark = abs(value) > 0.6 * limit if i == 3 else value < 0.6 * high
                ax.text(column, row, number(value, 0 if i < 3 else 1, sign=i == 3), ha="center", va="center",
                        color="white" if dark else "black", fontsize=8)  # fmt: skip
            ax.set(xticks=range(matrix.shape[1]), yticks=range(len(matrix)), yticklabels=range(1, len(matrix) + 1))
            ax.set_title(titles[i], fontsize=10)
            ax.grid(False)
            if i in (2, 3):
                figure.colorbar(picture, ax=ax, label="points" if i == 3 else "attention (%)")
        line[0].set_ylabel(f"{labels.backbone(b)}, n = {n[b]}\nframe that looks")
    for ax in axes[-1]:
        ax.set_xlabel("frame looked at")
    title = "Which latent frame looks at which, in early steps (rows sum to 100 %)"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _gamma(value: float) -> str:
    return f"γ {value:g}".replace("-", "−")


def steps_figure(twins: dict[str, Twins]):
    """Attention of later frames to frame 0 per denoising step: with and without a reference, and under DyMoS."""
    size = (11, 3 * len(twins) + 0.3)
    figure, axes = plt.subplots(len(twins), 2, figsize=size, squeeze=False, sharey="row")
    for line, (b, own) in zip(axes, twins.items(), strict=True):
        curves, twin = (
            100 * t[t["statistic"] == "frame_mass"].groupby(["gamma", "step"])["value"].mean()
            for t in (own.steps, own.twin_steps)
        )
        levels = sorted(curves.index.unique("gamma"))
        line[0].plot(twin[0.0], "k--", label="text-to-video twin")
        line[0].plot(curves[0.0], "C0-", label="image-to-video")
        for i, gamma in enumerate(levels):
            line[1].plot(curves[gamma], color=plt.colormaps["cividis"](i / len(levels)), label=_gamma(gamma))
        for ax, words in zip(line, ("with and without a reference", "under DyMoS"), strict=True):
            ax.set(xlabel="denoising step", ylabel="attention to frame 0 (%)")
            ax.set_title(f"{labels.backbone(b)}, {words}, n = {len(own.samples)}", fontsize=10)
            ax.legend(fontsize=8)
    figure.suptitle("When later frames look at the reference", x=0.01, ha="left", fontweight="bold")
    return figure


def strips_figure(parameters: Parameters, backbone: str, below: float):
    """Film strips of two pairs of the small run, the first one that asks for a move and the first one of all: the twin's
    video, then image-to-video from its first frame under each gamma up to `below`."""
    own = load(parameters.model_copy(update={"full_size": False}), [backbone])[backbone]
    prompts = {record["id"]: record["prompt"] for record, _, _ in draw_benchmark(parameters.benchmark.seed)}
    order = own.samples
    shown = list(dict.fromkeys([next((s for s in order if s.startswith("motion")), order[0]), order[0]]))
    strips, marks = {}, {}
    of = own.scores.set_index(["gamma", "sample"])
    methods = own.scores.drop_duplicates("gamma").set_index("gamma")["method"]
    rows = {"text-to-video twin": (own.twin, {}, own.twin_scores.set_index("sample"))}
    levels = [g for g in sorted(methods.index) if g <= below]
    rows |= {_gamma(g): (own.steered, {"method": methods[g]}, of.loc[g]) for g in levels}
    for row, (sweep, cell, scores) in rows.items():
        films = plots.load_strips(sweep, **cell)
        for sample in shown:
            key = (row, prompts[sample])
            strips[key] = films[order.index(sample)]
            marks[key] = "followed" if scores.loc[sample, "adherence"] == 1 else "wrong"
    title = f"{labels.backbone(backbone)}: a twin's video, and what is made from its first frame"
    return film_strips.film_figure(strips, marks, title, FRAMES)
