"""Focal Guidance's parts one by one: where words point in the reference, what the cache sees, what each part changes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from ..study.benchmark_samples import load_samples
from ..study.parameters import Parameters
from ..study.significance import holm, mean_and_p, paired_difference
from . import labels
from .film_strips import film_figure, outcomes
from .findings import decided, effect, interval, number, side
from .plots import load_strips
from .score_tables import sweep_table
from .tuning_figures import difference_forest, nothing_changed

PARTS = ("focal-fsg", "focal-cache", "focal-full", "focal-hidden-weak", "focal-pointing")
MEASURES = {
    "adherence": ("adherence", "points", 100),
    "flow_px": ("optical flow", "px / frame", 1),
    "displacement_px": ("displacement, move prompts", "px", 1),
    "background_psnr": ("background fidelity", "dB", 1),
    "sharpness_retention": ("sharpness kept", "ratio", 1),
}
SWEEP, PLAIN = "focal", "baseline"


# --- Where words point ------------------------------------------------------------------------------------------------
def named_words(words: pd.DataFrame) -> pd.DataFrame:
    """The rows of words that name an object of the reference and have an area under the curve."""
    return words[words["kind"] != "keywords"].dropna(subset=["auc"])


def pointing_table(words: pd.DataFrame) -> pd.DataFrame:
    """Per kind of word: mean area under the curve with its interval over prompts, the shares of words that point at their
    object clearly (above 3/4) and away from it (below 1/4), and how many words and prompts there are."""
    rows = []
    for kind, part in named_words(words).groupby("kind", sort=False):
        found = mean_and_p(part["auc"], part["sample"], line=0.5)
        shares = {"points at": (part["auc"] > 0.75).mean(), "points away": (part["auc"] < 0.25).mean()}
        counts = {"words": len(part), "prompts": part["sample"].nunique()}
        rows.append(
            {"kind": kind, "auc": found["mean"]} | {k: found[k] for k in ("low", "high", "p")} | shares | counts
        )
    return pd.DataFrame(rows)


def pointing_figure(words: pd.DataFrame):
    """Histogram of the areas under the curve of the plain similarity, a panel per kind of word."""
    table = named_words(words)
    kinds = list(dict.fromkeys(table["kind"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(8.5, 2.8), sharey=True, squeeze=False)
    for ax, kind in zip(axes[0], kinds, strict=True):
        values = table.loc[table["kind"] == kind, "auc"]
        ax.hist(values, bins=np.linspace(0, 1, 11), color="C3", edgecolor="white")
        ax.axvline(0.5, color="black", linewidth=1, linestyle="--", label="chance")
        ax.set(xlim=(0, 1), xlabel="area under the curve, plain similarity")
        ax.set_title(f"{kind} words, n = {len(values)}", fontsize=10)
    axes[0, 0].set_ylabel("words")
    axes[0, 0].legend(fontsize=8, loc="upper right")
    figure.suptitle(
        "Where a word points: 1 always at its object, 0 always away from it", x=0.01, ha="left", fontweight="bold"
    )
    return figure


def hits(words: pd.DataFrame) -> tuple[int, int]:
    """(words whose anchor has most of its weight on the named object, all words with an anchor)."""
    inside = words["inside"].dropna()
    return int((inside > 0.5).sum()), len(inside)


def regions_figure(parameters: Parameters, words: pd.DataFrame, maps: pd.DataFrame, samples: int = 6):
    """The references of the first samples, with the region outlined that each keyword's anchor is made of: a row per word
    of the prompt that names an object, a column per sample."""
    maps = maps[maps["what"] == "weight"]
    named = words[words["inside"].notna()]
    own = {name: list(dict.fromkeys(part["word"])) for name, part in named.groupby("sample", sort=False)}
    names = [name for name in dict.fromkeys(maps["sample"]) if name in own][:samples]
    own = {name: own[name] for name in names}
    rows = max(map(len, own.values()))
    records = {s["id"]: s for s in load_samples(parameters.benchmark.folder)}
    figure, axes = plt.subplots(rows, len(names), figsize=(1.55 * len(names), 1.75 * rows + 0.5), squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for column, name in zip(axes.T, names, strict=True):
        picture = Image.open(parameters.benchmark.folder / records[name]["image-path"]).convert("RGB")
        inside = named[named["sample"] == name].drop_duplicates("word").set_index("word")["inside"]
        for ax, word in zip(column, own[name], strict=False):
            part = maps[(maps["sample"] == name) & (maps["word"] == word)]
            grid = part.pivot(index="row", columns="column", values="value").to_numpy(float)
            used = np.kron(grid > 0, np.ones((picture.height // grid.shape[0], picture.width // grid.shape[1])))
            ax.imshow(picture, interpolation="lanczos")
            ax.contour(used, [0.5], colors="white", linewidths=2.5)
            ax.contour(used, [0.5], colors="black", linewidths=1.2)
            ax.set_title(f"{word}, {100 * inside[word]:.0f} % on it", fontsize=8, fontweight="normal", loc="center")
    found, count = hits(words)
    figure.suptitle(
        f"Regions that anchors are made of: most of the weight lies on the named object for {found} of {count} keywords",
        x=0.01, ha="left", fontweight="bold", fontsize=10,
    )  # fmt: skip
    return figure


def cache_figure(parameters: Parameters, maps: pd.DataFrame, weak: int, other: int):
    """Eq. 10's maps of one sample: keywords in rows; a weak block and another one, each without and with guidance. One
    scale and one colour bar for all."""
    part = maps[maps["what"].str.startswith("cache")]
    name = part["sample"].iloc[0]
    part = part[(part["sample"] == name) & part["block"].isin([weak, other])]
    words = list(dict.fromkeys(part["word"]))[:4]
    columns = [(block, state) for block in (weak, other) for state in ("plain", "guided")]
    figure, axes = plt.subplots(len(words), 4, figsize=(7.5, 1.35 * len(words) + 0.9), squeeze=False)
    low, high = part["value"].min(), part["value"].max()
    for line, word in zip(axes, words, strict=True):
        for ax, (block, state) in zip(line, columns, strict=True):
            one = part[(part["word"] == word) & (part["block"] == block) & (part["what"] == f"cache, {state}")]
            grid = one.pivot(index="row", columns="column", values="value")
            image = ax.imshow(grid, cmap="cividis", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            if word == words[0]:
                kind = "weak block" if block == weak else "block"
                ax.set_title(f"{kind} {block}\n{state}", fontsize=9, fontweight="normal", loc="center")
        line[0].set_ylabel(word, rotation=0, ha="right", va="center")
    figure.colorbar(image, ax=axes, label="cosine (Eq. 10)", shrink=0.8)
    prompt = {s["id"]: s["prompt"] for s in load_samples(parameters.benchmark.folder)}[name]
    figure.suptitle(f"What the cache compares: “{prompt}”", x=0.01, ha="left", fontweight="bold", fontsize=10)
    return figure


def cache_blocks(maps: pd.DataFrame, weak: list[int]) -> tuple[int, int]:
    """(first weak block, middle one of all blocks that is not weak)."""
    others = [b for b in sorted(maps["block"].dropna().unique().astype(int)) if b not in weak]
    return min(weak), others[len(others) // 2]


# --- What the parts do ------------------------------------------------------------------------------------------------
def part_scores(parameters: Parameters, results=None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scores of the sweep over the parts, scores of the unsteered model on the same samples and seeds)."""
    steered = sweep_table(parameters, SWEEP, results=results)
    plain = sweep_table(parameters, PLAIN, results=results)
    plain = plain[(plain["method"] == "none") & (plain["guidance_scale"] == 1)]
    return steered, plain.merge(steered[["sample", "seed"]].drop_duplicates())


def part_effects(steered: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """A row per part and measure against the unsteered videos: unsteered, difference, low, high, n, gained, lost, p."""
    rows = []
    for method in PARTS:
        part = steered[steered["method"] == method]
        for column, (_, unit, factor) in MEASURES.items():
            a, b = part, plain
            if column == "displacement_px":
                a, b = (t[t["main_category"] == "motion"] for t in (part, plain))
            d = paired_difference(a, b, column)
            row = {"setting": labels.setting(method), "measure": column, "unit": unit}
            row |= {"unsteered": factor * b[column].mean(), "unchanged": nothing_changed(d, len(a))}
            row |= {k: factor * d[k] for k in ("difference", "low", "high")}
            rows.append(row | {k: d[k] for k in ("n", "gained", "lost", "p")})
    table = pd.DataFrame(rows)
    return table.assign(**{"p (Holm)": holm(table["p"])})


def effects_figure(effects: pd.DataFrame):
    """Change against the unsteered model, a panel per measure with its unit and n."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(14, 2.5), sharey=True)
    for ax, (column, (label, unit, _)) in zip(axes, MEASURES.items(), strict=True):
        part = effects[effects["measure"] == column].rename(columns={"setting": "comparison"})
        difference_forest(ax, part)
        ax.set_title(f"{label}, n = {part['n'].iloc[0]}", fontsize=8, fontweight="normal")
        ax.set_xlabel(f"change ({unit})", fontsize=8)
        ax.locator_params(axis="x", nbins=4)
    figure.suptitle("Change against the unsteered model: 0 is no effect", x=0.01, ha="left", fontweight="bold")
    return figure


def parts_strips(parameters: Parameters, count: int = 4):
    """Film strips of the unsteered model and of each part on one sample of each event type: the first of those whose
    strips are kept. The small run's, which are equal videos."""
    steered, plain = part_scores(parameters, "results")
    seed = steered["seed"].iloc[0]
    shown = plain[plain["seed"] == seed].drop_duplicates("main_category")["sample"].tolist()[:count]
    prompts = {s["id"]: s["prompt"] for s in load_samples(parameters.benchmark.folder)}
    strips, marks = {}, {}
    for method in ("none", *PARTS):
        sweep, table = (PLAIN, plain) if method == "none" else (SWEEP, steered[steered["method"] == method])
        sheet = load_strips(sweep, method=method, seed=seed, guidance_scale=1.0)
        order = list(dict.fromkeys(sweep_table(parameters, sweep, results="results")["sample"]))
        mine = table[(table["seed"] == seed) & table["sample"].isin(shown)]
        told = outcomes(mine, parameters.benchmark.seed).set_axis(mine["sample"])
        for sample in shown:
            key = (labels.setting(method), prompts[sample])
            strips[key], marks[key] = sheet[order.index(sample)], told[sample]
    shape = next(iter(strips.values())).shape
    count, last = shape[1] // shape[0], parameters.backbones[steered["backbone"].iloc[0]].frames - 1
    frames = [round(last * i / (count - 1)) for i in range(count)]
    return film_figure(strips, marks, "The first prompt of each event type, unsteered and under each part", frames)


# --- Sentences --------------------------------------------------------------------------------------------------------
def sentences(words: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """What the study found, from its own numbers."""
    table, (found, count) = pointing_table(words), hits(words)
    told = []
    for row in table.to_dict("records"):
        away = {"below": "on average its negative points better", "above": "on average the plain similarity points better",
                "not clear of": "on average neither sign points better"}[side(row["low"], row["high"], 0.5)]  # fmt: skip
        told.append(
            f"For {row['kind']} words the similarity points clearly at the object for {100 * row['points at']:.0f} % and clearly away "
            f"for {100 * row['points away']:.0f} % of {row['words']}; {away} (area {number(row['auc'], 2)}, "
            f"{interval(row['low'], row['high'], 2)})."
        )
    told.append(f"Most of an anchor's weight lies on the named object for {found} of {count} keywords.")
    part = effects[effects["measure"] == "adherence"]
    changes = "; ".join(f"{r['setting']} {_effect(r)}" for r in part.to_dict("records"))
    clear = {side(r["low"], r["high"]) for r in part.to_dict("records")}
    end = " None is clear of zero." if clear == {"not clear of"} else ""
    told.append(f"Without any training, adherence changes by: {changes}; {part['n'].iloc[0]} prompts.{end}")
    return told


def _effect(row: dict) -> str:
    return row["unchanged"] or effect(row["difference"], row["low"], row["high"], "points")


def verdicts(words: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Claim, effect in words, n and verdict: the sign of the similarity, and adherence without training."""
    rows = []
    for row in pointing_table(words).to_dict("records"):
        claim = f"The negative similarity points at the object on average: {row['kind']} words (Eq. 6)."
        told_ = f"area {number(row['auc'], 2)} ({interval(row['low'], row['high'], 2)}), chance 0.5"
        tested = {k: row[k] for k in ("low", "high", "p")}
        rows.append({"claim": claim, "effect": told_, "n": row["prompts"], "sign": -1, "line": 0.5} | tested)
    for row in effects[effects["measure"] == "adherence"].to_dict("records"):
        claim = f"{row['setting']} raises adherence without training (table 3)."
        told_ = _effect(row)
        tested = {k: row[k] for k in ("low", "high", "p")}
        rows.append({"claim": claim, "effect": told_, "n": row["n"], "sign": 1, "line": 0.0} | tested)
    return decided(rows)
