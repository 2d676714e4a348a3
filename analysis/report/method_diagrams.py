"""One diagram per method: which logits, values or tokens it changes, in which blocks and steps.

What AlignVid and DyMoS do to the logits is not drawn by hand: the method itself edits a call of attention with one token per
group, and is asked in which steps and blocks it is active. The other two change no logits; their boxes say what they do.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from methods.core.attention_call import AttentionCall
from methods.core.forward_context import ForwardContext
from methods.families import COGVIDEOX, GROUPS, WAN, Block
from methods.families.tokens import Tokens, make_layout
from methods.registry import from_dict

from ..study.files import write_atomically
from ..study.parameters import Parameters
from .notebook_page import png

FOLDER = Path("docs/diagrams")
# method -> (file, setting of params.yaml on a Wan-type and on a CogVideoX-type model)
DRAWN = {
    "AlignVid": ("align_vid", "alignvid", "alignvid"),
    "DyMoS": ("dymos", "dymos-1", "dymos-1"),
    "Focal Guidance": ("focal_guidance", "focal-full", "focal-joint-full"),
    "Low-pass guidance": ("low_pass_guidance", "alg", "alg"),
}
WORDS = {
    "text": "words",
    "text_padding": "padding",
    "image": "image",
    "reference": "reference\nframe",
    "video": "other\nframes",
}
# site -> (title, groups of its queries, groups of its keys), of the two kinds of model
SITES = {
    "self": ("self-attention", ("reference", "video"), ("reference", "video")),
    "text": ("text attention", ("reference", "video"), ("text", "text_padding")),
    "image": ("image attention", ("reference", "video"), ("image",)),
    "joint": ("joint attention", ("text", "reference", "video"), ("text", "reference", "video")),
}
KINDS = {
    "Wan type: separate attentions": (WAN, ("self", "text", "image")),
    "CogVideoX type: one joint attention": (COGVIDEOX, ("joint",)),
}
PLAIN, SCALED, BIASED, WRITTEN = "#eeeeee", "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True)
class Edit:
    """What a method does to one attention: factor and bias of the logits, (queries, keys), both groups in order."""

    factor: np.ndarray
    bias: np.ndarray


def _tokens(groups: tuple[str, ...]) -> Tokens:
    codes = torch.tensor([[GROUPS.index(g) for g in groups]], dtype=torch.int8)
    frames = torch.tensor([{"reference": 0, "video": 1}.get(g, -1) for g in groups], dtype=torch.int32)
    latent = [i for i, g in enumerate(groups) if g in ("reference", "video")]
    return Tokens(codes, frames, slice(latent[0], latent[-1] + 1) if latent else slice(0, 0))


def _model(family: str, sites: tuple[str, ...], blocks: int) -> SimpleNamespace:
    groups = frozenset(g for site in sites for g in SITES[site][2])
    named = tuple(Block(i, str(i)) for i in range(blocks))
    return SimpleNamespace(blocks=named, family=family, sites=sites, groups=groups, image_to_video=True)


def edit_of(method, family: str, site: str, blocks: int) -> Edit | None:
    """What `method` does to the logits of `site` where it is active; None if it is nowhere."""
    _, queries, keys = SITES[site]
    model = _model(family, next(s for f, s in KINDS.values() if f == family), blocks)
    active = [(c, b) for c in contexts(10) for b in model.blocks if method.active(model, c, b, site)]
    if not active or (site == "joint" and not hasattr(method, "gamma")):
        return None
    context, block = active[0]
    q, k = _tokens(queries), _tokens(keys)
    ones = [torch.ones(1, 1, len(groups), 4) for groups in (queries, keys, keys)]
    at = keys.index("reference") if "reference" in keys else None
    reference = None if at is None else slice(at, at + 1)
    layout = make_layout({"joint" if site == "joint" else "video": q, site: k}, (2, 1, 1), reference)
    call = AttentionCall(*ones, None, 0.5, site, block, context, layout, q, k, reference, model=model)
    method.edit(call)
    factor, bias = np.ones((len(queries), len(keys))), np.zeros((len(queries), len(keys)))
    for rows, logits in call.query_classes():
        query, key, scale = call.scaled(rows, logits)
        factor[rows] = (query @ key.transpose(-1, -2))[0, 0].numpy() * scale / (4 * call.scale)
    if call.bias is not None:
        bias[:, reference] = call.bias.numpy()[:, None]
    return Edit(factor, bias)


def contexts(steps: int) -> list[ForwardContext]:
    """The conditional forward passes of a sampling loop, at times that fall evenly."""
    return [ForwardContext(i, steps, 1000.0 * (1 - i / steps), "cond", 1.0) for i in range(steps)]


def when_and_where(method, family: str, blocks: int, steps: int = 10) -> np.ndarray:
    """bool (blocks, steps): where the method acts."""
    sites = next(s for f, s in KINDS.values() if f == family)
    model = _model(family, sites, blocks)
    acts = np.zeros((blocks, steps), bool)
    for j, context in enumerate(contexts(steps)):
        if hasattr(method, "strength") and not hasattr(method, "gamma"):  # low-pass: the whole pass is another one
            acts[:, j] = method.strength(context) > 0
            continue
        for i, block in enumerate(model.blocks):
            weak = hasattr(method, "weak") and i in method.weak
            acts[i, j] = (
                weak if hasattr(method, "weak") else any(method.active(model, context, block, s) for s in sites)
            )
    return acts


# --- Drawing ----------------------------------------------------------------------------------------------------------
def _matrix(ax, site: str, edit: Edit | None, written: dict[str, str]) -> None:
    """Queries in rows, keys in columns; `written`: key group -> what is written into its values."""
    title, queries, keys = SITES[site]
    for i, (j, key) in ((a, b) for a in range(len(queries)) for b in enumerate(keys)):
        colour, text = PLAIN, ""
        if edit is not None and not np.isclose(edit.factor[i, j], 1):
            colour, text = SCALED, "× γ" if edit.factor[i, j] < 1.6 else "× γ²"
        if edit is not None and edit.bias[i, j]:
            colour, text = BIASED, "− γ" if edit.bias[i, j] < 0 else "+ γ"
        if key in written:
            colour, text = WRITTEN, written[key]
        ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color="white", fontsize=9, fontweight="bold")
    ax.set(xlim=(0, len(keys)), ylim=(len(queries), 0), aspect="equal")
    ax.set_xticks(np.arange(len(keys)) + 0.5, [WORDS[g] for g in keys], fontsize=8 if len(keys) < 3 else 7)
    ax.set_yticks(np.arange(len(queries)) + 0.5, [WORDS[g] for g in queries], fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    ax.set_title(title, fontsize=9, fontweight="normal", loc="left")
    ax.set_xlabel("keys", fontsize=8)


def _schedule(ax, acts: np.ndarray, colour: str) -> None:
    picture = np.where(acts[..., None], matplotlib.colors.to_rgb(colour), matplotlib.colors.to_rgb(PLAIN))
    ax.imshow(picture, origin="lower", aspect="auto")
    ax.set_xticks(np.arange(-0.5, acts.shape[1]), [], minor=True)
    ax.set_yticks(np.arange(-0.5, acts.shape[0]), [], minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0, labelsize=7)
    ax.set_xticks(range(0, acts.shape[1], 3), range(1, acts.shape[1] + 1, 3))
    ax.set_yticks(range(0, acts.shape[0], 3))
    ax.spines[:].set_visible(False)
    ax.set_xlabel("denoising step", fontsize=8)
    ax.set_ylabel("block", fontsize=8)
    ax.set_title("when and where", fontsize=9, fontweight="normal", loc="left")


NOTES = {
    "AlignVid": "Keys of the conditioning are scaled, so their logits are multiplied by γ, in both guidance branches. Where text and "
    "video share one softmax and there are no image tokens, these are the text's keys; the reference frame is video.",
    "DyMoS": "A constant is taken off the logits with which later frames look at the reference frame. The reference frame's own "
    "queries, and the unconditional branch, are left alone.",
    "Focal Guidance": "In weak blocks, the look of each keyword's place in the reference (its anchor) is added to the keyword's text "
    "values (+V), to the reference frame's tokens at that place, and, by the cache of the other blocks' maps, to all frames' "
    "tokens. Logits stay as they are. Conditional branch only.",
    "Low-pass guidance": "No attention is edited. In the first steps the whole model runs once more, with a low-pass version of the image "
    "condition, and the prompt's direction is taken from that pass. Without guidance the filtered pass replaces the sharp one.",
}
COLOUR = {"AlignVid": SCALED, "DyMoS": BIASED, "Focal Guidance": WRITTEN, "Low-pass guidance": "#009E73"}


def diagram(name: str, parameters: Parameters, blocks: int = 10):
    """The figure of one method of DRAWN, at the settings that params.yaml has for the two kinds of model."""
    _, *settings = DRAWN[name]
    kinds = dict(KINDS)
    if name == "Low-pass guidance":  # acts on whole passes, so the kind of attention makes no difference
        kinds, settings = {"Both kinds of model alike": next(iter(KINDS.values()))}, settings[:1]
    figure = plt.figure(figsize=(8.6, 0.6 + 2.4 * len(kinds)))
    rows = np.atleast_1d(figure.subfigures(len(kinds), 1, hspace=0.02))
    for row, (kind, (family, sites)), setting in zip(rows, kinds.items(), settings, strict=True):
        method = from_dict(parameters.methods[setting][0])
        row.suptitle(kind, x=0.01, ha="left", fontsize=10, fontweight="bold")
        if name == "Low-pass guidance":
            axes = row.subplots(1, 2, width_ratios=[2.6, 1])
            _passes(axes[0])
        else:
            widths = [len(SITES[s][2]) + 1 for s in sites]
            axes = row.subplots(1, len(sites) + 1, width_ratios=[*widths, 3.2 if len(sites) > 1 else 3])
            for ax, site in zip(axes[:-1], sites, strict=True):
                written = {"text": "+ V"} if name == "Focal Guidance" and site in ("text", "joint") else {}
                _matrix(
                    ax,
                    site,
                    None if written or name == "Focal Guidance" else edit_of(method, family, site, blocks),
                    written,
                )
            axes[0].set_ylabel("queries", fontsize=8)
            if name == "Focal Guidance":
                _tokens_written(axes[0], SITES[sites[0]][1], SITES[sites[0]][2])
        _schedule(axes[-1], when_and_where(method, family, blocks), COLOUR[name])
    figure.suptitle(f"{name}: what is changed", x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(_wrapped(NOTES[name]), x=0.01, ha="left", fontsize=8)
    return figure


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118)


def _tokens_written(ax, queries: tuple[str, ...], keys: tuple[str, ...]) -> None:
    """Marks the rows whose tokens get the anchors before the block, in the columns of the video."""
    left = keys.index("reference")
    for i, group in enumerate(queries):
        if group in ("reference", "video"):
            words = "+ latent, cache" if group == "reference" else "+ cache"
            ax.add_patch(Rectangle((left + 0.02, i + 0.03), 0.09, 0.94, facecolor=WRITTEN, edgecolor="none", zorder=3))
            ax.text(left + 0.2, i + 0.5, words, ha="left", va="center", fontsize=7, color="#8a3a6c")


def _passes(ax) -> None:
    """The three passes of an active step and what is made of them."""
    boxes = [("sharp image, no prompt", "u"), ("filtered image, no prompt", "u'"), ("filtered image, prompt", "c'")]
    for i, (text, symbol) in enumerate(boxes):
        colour = COLOUR["Low-pass guidance"] if "filtered" in text else "0.75"
        ax.add_patch(Rectangle((0, 2 - i), 3.1, 0.8, facecolor=colour, edgecolor="white"))
        ax.text(
            1.55, 2.4 - i, f"{text}: {symbol}", ha="center", va="center", color="white" if i else "black", fontsize=9
        )
    ax.annotate("", (3.7, 1.4), (3.2, 1.4), arrowprops={"arrowstyle": "->"})
    ax.text(3.8, 1.4, "u + w (c' − u')", va="center", fontsize=11)
    ax.set(xlim=(0, 6), ylim=(-0.1, 3))
    ax.set_axis_off()
    ax.set_title("passes of an active step", fontsize=9, fontweight="normal", loc="left")


def draw_diagrams(parameters: Parameters, folder: Path = FOLDER) -> list[Path]:
    """Draw every method of DRAWN into `<folder>/<file>.png`; the paths."""
    paths = []
    for name, (file, *_) in DRAWN.items():
        figure = diagram(name, parameters)
        picture = png(figure)
        plt.close(figure)
        paths.append(folder / f"{file}.png")
        write_atomically(paths[-1], lambda path, picture=picture: path.write_bytes(picture))
    return paths
