"""Notebook 01: the world, what the models make of their prompts, the controls, and the training that led there."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from testbed.benchmark import draw_benchmark
from testbed.world import render

from ..scoring.blind_controls import blind_scores
from ..study.parameters import Parameters, sweeps_by_backbone
from ..study.significance import mean_interval, paired_difference
from . import film_strips, labels, plots
from .findings import effect, level, number
from .score_tables import autoencoder_table, sweep_table

STUDIES = ("baseline", "guidance", "shuffled", "text-to-video")
FRAMES = [0, 4, 8, 12, 16]  # that film strips show
OUTCOME = "outcome"


def load(parameters: Parameters, backbones: list[str]) -> dict[str, dict[str, pd.DataFrame]]:
    """{backbone: {study: scores}} of STUDIES; those of the unguided and guided videos say what became of each prompt in a
    column `outcome`. A lineage's text-to-video study belongs to its image-to-video backbone."""
    found: dict[str, dict[str, pd.DataFrame]] = {b: {} for b in backbones}
    for study in STUDIES:
        of_lineage = {b.split("-")[0]: name for b, name in sweeps_by_backbone(parameters, study).items()}
        for b in backbones:
            table = sweep_table(parameters, of_lineage[b.split("-")[0]])
            if study in ("baseline", "guidance"):
                table[OUTCOME] = film_strips.outcomes(table, parameters.benchmark.seed)
            found[b][study] = table
    return found


def with_guidance(study: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """{"no guidance", "guidance 3", ...: scores} of one backbone, all on the samples that the guided sweep has."""
    plain, guided = study["baseline"], study["guidance"]
    groups = {"no guidance": plain[plain["sample"].isin(guided["sample"])]}
    return groups | {labels.setting("none", scale): part for scale, part in guided.groupby("guidance_scale")}


def findings(studies: dict[str, dict[str, pd.DataFrame]], parameters: Parameters) -> list[str]:
    """Sentences: how often prompts are followed, what guidance adds, what failures are, and that neglect was trained in."""
    share = number(100 * parameters.testbed["data"]["unexecuted"], 0)
    followed, failures, guided = [], [], []
    for b, study in studies.items():
        plain, name = study["baseline"], f"the {labels.backbone(b)}"
        mean = [100 * v for v in mean_interval(plain["adherence"], plain["sample"], proportion=True)]
        followed.append(f"{name} follows {level(*mean, n=plain['sample'].nunique())}")
        wrong = plain[plain[OUTCOME] != "followed"]
        failures.append(f"{name} {number(100 * (wrong[OUTCOME] == 'still copy').mean(), 0)} %")
        groups = with_guidance(study)
        best = max(list(groups)[1:], key=lambda g: groups[g]["adherence"].mean())
        change = paired_difference(groups[best], groups["no guidance"], "adherence")
        values = [100 * change[k] for k in ("difference", "low", "high")]
        guided.append(f"on {name}, {best} changes adherence by {effect(*values, 'points', change['n'])}")
    return [
        f"Without guidance, {_and(followed)} of its prompts.",
        f"Of the videos that do not follow, the share that is a still copy of the reference is {_and(failures, 'on ')}; the "
        "others show something else than was asked for.",
        f"{_and(guided)}.".capitalize().replace("wan", "Wan").replace("cogvideox", "CogVideoX"),
        f"This neglect was trained in: in {share} % of the clips of the last training phase the described event does not "
        "happen.",
    ]


def _and(parts: list[str], before: str = "") -> str:
    parts = [before + p for p in parts]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def world_figure(parameters: Parameters, count: int):
    """True clips of the benchmark's first `count` samples, as film strips."""
    shown = draw_benchmark(parameters.benchmark.seed)[:count]
    strips = {
        (record["prompt"], ""): np.concatenate(render(scene, event)[FRAMES], axis=1) for record, scene, event in shown
    }
    return film_strips.film_figure(
        strips, None, "The world: what the prompt describes is what happens", FRAMES, width=40
    )


def autoencoder(backbones: list[str]) -> pd.DataFrame:
    """What encoding and decoding alone cost: a row per backbone and category of questions."""
    rows = []
    for b in backbones:
        table = autoencoder_table(b)
        psnr = table.drop_duplicates("sample")["psnr"]
        for category, part in table.groupby("category", sort=False):
            row = {"backbone": b, "mean PSNR (dB)": psnr.mean(), "lowest PSNR (dB)": psnr.min(), "clips": len(psnr)}
            row |= {"category": category, "questions": len(part)}
            row |= {f"right {w} (%)": 100 * part[c].mean() for w, c in (("before", "right_before"), ("after", "right"))}
            rows.append(row)
    return pd.DataFrame(rows).round(1)


def outcome_table(studies: dict[str, dict[str, pd.DataFrame]]) -> pd.DataFrame:
    """Share of each outcome, in percent, per backbone, setting and event ("all" for all of them), and the number of
    prompts; all settings of a backbone on the same prompts."""
    rows = []
    for b, study in studies.items():
        for setting, part in with_guidance(study).items():
            for event in (*labels.EVENTS, "all"):
                own = part if event == "all" else part[part["main_category"] == event]
                _, low, high = mean_interval(own["adherence"], own["sample"], proportion=True)
                shares = {o: 100 * (own[OUTCOME] == o).mean() for o in labels.OUTCOMES}
                row = {"backbone": b, "setting": setting, "event": event, "n": own["sample"].nunique()}
                rows.append(row | shares | {"low": 100 * low, "high": 100 * high})
    return pd.DataFrame(rows)


def outcome_figure(table: pd.DataFrame):
    """Stacked bars of `outcome_table`: a panel per backbone, a group per event, a bar per guidance scale."""
    backbones, settings = table["backbone"].unique(), list(table["setting"].unique())
    events = [*labels.EVENTS, "all"]
    figure, axes = plt.subplots(len(backbones), 1, figsize=(9, 3.2 * len(backbones)), squeeze=False)
    width = 0.8 / len(settings)
    for ax, b in zip(axes[:, 0], backbones, strict=True):
        own, ticks = table[table["backbone"] == b].set_index(["setting", "event"]), []
        for i, setting in enumerate(settings):
            x = np.arange(len(events)) + (i - (len(settings) - 1) / 2) * width
            part, bottom = own.loc[setting].loc[events], np.zeros(len(events))
            for outcome in labels.OUTCOMES:
                ax.bar(x, part[outcome], width * 0.9, bottom, color=film_strips.COLOURS[outcome])
                bottom = bottom + part[outcome].to_numpy()
            mean = part["followed"]
            bars = np.maximum([mean - part["low"], part["high"] - mean], 0)
            ax.errorbar(x, mean, bars, fmt="none", ecolor="black", elinewidth=1, capsize=2)
            ticks += list(zip(x, [setting.removeprefix("guidance ")] * len(x), strict=True))
        ax.set_xticks(*zip(*((x, "none" if text == "no guidance" else text) for x, text in sorted(ticks)), strict=True))
        ax.tick_params(axis="x", labelsize=7, length=0)
        n = own.loc[settings[0]].loc[events, "n"]
        for x, event in enumerate(events):
            words = f"{labels.EVENTS.get(event, event)} (n = {n[event]})"
            ax.text(x, -0.1, words, ha="center", va="top", transform=ax.get_xaxis_transform())
        ax.grid(axis="x", visible=False)
        ax.set(ylim=(0, 100), ylabel="videos (%)", title=labels.backbone(b))
    axes[-1, 0].set_xlabel("guidance scale, and the event that the prompt asks for", labelpad=22)
    handles = [Patch(color=film_strips.COLOURS[o], label=o) for o in labels.OUTCOMES]
    figure.legend(handles=handles, ncols=3, loc="outside lower right")
    figure.suptitle("What became of the prompts, without and with guidance", x=0.01, ha="left", fontweight="bold")
    return figure


def strips_figure(parameters: Parameters, backbone: str, count: int, scale: float = 3.0):
    """Film strips of the small run's first `count` samples, without guidance and with guidance `scale`."""
    sweeps = [sweeps_by_backbone(parameters, s)[backbone] for s in ("baseline", "guidance")]
    strips, marks = {}, {}
    prompts = {record["id"]: record["prompt"] for record, _, _ in draw_benchmark(parameters.benchmark.seed)}
    for sweep, value in zip(sweeps, (1.0, scale), strict=True):
        scores = sweep_table(parameters, sweep, results="results").query("guidance_scale == @value").head(count)
        films = plots.load_strips(sweep, guidance_scale=value)
        column = "no guidance" if value == 1 else labels.setting("none", value)
        ends = film_strips.outcomes(scores, parameters.benchmark.seed)
        for sample, film, end in zip(scores["sample"], films, ends, strict=False):
            strips[prompts[sample], column], marks[prompts[sample], column] = film, end
    title = f"{labels.backbone(backbone)}: the first {count} prompts, same noise, without and with guidance"
    return film_strips.film_figure(strips, marks, title, FRAMES, width=40)


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table with words for its backbones and for the categories of questions, for readers."""
    words = table.assign(backbone=table["backbone"].map(labels.backbone))
    return words.assign(category=words["category"].str.replace("_", " ")) if "category" in words else words


def controls(studies: dict[str, dict[str, pd.DataFrame]], seed: int) -> pd.DataFrame:
    """Adherence with its interval, and macro, of every setting and control of each backbone, in percent."""
    rows, omit = {}, [k for k in labels.EVENTS if k != "motion"]
    for b, study in studies.items():
        plain = study["baseline"]
        rows |= {(b, "no guidance"): plain}
        rows |= {(b, labels.setting("none", s)): g for s, g in study["guidance"].groupby("guidance_scale")}
        rows |= {(b, "shuffled prompts"): study["shuffled"]}
        rows |= {(b, "no guidance, without move"): plain[plain["main_category"].isin(omit)]}
        rows |= {(b, f"no guidance, {d}"): g for d, g in plain.groupby("domain")}
        rows |= {(b.replace("i2v", "t2v"), "text-to-video, guidance 3"): study["text-to-video"]}
    blind = blind_scores(seed, max(len(study["shuffled"]) for study in studies.values()))
    rows |= {("blind", name): group for name, group in blind.groupby("video")}
    table = []
    for (name, setting), part in rows.items():
        mean, low, high = (100 * v for v in mean_interval(part["adherence"], part["sample"], proportion=True))
        row = {"backbone": name, "setting": setting, "n": part["sample"].nunique(), "adherence %": mean}
        table.append(row | {"low": low, "high": high, "macro %": 100 * part["macro"].mean()})
    return pd.DataFrame(table).round(1)
