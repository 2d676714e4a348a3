"""Notebook 03: what scaling attention by gamma does to it, and whether sharper attention follows the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..attention import recording_summaries as attention
from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.significance import rank_correlation
from . import film_strips, labels, plots
from .findings import interval, number
from .score_tables import sweep_table
from .step_block_figure import relative_change, step_block_figure

# Title -> the measure of a model with cross-attention, and of one with joint attention
PANELS = {
    "entropy within the conditions": ("entropy, words", "entropy, text and reference"),
    "share of the text": ("words in text attention", "text in joint attention"),
    "share of the reference": ("reference in self-attention", "reference in joint attention"),
    "share of the other frames": ("other frames in self-attention", "other frames in joint attention"),
}
OVERALL = ("entropy, self-attention", "entropy, joint attention")
COMPLEMENTS = ("padding in text attention", "other frames in self-attention")  # 1 minus another measure
EVENT_COLOURS = dict(zip(labels.EVENTS, ("C0", "C1", "C2", "C3"), strict=True))


@dataclass
class Scaled:
    """One backbone's videos under every gamma: recorded measures per video, their change over steps, and scores."""

    measures: pd.DataFrame
    steps: pd.DataFrame
    scores: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """The measures that this backbone has."""
        return [c for c in self.measures if c not in ("gamma", "seed", "sample")]

    @property
    def plain(self) -> pd.DataFrame:
        """Measures and adherence of the unscaled videos, a row per sample."""
        return self.joined(1.0)

    def joined(self, gamma: float) -> pd.DataFrame:
        """Measures, adherence and event of the videos under one gamma, in the order of their samples."""
        wanted = ["seed", "sample", "adherence", "main_category"]
        scores = self.scores.loc[self.scores["gamma"] == gamma, wanted]
        own = self.measures[self.measures["gamma"] == gamma]
        return own.merge(scores, on=["seed", "sample"], validate="one_to_one").sort_values("sample", ignore_index=True)

    def ratios(self, gamma: float) -> pd.DataFrame:
        """`attention.compare` of gamma with the plain model."""
        parts = (self.measures[self.measures["gamma"] == g].reset_index(drop=True) for g in (1.0, gamma))
        return attention.compare(*parts)

    def measure(self, pair: tuple[str, str]) -> str:
        """The one of two measures that this backbone has."""
        return next(name for name in pair if name in self.names)


def gammas_of(parameters: Parameters) -> dict[str, float]:
    """{method: gamma} of the settings that scale everywhere, and of the plain model."""
    scaled = {name: parts[0]["gamma"] for name, parts in parameters.methods.items() if name.startswith("scale-")}
    return {"none": 1.0} | scaled


def load(parameters: Parameters, backbones: list[str]) -> dict[str, Scaled]:
    """The plain and scaled videos of each backbone. Raises NoTables if one of their tables is missing."""
    gammas, found = gammas_of(parameters), {}
    for b in backbones:
        sweeps = [sweeps_by_backbone(parameters, study)[b] for study in ("attention-blur", "attention-scaling")]
        cells, steps, scores = (
            pd.concat([sweep_table(parameters, s, kind) for s in sweeps], ignore_index=True)
            .query("blur == 0")
            .assign(gamma=lambda t: t["method"].map(gammas))
            for kind in ("attention-cells.csv", "attention-steps.csv", "scores.csv")
        )
        wide = attention.measures(cells.query("window == 'all'"), ["gamma", "seed", "sample"]).sort_values("gamma")
        found[b] = Scaled(wide, attention.measures(steps, ["gamma", "step", "block"]), scores)
    return found


def ratios_table(studies: dict[str, Scaled]) -> pd.DataFrame:
    """Scaled over plain of every measure, backbone and gamma: a row each, as `attention.compare` gives them."""
    rows = []
    for b, own in studies.items():
        rows += [own.ratios(g).assign(backbone=b, gamma=g) for g in sorted(set(own.measures["gamma"]) - {1.0})]
    table = pd.concat(rows, ignore_index=True)
    return table[["backbone", "gamma", *(c for c in table if c not in ("backbone", "gamma"))]]


def gamma_figure(studies: dict[str, Scaled], ratios: pd.DataFrame):
    """PANELS as ratios to the plain model against gamma, both backbones in each, all on one scale."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 3.4), sharey=True)
    for ax, (title, pair) in zip(axes, PANELS.items(), strict=True):
        for i, (b, own) in enumerate(studies.items()):
            part = ratios[(ratios["backbone"] == b) & (ratios["measure"] == own.measure(pair))]
            plain = {"gamma": 1.0, "mean": 1.0, "low": 1.0, "high": 1.0}
            part = pd.concat([part, pd.DataFrame([plain])]).sort_values("gamma")
            bars = np.abs(part[["low", "high"]].to_numpy().T - part["mean"].to_numpy())
            label = f"{labels.backbone(b)}, n = {part['n'].max():.0f}"
            ax.errorbar(part["gamma"], part["mean"], bars, fmt="o-", capsize=3, color=f"C{i}", label=label)
        ax.axhline(1, color="black", lw=0.8)
        ax.set(xlabel="γ", yscale="log", xticks=part["gamma"], title=title)
        ax.set_yticks([0.7, 1, 1.4, 2], ["0.7", "1", "1.4", "2"])
        ax.minorticks_off()
    axes[0].set_ylabel("scaled / plain")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside lower right")
    title = "Attention under scaling, as a ratio to the plain model (γ 1)"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def forest_figure(ratios: pd.DataFrame, gamma: float):
    """The ratios of every measure but complements under one gamma, a panel per backbone."""
    own = ratios[(ratios["gamma"] == gamma) & ~ratios["measure"].isin(COMPLEMENTS)]
    return plots.ratio_forests(own, "scaled / plain", f"γ {gamma:g} against the plain model: left of the line is less")


def where_figure(studies: dict[str, Scaled], gamma: float):
    """Change of each entropy per step and block under `gamma`, in percent of the plain model's."""
    changes = {}
    for b, own in studies.items():
        plain, scaled = (own.steps[own.steps["gamma"] == g] for g in (1.0, gamma))
        names = [n for n in own.names if n.startswith("entropy")]
        changes[b] = {name: relative_change(plain, scaled, name) for name in names}
    counts = {b: len(own.plain) for b, own in studies.items()}
    title = f"Where γ {gamma:g} sharpens attention: blue is lower entropy"
    return step_block_figure(changes, counts, title)


def adherence_figure(studies: dict[str, Scaled]):
    """Left, adherence against gamma. Beside it every plain video's entropy by what became of its prompt, coloured by event,
    with the rank correlation and its interval."""
    figure, axes = plt.subplots(len(studies), 3, figsize=(12, 3 * len(studies) + 0.5), squeeze=False)
    rng = np.random.default_rng(0)
    for i, (line, (b, own)) in enumerate(zip(axes, studies.items(), strict=True)):
        summary = plots.summarise(own.scores, ["gamma"], "adherence").sort_values("gamma")
        plots.intervals(line[0], summary["gamma"], summary, fmt="o-", color=f"C{i}")
        line[0].set(xlabel="γ", ylabel="followed (%)", ylim=(0, 100), xticks=summary["gamma"])
        line[0].set_title(f"{labels.backbone(b)}, n = {summary['n'].min()}", fontsize=10)
        plain = own.plain
        for ax, pair in zip(line[1:], (PANELS["entropy within the conditions"], OVERALL), strict=True):
            name = own.measure(pair)
            for event, part in plain.groupby("main_category"):
                y = part["adherence"] + rng.uniform(-0.25, 0.25, len(part))
                ax.scatter(part[name], y, s=22, alpha=0.8, color=EVENT_COLOURS[event], label=labels.EVENTS[event])
            rho, low, high, _ = rank_correlation(plain[name], plain["adherence"])
            words = f"ρ = {number(rho, 2)} ({interval(low, high, 2)}), n = {len(plain)}"
            ax.set(xlabel=f"{name} (nats)", ylim=(-0.6, 1.6), title=words)
            ax.title.set_fontsize(10)
            ax.set_yticks([0, 1], ["not followed", "followed"])
    handles, words = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, words, ncols=4, loc="outside lower right")
    title = "Adherence under scaling, and the plain model's entropies by what became of the prompt"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def strips_figure(parameters: Parameters, backbone: str, count: int = 4):
    """Film strips of the small run's first `count` samples under every gamma."""
    sweeps = [sweeps_by_backbone(parameters, study)[backbone] for study in ("attention-blur", "attention-scaling")]
    scores = pd.concat([sweep_table(parameters, s, results="results").assign(made_by=s) for s in sweeps])
    gammas = gammas_of(parameters)
    rows = {}
    for method in sorted(set(scores["method"]), key=gammas.get):
        own = scores[(scores["method"] == method) & (scores["blur"] == 0)]
        films = plots.load_strips(own["made_by"].iloc[0], method=method, blur=0.0)
        gamma = gammas[method]
        rows[f"γ {gamma:g}" if gamma != 1 else "γ 1 (plain)"] = (films, own.head(len(films)))
    samples = list(scores["sample"].unique()[:count])
    strips, marks = film_strips.by_setting(rows, samples, parameters.benchmark.seed)
    title = f"{labels.backbone(backbone)}: the first {count} prompts under scaling, same noise"
    return film_strips.film_figure(strips, marks, title, [0, 8, 16])


def correlations(studies: dict[str, Scaled]) -> pd.DataFrame:
    """Rank correlation of each entropy, and of the share of the text, with the outcome: between the plain videos, and
    within samples (change of one with change of the other, from the plain model to the largest gamma)."""
    rows = []
    for b, own in studies.items():
        plain, last = own.plain, own.joined(own.measures["gamma"].max())
        gain = (last["adherence"] - plain["adherence"]).to_numpy()
        for name in [own.measure(PANELS["share of the text"]), *(n for n in own.names if n.startswith("entropy"))]:
            between = rank_correlation(plain[name], plain["adherence"])
            within = rank_correlation(last[name] - plain[name], gain)
            row = {"backbone": b, "measure": name, "n": len(plain)}
            row |= dict(zip(("between: ρ", "low", "high", "p"), between, strict=True))
            row |= dict(zip(("within: ρ", "within low", "within high", "within p"), within, strict=True))
            rows.append(row | {"gained": int((gain > 0).sum()), "lost": int((gain < 0).sum())})
    return pd.DataFrame(rows)
