"""Pictures of a pair of videos: film strips, where both looked, and a moving picture."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from testbed.world import SIZE

from ..report.film_strips import film_figure
from ..report.findings import number
from .steered_pair import RUNS, Pair

SHOWN = 5  # frames of a strip


def shown_frames(count: int) -> list[int]:
    """The numbers of the frames that a strip shows of a video of `count`, from the first to the last."""
    return np.linspace(0, count - 1, SHOWN).round().astype(int).tolist()


def film_strip(video: np.ndarray) -> np.ndarray:
    """Some frames of a video (T, H, W, 3), from the first to the last, side by side: (H, 5 W, 3)."""
    return np.concatenate(video[shown_frames(len(video))], axis=1)


def strips_figure(pair: Pair, more: dict[str, Pair] | None = None):
    """Film strips of both videos, the unsteered one above; `more`: label -> a pair of the same scene, whose steered video
    is added below. Edges tell what became of each."""
    rows = {"unsteered": (pair.videos[0], pair.outcomes[0])}
    steered = {"steered": pair} if more is None else more
    rows |= {label: (one.videos[1], one.outcomes[1]) for label, one in steered.items()}
    strips = {(label, ""): film_strip(video) for label, (video, _) in rows.items()}
    marks = {(label, ""): outcome for label, (_, outcome) in rows.items()} if len(pair.answers) else None
    verdict = f"\n{pair.verdict}" if len(pair.answers) and more is None else ""
    return film_figure(strips, marks, f"“{pair.request.prompt}”{verdict}", shown_frames(len(pair.videos[0])))


def attention_changes(pair: Pair):
    """Steered less unsteered share of attention in percent points: rows panel, block; columns group; a panel of two groups
    has one of them, as the other is its mirror image."""
    for panel, part in pair.attention.groupby("panel", sort=False):
        blocks, groups = part["block"].unique(), part["group"].unique()
        shares = part.pivot(index=["run", "block"], columns="group", values="share") * 100
        shown = [shares.loc[run].loc[blocks, groups] for run in RUNS]
        yield panel, blocks, groups, shown, shown[1] - shown[0]


def attention_sentence(pair: Pair) -> str:
    """Where attention changed most, and how much in blocks in which a method acts and in others."""
    largest, where, inside, outside = 0.0, "", [], []
    for panel, blocks, _groups, _, change in attention_changes(pair):
        block, group = change.abs().stack().idxmax()
        if abs(change.loc[block, group]) > abs(largest):
            largest, where = change.loc[block, group], f"{group} in {panel}, block {block}"
        for b in blocks:
            (inside if int(b) in pair.acting else outside).append(float(change.loc[b].abs().max()))
    if not where:
        return "Both runs looked at the same."
    text = f"The largest change is that of {where}: {number(largest, sign=True)} points."
    if pair.acting and outside:
        text += (
            f" The largest change per block is {np.mean(inside):.1f} points on average in the marked blocks, in which a method "
            f"acts, and {np.mean(outside):.1f} in the others, which see what the marked ones made."
        )
    return text


def attention_figure(pair: Pair):
    """Shares of attention by token group in every block: unsteered, steered, and the change in percent points, on one scale.
    Grey bands mark the blocks that a method with a list of blocks acts in."""
    parts = list(attention_changes(pair))
    figure, axes = plt.subplots(len(parts), 3, figsize=(9.5, 2.1 * len(parts) + 0.5), squeeze=False)
    limit = max(max(change.abs().to_numpy().max() for *_, change in parts) * 1.15, 0.1)
    for row, (line, (panel, blocks, groups, shown, change)) in enumerate(zip(axes, parts, strict=True)):
        for ax, table, title in zip(line, shown, RUNS, strict=False):
            bottom = table.cumsum(axis=1) - table
            for i, name in enumerate(groups):
                ax.bar(blocks, table[name], bottom=bottom[name], color=f"C{i}", label=name)
            ax.set(ylim=(0, 100), title=title if row == 0 else "")
        for i, name in enumerate(groups[:1] if len(groups) == 2 else groups):
            line[2].plot(range(len(blocks)), change[name], "o-", color=f"C{i}", label=f"change of {name}")
        for place, block in enumerate(blocks):
            if int(block) in pair.acting:
                line[2].axvspan(place - 0.5, place + 0.5, color="0.9", zorder=0)
        line[2].set_xticks(range(len(blocks)), blocks)
        line[2].axhline(0, color="black", linewidth=0.8)
        line[2].set(ylabel="percent points", ylim=(-limit, limit), title="change" if row == 0 else "")
        handles, names = line[1].get_legend_handles_labels()
        line[2].legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5))
        line[0].set_ylabel(f"{panel}\nshare in %")
    for ax in axes[-1]:
        ax.set_xlabel("block")
    band = "; grey: blocks in which a method acts" if pair.acting else ""
    same = not any(change.abs().to_numpy().max() for *_, change in parts)
    title = "Both runs looked at the same" if same else f"Where both runs looked, and the change{band}"
    figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure


def animation(pair: Pair, scale: int = 2) -> bytes:
    """Both videos side by side as a GIF that repeats, its last frame held; 64 colours keep it small."""
    side, header, canvases = SIZE * scale, 14, []
    for both in zip(*pair.videos, strict=True):
        canvas = Image.new("RGB", (2 * side + scale, side + header), "white")
        for i, frame in enumerate(both):
            canvas.paste(Image.fromarray(frame).resize((side, side), Image.NEAREST), (i * (side + scale), header))
            ImageDraw.Draw(canvas).text((i * (side + scale) + 2, 1), RUNS[i], fill="black")
        canvases.append(canvas)
    palette = Image.fromarray(np.concatenate([np.asarray(c) for c in canvases])).quantize(64)
    first, *rest = [c.quantize(palette=palette, dither=Image.Dither.NONE) for c in canvases]
    out = io.BytesIO()
    held = [1000 // pair.fps] * len(rest) + [1000]  # milliseconds
    first.save(out, "GIF", save_all=True, append_images=rest, duration=held, loop=0)
    return out.getvalue()
