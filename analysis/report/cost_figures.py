"""What steering and recording cost: the tables of `make bench` as figures, targets and sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import NullFormatter

from ..bench.recording_cost import EXPLICIT, PLAIN, RECORDED
from ..study.results_layout import bench_folder
from .findings import number

KINDS = {"CPU": "cpu", "GPU": "cuda"}
STEERING = ("AlignVid, gamma 1", "AlignVid", "AlignVid, self-attention too", "DyMoS", "DyMoS as an L x L mask",
            "DyMoS by FlexAttention")  # fmt: skip
RECORDING = ("record, 16 queries a frame", "record, all queries")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Target:
    """At most `limit`, compared at `digits` digits; length: the tokens that the target names, None for any device's longest."""

    setting: str
    limit: float
    digits: int
    length: int | None = None

    @property
    def records(self) -> bool:
        return self.setting.startswith("record")


def targets(tokens: int) -> list[Target]:
    """What the implementation is held to; those of the methods name a GPU at the length of a real video."""
    return [Target("AlignVid, gamma 1", 1.0, 2), Target("AlignVid", 1.001, 3, tokens), Target("DyMoS", 1.01, 2, tokens),
            Target("record, all queries", 1.0, 2), Target("record, 16 queries a frame", 1.0, 2)]  # fmt: skip


def load(name: str) -> dict[str, pd.DataFrame]:
    """Table `attention` or `recording` of each kind of device that was timed."""
    paths = {kind: bench_folder() / f"{name}-{device}.csv" for kind, device in KINDS.items()}
    return {kind: pd.read_csv(path) for kind, path in paths.items() if path.is_file()}


def machines(blocks: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per kind of device: machine, threads, lengths, or that it was not run."""
    rows = []
    for kind in KINDS:
        row = {"device": kind, "machine": NOT_RUN, "threads": "", "tokens": ""}
        if kind in blocks:
            table = blocks[kind]
            span = f"{table['tokens'].min():,} to {table['tokens'].max():,}"
            row |= {"machine": table["device"].iloc[0], "threads": str(table["threads"].iloc[0]), "tokens": span}
        rows.append(row)
    return pd.DataFrame(rows)


def _lengths(ax, lengths) -> None:
    ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
    ax.xaxis.set_minor_formatter(NullFormatter())


def cost_figure(blocks: dict[str, pd.DataFrame], attentions: dict[str, pd.DataFrame]):
    """Time of a block relative to the plain one against its length: steering on the left, recording on the right."""
    figure, axes = plt.subplots(len(blocks), 2, figsize=(11, 3.6 * len(blocks)), squeeze=False)
    for row, (kind, table) in zip(axes, blocks.items(), strict=True):
        plain = table[table["setting"] == "plain"].set_index("tokens")["ms"]
        lengths = sorted(plain.index)
        for ax, names, topic in zip(row, (STEERING, RECORDING), ("steering", "recording"), strict=True):
            for i, name in enumerate(n for n in names if n in set(table["setting"])):
                s = table[table["setting"] == name]
                bars = [s["ratio"] - s["ratio_low"], s["ratio_high"] - s["ratio"]]
                x = s["tokens"] * (1 + 0.02 * (i - 2))  # side by side, so that bars do not hide each other
                ax.errorbar(x, s["ratio"], bars, fmt="o-", capsize=3, color=f"C{i}", label=name)
            shown = table.loc[table["setting"].isin(names), "ratio"]
            ax.set_ylim(min(shown.min(), 1) - 0.06, max(shown.max(), 1) + 0.06)
            ax.axhline(1, color="black", linewidth=1)
            ax.set(xscale="log", xlabel="tokens", ylabel="time / plain block")
            ax.set_title(f"{topic}, {kind}: {table['device'].iloc[0]}")
            _lengths(ax, lengths)
        if kind == "GPU":
            for limit, color in ((1.001, "C1"), (1.01, "C3")):
                row[0].axhline(limit, color=color, linestyle=":", linewidth=1.2)
        passes = attentions[kind].query("way == @PLAIN").set_index("tokens")["ms"]
        row[1].plot(lengths, 1 + (passes / plain)[lengths], ":", color="black", label="target: one more attention pass")
        for ax in row:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
    figure.suptitle("Time of one block relative to the plain one; bars are quartiles over rounds", x=0.01, ha="left")
    return figure


def map_figure(attentions: dict[str, pd.DataFrame], tokens: int, heads: int):
    """Time and peak memory of one attention with its statistics, recorded and by the explicit map; a star for one map of a
    real video, which is computed."""
    figure, axes = plt.subplots(len(attentions), 2, figsize=(11, 3.6 * len(attentions)), squeeze=False)
    for row, (kind, table) in zip(axes, attentions.items(), strict=True):
        for ax, column, label in zip(row, ("ms", "peak_mb"), ("time (ms)", "peak memory (MB)"), strict=True):
            for i, way in enumerate((PLAIN, RECORDED, EXPLICIT)):
                s = table[(table["way"] == way) & table[column].notna()]
                ax.plot(s["tokens"], s[column], "o-", color=f"C{i}", label=way)
            ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
            _lengths(ax, sorted(set(table["tokens"]) | ({tokens} if column == "peak_mb" else set())))
            ax.set_title(f"{kind}: {table['device'].iloc[0]}")
        size = map_bytes(tokens, heads)
        name = f"one map of {heads} heads (computed): {size / 1e9:.0f} GB"
        row[1].plot(tokens, size / 1e6, "*", markersize=13, color="black", label=name)
        row[0].legend(loc="upper left", fontsize=8)
        row[1].legend(*[x[-1:] for x in row[1].get_legend_handles_labels()], loc="upper left", fontsize=8)
    figure.suptitle("One attention with its statistics: time and peak memory", x=0.01, ha="left")
    return figure


def map_bytes(tokens: int, heads: int) -> int:
    """Bytes of the softmax of all heads in 4-byte numbers."""
    return 4 * heads * tokens**2


def growth(attentions: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The explicit map relative to the recorder at each length, and both slopes on logarithmic axes."""
    rows = []
    for kind, table in attentions.items():
        for column, measure in (("ms", "time"), ("peak_mb", "peak memory")):
            wide = table.pivot(index="tokens", columns="way", values=column).dropna()
            times = wide.iloc[-1] / wide.iloc[0]
            slope = times.map(lambda g, n=wide.index: math.log(g) / math.log(n[-1] / n[0])).round(2)
            ratios = (wide[EXPLICIT] / wide[RECORDED]).round(1)
            row = {"device": kind, "measure": measure} | {f"{n:,} tokens": v for n, v in ratios.items()}
            rows.append(row | {"slope, recorded": slope[RECORDED], "slope, explicit map": slope[EXPLICIT]})
    return pd.DataFrame(rows)


def all_numbers(blocks, attentions, tokens: int, heads: int) -> pd.DataFrame:
    """Every timing in one table; a device without a run has a row that says so."""
    parts = []
    for kind in KINDS:
        if kind not in blocks:
            parts.append(pd.DataFrame([{"kind": kind, "source": NOT_RUN}]))
            continue
        parts.append(blocks[kind].assign(kind=kind, source="measured", part="block").rename(columns={"setting": "way"}))
        parts.append(attentions[kind].assign(kind=kind, source="measured", part="one attention"))
        parts[-1].loc[parts[-1]["ms"].isna(), "source"] = "left out: " + parts[-1]["reason"].astype(str)
    star = {"tokens": tokens, "way": f"{EXPLICIT}, {heads} heads", "peak_mb": map_bytes(tokens, heads) / 1e6}
    parts.append(pd.DataFrame([star | {"source": "computed"}]))
    columns = ["kind", "device", "threads", "part", "tokens", "way", "ms", "ratio", "ratio_low", "ratio_high"]
    result = pd.concat(parts)[[*columns, "peak_mb", "source"]].round({"peak_mb": 1})
    return result.astype({"tokens": "Int64", "threads": "Int64"})


def judged(blocks, attentions, tokens: int) -> pd.DataFrame:
    """A row per target and device: what was measured, its quartiles, and whether the target is met, missed or not run.

    A target is met if the median, rounded to its digits, is at most the limit, at the length that it names or the longest
    timed. Recording all queries is judged on one attention, its ratio less 1; 16 a frame on the block, the added time over
    that of one plain attention.
    """
    rows = []
    for target in targets(tokens):
        for kind in ("GPU",) if target.length else KINDS:
            unit = "extra attention passes" if target.records else "of a block"
            row = {"setting": target.setting, "device": kind, "target": f"≤ {target.limit:.{target.digits}f} {unit}",
                   "tokens": f"{target.length:,}" if target.length else "", "measured": "", "quartiles": "", "verdict": NOT_RUN}  # fmt: skip
            rows.append(row)
            if kind not in blocks or (target.length and target.length not in set(blocks[kind]["tokens"])):
                continue
            at, attention = target.length or blocks[kind]["tokens"].max(), attentions[kind].set_index(["tokens", "way"])
            block = blocks[kind].set_index(["tokens", "setting"])
            found = (
                attention.loc[(at, RECORDED)]
                if target.setting == "record, all queries"
                else block.loc[(at, target.setting)]
            )
            values = found[["ratio", "ratio_low", "ratio_high"]].astype(float)
            if target.records:
                one = attention.loc[(at, PLAIN), "ms"] / block.loc[(at, "plain"), "ms"] if "16" in target.setting else 1
                values = (values - 1) / one
            middle, low, high = values.round(target.digits)
            row |= {"tokens": f"{at:,}", "measured": f"{middle:g}", "quartiles": f"{low:g} to {high:g}",
                    "verdict": "met" if middle <= target.limit else "missed"}  # fmt: skip
    return pd.DataFrame(rows)


def sentences(blocks, attentions, tokens: int) -> list[str]:
    """What the timings found, from their own numbers."""
    told = []
    for kind, table in blocks.items():
        at = table["tokens"].max()
        rows = table[table["tokens"] == at].set_index("setting")
        shown = [f"{name} {_ratio(rows.loc[name])}" for name in STEERING[:4] if name in rows.index]
        told.append(
            f"On a {kind} at {at:,} tokens, time of a block relative to the plain one (quartiles): {', '.join(shown)}."
        )
        attention = attentions[kind].pivot(index="tokens", columns="way", values="peak_mb").dropna()
        least = (attention[EXPLICIT] / attention[RECORDED]).iloc[-1]
        passes = attentions[kind].set_index(["tokens", "way"]).loc[(at, RECORDED), "ratio"] - 1
        told.append(
            f"Recording every query costs {number(passes, 2)} extra attention passes and, at {attention.index[-1]:,} tokens, "
            f"{number(1 / least, 3)} of the explicit map's memory."
        )
    missing = [kind for kind in KINDS if kind not in blocks]
    table = judged(blocks, attentions, tokens)
    counts = table["verdict"].value_counts()
    told.append(f"Targets: {', '.join(f'{n} {word}' for word, n in counts.items())}.")
    if missing:
        told.append(f"**No run on a {' or '.join(missing)}**: the targets that name one are undecided.")
    return told


def _ratio(row) -> str:
    return f"{number(row['ratio'], 3)} ({number(row['ratio_low'], 3)} to {number(row['ratio_high'], 3)})"
