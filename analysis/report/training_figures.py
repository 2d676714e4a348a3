"""Notebook 01: how adherence moved while the testbed's models were trained, and whether they fail as a testbed should."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ..study.parameters import Parameters
from . import labels
from .findings import number

LOGS = Path("testbed/checkpoints/logs")
PHASES = {"pair": "first and last\nframe", "clip": "whole\nclips", "neglect": "clips with\nneglect"}


def phase_ends(parameters: Parameters, backbone: str) -> dict[str, int]:
    """{phase: clips seen when it ends} of a backbone's image-to-video training, as params.yaml has it."""
    about, seen, ends = parameters.testbed[backbone.split("-")[0]]["i2v"], 0, {}
    for phase, steps in about["phases"].items():
        seen += steps * about["batch"]
        ends[phase] = seen
    return ends


def how_neglect_was_trained_in(parameters: Parameters, backbones: list[str]) -> str:
    """Markdown: each model's training phases, how many clips each showed, and in how many of them the event does not
    happen."""
    share = number(100 * parameters.testbed["data"]["unexecuted"], 0)
    lines = ["| model | trained on | clips seen | clips without the described event |", "|---|---|---|---|"]
    for b in backbones:
        seen = 0
        for phase, end in phase_ends(parameters, b).items():
            name = PHASES.get(phase, phase).replace("\n", " ")
            missing = f"{share} %" if phase == "neglect" else "none"
            lines.append(f"| {labels.backbone(b)} | {name} | {end - seen:,} | {missing} |")
            seen = end
    return "\n".join(lines) + "\n"


def curves(backbones: list[str]) -> dict[str, pd.DataFrame]:
    """{backbone: adherence of its kept states}, as `python -m analysis curve` wrote it beside the checkpoints."""
    return {b: pd.read_csv(LOGS / f"adherence-{b}.csv") for b in backbones}


def curve_figure(parameters: Parameters, curves: dict[str, pd.DataFrame]):
    """Adherence of the states kept in training against the clips seen: a row per backbone, a column per guidance scale,
    a line per event; the training's phases are shaded and named."""
    scales = sorted(next(iter(curves.values()))["guidance_scale"].unique())
    size = (5 * len(scales) + 1.2, 3 * len(curves))
    figure, axes = plt.subplots(len(curves), len(scales), figsize=size, sharey=True, squeeze=False)
    for line, (b, curve) in zip(axes, curves.items(), strict=True):
        ends = phase_ends(parameters, b)
        for ax, scale in zip(line, scales, strict=True):
            part, start = curve[curve["guidance_scale"] == scale].assign(right=lambda t: t["n"] * t["adherence"]), 0
            for i, (phase, end) in enumerate(ends.items()):
                ax.axvspan(start / 1000, end / 1000, color=("0.97", "0.91", "0.82")[i % 3], zorder=0)
                middle = (start + end) / 2000
                ax.text(middle, 3, PHASES.get(phase, phase), fontsize=7, ha="center", va="bottom", color="0.3",
                        rotation=0 if i == 0 else 90)  # fmt: skip
                start = end
            for event, own in part.groupby("event"):
                ax.plot(own["samples_seen"] / 1000, 100 * own["adherence"], "o-", alpha=0.7, lw=1, label=event)
            total = part.groupby("samples_seen")[["right", "n"]].sum()
            ax.plot(total.index / 1000, 100 * total["right"] / total["n"], color="black", lw=2.5, label="all")
            guided = "no guidance" if scale == 1 else f"guidance {scale:g}"
            title = f"{labels.backbone(b)}, {guided}, n = {total['n'].iloc[0]:.0f}"
            ax.set(ylim=(0, 102), xlim=(0, start / 1000))
            ax.set_title(title, fontsize=10)
        line[0].set_ylabel("followed (%)")
    for ax in axes[-1]:
        ax.set_xlabel("clips seen in training (thousands)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("Adherence while the image-to-video models were trained", x=0.01, ha="left", fontweight="bold")
    return figure


def checks(studies: dict, controls: pd.DataFrame, autoencoder: pd.DataFrame) -> pd.DataFrame:
    """What a testbed must do, checked for each backbone: columns backbone, target, measured, met."""
    rows, measured = [], controls.set_index(["backbone", "setting"])
    for b, study in studies.items():
        by_kind = 100 * study["baseline"].groupby("main_category")["adherence"].mean()
        own = autoencoder[autoencoder["backbone"] == b]
        omit = measured.loc[(b, "no guidance, without move"), "adherence %"]
        best = measured.loc[b].filter(regex="^guidance", axis=0)["adherence %"].max()
        shuffled, chance = measured.loc[(b, "shuffled prompts")], measured.loc[("blind", "other prompt")]
        psnr, oracle = own["mean PSNR (dB)"].iloc[0], own["right after (%)"].min()
        spread = f"{number(by_kind.min())} to {number(by_kind.max())} %"
        against = f"{number(shuffled['adherence %'])} % against {number(chance['adherence %'])} %"
        for target, value, met in [
            ("the autoencoder keeps 28 dB or more", f"{number(psnr)} dB", psnr >= 28),
            ("the oracle is 98 % right on decoded truth, in every category", f"{number(oracle)} %", oracle >= 98),
            ("35 to 75 % followed without guidance, without move", f"{number(omit)} %", 35 <= omit <= 75),
            ("20 to 80 % of every event followed", spread, by_kind.min() >= 20 and by_kind.max() <= 80),
            ("80 % or more followed with guidance", f"{number(best)} %", best >= 80),
            ("shuffled prompts no better than chance", against, shuffled["low"] <= chance["high"]),
        ]:
            name = labels.backbone(b)
            rows.append({"backbone": name, "target": target, "measured": value, "met": "yes" if met else "no"})
    return pd.DataFrame(rows)
