"""Focal Guidance after post-training, on either backbone: six settings, what the guidance adds, and the training's losses.

What a guided, tuned model is compared with is the control, the same tuning without the guidance: the distance from the
untuned model to the control is what the captions did, and only what exceeds the control is the guidance's.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd

from ..scoring.score import STRIPS as KEPT
from ..study.parameters import Parameters
from ..study.score_columns import is_proportion
from ..study.significance import holm, mean_interval, paired_difference
from .against_unsteered import on_common_samples
from .film_strips import film_figure, outcomes
from .findings import decided, effect, interval, level, number, side
from .plots import load_strips
from .score_tables import sweep_table

UNTUNED, GUIDED, CONTROL = "untuned, no guidance", "untuned, guidance", "tuned, no guidance (control)"
CACHE, SEMANTIC, ALL = "tuned, cache only", "tuned, without the cache", "tuned, whole guidance"
# setting -> (sweep without the lineage's prefix, method without prefix)
ROWS = {
    UNTUNED: ("focal-ablation", "none"),
    GUIDED: ("focal-ablation", "full"),
    CONTROL: ("focal-ablation-control", "none"),
    CACHE: ("focal-ablation-cache", "cache"),
    SEMANTIC: ("focal-ablation-fsg", "fsg"),
    ALL: ("focal-ablation-full", "full"),
}
# what is compared: (words, setting, what it is compared with)
ADDED = [("cache", CACHE, CONTROL), ("guidance without the cache", SEMANTIC, CONTROL), ("whole guidance", ALL, CONTROL)]
COMPARED = [("tuning alone, against the untuned model", CONTROL, UNTUNED),
            ("guidance alone, against the untuned model", GUIDED, UNTUNED),
            *((f"{name}, against the control", a, b) for name, a, b in ADDED)]  # fmt: skip
CLAIMS = [
    ("Tuning on accurate captions alone raises adherence.", CONTROL, UNTUNED),
    ("Guidance without tuned attention raises adherence.", GUIDED, UNTUNED),
    ("The cache raises adherence over the control.", CACHE, CONTROL),
    ("Guidance without the cache raises adherence over the control.", SEMANTIC, CONTROL),
    ("The whole guidance raises adherence over the control.", ALL, CONTROL),
]
MEASURES = {"adherence": "prompts followed (%)", "macro": "questions answered right (%)"}
VARIANTS = {"cache": "cache only", "fsg": "without the cache", "full": "whole guidance"}


@dataclass(frozen=True)
class Lineage:
    """Which sweeps, methods and losses belong to a backbone's ablation."""

    sweeps: str
    methods: str
    losses: str


LINEAGES = {
    "wan": Lineage("", "focal-", "testbed/checkpoints/focal-wan/losses.csv"),
    "cogvideox": Lineage("cogvideox-", "focal-joint-", "testbed/checkpoints/focal-cogvideox/losses.csv"),
}


def _cell(lineage: str, setting: str) -> tuple[str, str]:
    sweep, method = ROWS[setting]
    own = LINEAGES[lineage]
    return own.sweeps + sweep, method if method == "none" else own.methods + method


def ablation_scores(parameters: Parameters, lineage: str, results=None) -> dict[str, pd.DataFrame]:
    """The scores of the six settings of a lineage ("wan", "cogvideox"), on the samples and seeds that all have."""
    found = {}
    for setting in ROWS:
        sweep, method = _cell(lineage, setting)
        table = sweep_table(parameters, sweep, results=results)
        found[setting] = table[table["method"] == method]
    return on_common_samples(found)


def sizes(found: dict[str, pd.DataFrame]) -> tuple[int, int]:
    """(prompts, seeds) of the settings, which all have the same."""
    one = found[UNTUNED]
    return one["sample"].nunique(), one["seed"].nunique()


def compare(found: dict[str, pd.DataFrame], pairs: list[tuple[str, str, str]], columns: list[str]) -> pd.DataFrame:
    """A row per measure and pair of `pairs`, in percent points for adherence and macro: difference, low, high, n, gained,
    lost, p, p (Holm) over the table; unchanged: "0 of n videos changed" where that is all there is to say, else ""."""
    rows = []
    for column in columns:
        factor = 100 if column in MEASURES else 1
        for name, a, b in pairs:
            x, y = found[a], found[b]
            if column == "displacement_px":
                x, y = (t[t["main_category"] == "motion"] for t in (x, y))
            if x.empty:  # a few prompts may ask for no movement at all
                continue
            d = paired_difference(x, y, column)
            row = {"measure": column, "comparison": name, "unchanged": nothing_changed(d, len(x))}
            scaled = {k: factor * d[k] for k in ("difference", "low", "high")}
            rows.append(row | scaled | {k: d[k] for k in ("n", "gained", "lost", "p")})
    table = pd.DataFrame(rows)
    return table.assign(**{"p (Holm)": holm(table["p"])})


def nothing_changed(difference: dict, videos: int) -> str:
    """Words for a `paired_difference` of which no prompt changed, "" if one did. Its interval would be that of a proportion,
    which is wide and says nothing about this comparison."""
    if difference["changed"]:
        return ""
    if difference["gained"] == difference["lost"] == 0:
        return f"0 of {videos} videos changed"
    return f"0 of {difference['n']} prompts changed on the mean of their seeds" if videos > difference["n"] else ""


def levels(found: dict[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Mean of a measure in percent, with its interval over prompts, of each setting."""
    rows = []
    for setting, part in found.items():
        mean, low, high = (
            100 * x for x in mean_interval(part[column], part["sample"], proportion=is_proportion(column))
        )
        rows.append({"setting": setting, "mean": mean, "low": low, "high": high, "n": part["sample"].nunique()})
    return pd.DataFrame(rows)


def ablation_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The levels of the six settings and, in columns of the same row, their difference to the untuned model."""
    tested = compare(found, [(s, s, UNTUNED) for s in list(found)[1:]], list(MEASURES)).set_index(
        ["measure", "comparison"]
    )
    rows = []
    for column in MEASURES:
        for row in levels(found, column).to_dict("records"):
            named = {"measure": column, "setting": row["setting"], "mean": row["mean"], "mean low": row["low"],
                     "mean high": row["high"], "n": row["n"]}  # fmt: skip
            if row["setting"] != UNTUNED:
                named |= tested.loc[(column, row["setting"]), ["difference", "low", "high", "p", "p (Holm)"]].to_dict()
            rows.append(named)
    return pd.DataFrame(rows)


# --- Figures ----------------------------------------------------------------------------------------------------------
def difference_forest(ax, table: pd.DataFrame) -> None:
    """Differences with intervals; one that changed no video is a tick with its count, as it has no spread."""
    for y, row in zip(range(len(table))[::-1], table.to_dict("records"), strict=True):
        if row["unchanged"]:
            ax.plot(0, y, "|", color="black", markersize=12)
            words = row["unchanged"].replace(" on the", "\non the")
            ax.annotate(words, (0, y), (6, 0), textcoords="offset points", va="center", fontsize=7)
        else:
            bars = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
            ax.errorbar(row["difference"], y, xerr=bars, fmt="o", capsize=3, color="C3")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(table))[::-1], table["comparison"])
    ax.set_ylim(-0.6, len(table) - 0.4)


def ablation_figure(found: dict[str, pd.DataFrame]):
    """Absolute adherence of the six settings with the control as a band, and below what the guidance adds to the control."""
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 5), sharey="row", height_ratios=[6, 3])
    prompts, seeds = sizes(found)
    for (top, bottom), (column, label) in zip(axes.T, MEASURES.items(), strict=True):
        table = levels(found, column)
        control = table.set_index("setting").loc[CONTROL]
        top.axvspan(control["low"], control["high"], color="0.9", zorder=0, label="control, 95 % interval")
        top.axvline(control["mean"], color="0.6", linewidth=1, zorder=0)
        for y, row in zip(range(len(table))[::-1], table.to_dict("records"), strict=True):
            guided = row["setting"] not in (UNTUNED, CONTROL)
            bars = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            top.errorbar(row["mean"], y, xerr=bars, fmt="o", capsize=3, color="C3" if guided else "black")
        top.set_yticks(range(len(table))[::-1], table["setting"])
        top.set(xlim=(0, 103), xlabel=label, title=f"{label.removesuffix(' (%)')}, n = {prompts}")
        difference_forest(bottom, compare(found, ADDED, [column]))
        bottom.set(xlabel="points more than the control")
    axes[0, 0].legend(loc="lower left", fontsize=7)
    figure.suptitle(
        f"Six settings and what the guidance adds to the tuned control ({prompts} prompts, {seeds} seeds)",
        x=0.01, ha="left", fontweight="bold", fontsize=11,
    )  # fmt: skip
    return figure


QUALITY = {
    "first_psnr": "first frame (dB)",
    "background_psnr": "background (dB)",
    "sharpness_retention": "sharpness kept",
    "flow_px": "optical flow (px / frame)",
    "displacement_px": "displacement (px)",
}


def quality_figure(found: dict[str, pd.DataFrame]):
    """Fidelity and motion: what tuning and guidance each change, a panel per measure with its own unit and n."""
    table = compare(found, COMPARED, list(QUALITY))
    shown = {column: label for column, label in QUALITY.items() if column in set(table["measure"])}
    figure, axes = plt.subplots(1, len(shown), figsize=(14, 2.7), sharey=True)
    for ax, (column, label) in zip(axes, shown.items(), strict=True):
        part = table[table["measure"] == column]
        difference_forest(ax, part)
        moving = "move prompts only, " if column == "displacement_px" else ""
        ax.set_title(f"{moving}n = {part['n'].iloc[0]}", fontsize=8, fontweight="normal")
        ax.set_xlabel(f"change of {label}", fontsize=8)
        ax.locator_params(axis="x", nbins=4)
    figure.suptitle("Fidelity and motion: what tuning and guidance each change", x=0.01, ha="left", fontweight="bold")
    return figure


def strips_figure(parameters: Parameters, lineage: str, columns: int = 2):
    """Film strips of the six settings on the benchmark's first samples, of the small run, which is where strips are kept:
    a rule, so that no video is chosen by hand."""
    found = ablation_scores(parameters, lineage, "results")
    seed = int(found[UNTUNED]["seed"].iloc[0])
    shown = list(dict.fromkeys(found[UNTUNED]["sample"]))[: min(columns, KEPT)]
    prompts = _prompts(parameters)
    strips, marks = {}, {}
    for setting, scores in found.items():
        sweep, method = _cell(lineage, setting)
        sheet = load_strips(sweep, method=method, seed=seed)
        order = list(dict.fromkeys(sweep_table(parameters, sweep, results="results")["sample"]))
        mine = scores[(scores["seed"] == seed) & scores["sample"].isin(shown)]
        told = outcomes(mine, parameters.benchmark.seed).set_axis(mine["sample"])
        for sample in shown:
            strips[setting, prompts[sample]] = sheet[order.index(sample)]
            marks[setting, prompts[sample]] = told[sample]
    frames = _frames(parameters, found[UNTUNED]["backbone"].iloc[0], strips)
    title = f"Seed {seed}, the benchmark's first {len(shown)} prompts under the six settings"
    return film_figure(strips, marks, title, frames)


def _prompts(parameters: Parameters) -> dict[str, str]:
    from ..study.benchmark_samples import load_samples

    return {s["id"]: s["prompt"] for s in load_samples(parameters.benchmark.folder)}


def _frames(parameters: Parameters, backbone: str, strips: dict) -> list[int]:
    shape = next(iter(strips.values())).shape
    count, last = shape[1] // shape[0], parameters.backbones[backbone].frames - 1
    return [round(last * i / (count - 1)) for i in range(count)]


# --- Losses -----------------------------------------------------------------------------------------------------------
def loss_changes(lineage: str) -> pd.DataFrame:
    """Loss of each guided run less the control's at the same step, in percent of the control's mean; index: step."""
    losses = pd.read_csv(LINEAGES[lineage].losses).pivot(index="step", columns="variant", values="loss")
    change = 100 * losses.sub(losses["control"], axis=0).div(losses["control"].mean())
    return change[list(VARIANTS)].rename(columns=VARIANTS)


def loss_figure(change: pd.DataFrame, window: int = 16):
    """Loss of the guided runs over the control's, smoothed over `window` steps."""
    figure, ax = plt.subplots(figsize=(7, 2.8))
    for (name, values), style in zip(change.items(), ("-", "--", ":"), strict=True):
        ax.plot(values.rolling(window, min_periods=1).mean(), style, label=name)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="optimiser step", ylabel="loss above the control's (%)")
    ax.set_title(f"Loss of the guided runs less the control's, mean of {window} steps; below 0 is better")
    ax.legend(ncols=3)
    return figure


def loss_sentence(change: pd.DataFrame) -> str:
    """Whether the guided runs ended below the control's loss, from the last quarter of the steps."""
    last = change.tail(len(change) // 4)
    mean, error = last.mean(), last.sem()
    told = [f"{number(mean[k], 2, sign=True)} ± {number(error[k], 2)} % {k}" for k in change]
    better = [k for k in change if mean[k] < -2 * error[k]]
    worse = [k for k in change if mean[k] > 2 * error[k]]
    answer = (
        "The tuning learned nothing measurable from the guidance"
        if not better
        else f"Tuning predicts better with the {' and the '.join(better)}"
    )
    if worse:
        answer += f"; it predicts worse {'in all three runs' if len(worse) == 3 else 'with: ' + ', '.join(worse)}"
    return (
        f"{answer}. Loss against the control's in the last {len(last)} steps, mean ± standard error: {', '.join(told)}."
    )


# --- Sentences --------------------------------------------------------------------------------------------------------
def sentences(found: dict[str, pd.DataFrame]) -> list[str]:
    """What the ablation found, from its own numbers."""
    table = compare(found, COMPARED, ["adherence"]).set_index("comparison")
    base = levels(found, "adherence").set_index("setting")
    tuning, alone = (table.loc[COMPARED[i][0]] for i in (0, 1))
    told = [
        f"The untuned model follows {level(*base.loc[UNTUNED, ['mean', 'low', 'high']], n=int(base.loc[UNTUNED, 'n']))}; "
        f"tuning on accurate captions alone changes that by {_effect(tuning)}."
    ]
    added = [(name, table.loc[f"{name}, against the control"]) for name, _, _ in ADDED]
    shown = "; ".join(f"{name} {_effect(row, count=False)}" for name, row in added)
    sides = {side(row["low"], row["high"]) for _, row in added}
    end = "None of the three intervals is clear of zero." if sides == {"not clear of"} else ""
    told.append(f"On top of the tuned control, the guidance adds: {shown}. {end}".strip())
    if alone["unchanged"]:
        told.append(f"Without tuned attention, the guidance changes no prompt's adherence ({alone['unchanged']}).")
    else:
        told.append(f"Without tuned attention, the guidance changes adherence by {_effect(alone)}.")
    return told


def _effect(row, count: bool = True) -> str:
    if row["unchanged"]:
        return f"nothing ({row['unchanged']})"
    words = effect(row["difference"], row["low"], row["high"], "points", int(row["n"]) if count else None)
    if side(row["low"], row["high"]) != "not clear of" and row["p (Holm)"] >= 0.05:
        words += f" [not significant among the comparisons made: p {row['p (Holm)']:.2f}]"
    return words


def verdicts(found: dict[str, pd.DataFrame], more: list[tuple[str, str, str]], *, interaction: bool) -> pd.DataFrame:
    """Claim, effect in words, n and verdict of CLAIMS and `more`; interaction: also whether guidance and tuning are more
    together than the sum of both."""
    tested = [(claim, paired_difference(found[a], found[b], "adherence")) for claim, a, b in [*CLAIMS, *more]]
    if interaction:
        value = {label: part.set_index(["sample", "seed"])["adherence"] for label, part in found.items()}
        tuned = (value[ALL] - value[CONTROL]).reset_index()
        untuned = (value[GUIDED] - value[UNTUNED]).reset_index()
        tested.append(("Guidance and tuning are synergistic.", paired_difference(tuned, untuned, "adherence")))
    rows = []
    for claim, d in tested:
        low, high = 100 * d["low"], 100 * d["high"]
        words = f"{number(100 * d['difference'], sign=True)} points ({interval(low, high)})"
        words = nothing_changed(d, len(found[UNTUNED])) or words
        rows.append({"claim": claim, "effect": words, "n": d["n"], "low": low, "high": high, "p": d["p"], "sign": 1})
    return decided(rows)
