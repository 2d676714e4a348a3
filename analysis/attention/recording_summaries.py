"""Summaries of recorded sweeps: small tables from which the attention notebooks are drawn without videos or a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.progress import track
from ..study.results_layout import runs_folder, sweep_folder
from ..study.significance import holm, mean_and_p

FLOATS = "%.5g"
CELL = ["method", "guidance_scale", "blur", "seed", "sample"]
# What the tables are read as: (site, statistic, key) -> name. Wan has a softmax of its own for text and for image tokens,
# so their shares are shares of that branch, and the branches are compared by the length of what they add. CogVideoX has
# one softmax over text and video; its padding is not masked and cannot be told from words, so "text" holds both.
MEASURES = {
    ("text", "mass", "text"): "words in text attention",
    ("text", "mass", "text_padding"): "padding in text attention",
    ("self", "mass", "reference"): "reference in self-attention",
    ("self", "mass", "video"): "other frames in self-attention",
    ("text", "entropy", ""): "entropy, text with padding",
    ("text", "conditioning_entropy", ""): "entropy, words",
    ("image", "entropy", ""): "entropy, image tokens",
    ("self", "entropy", ""): "entropy, self-attention",
    ("text", "largest", ""): "largest weight, text",
    ("image", "largest", ""): "largest weight, image tokens",
    ("self", "largest", ""): "largest weight, self-attention",
    ("joint", "mass", "text"): "text in joint attention",
    ("joint", "mass", "reference"): "reference in joint attention",
    ("joint", "mass", "video"): "other frames in joint attention",
    ("joint", "entropy", ""): "entropy, joint attention",
    ("joint", "conditioning_entropy", ""): "entropy, text and reference",
    ("joint", "largest", ""): "largest weight, joint attention",
}
TEXT_SHARE = "text in cross-attention output"
EARLY = 0.2  # DyMoS acts in the first fifth of the steps (its table 3), and AlignVid's early window is about as long


def read_recording(path: Path) -> pd.DataFrame:
    """One video's recorded statistics. Raises ValueError naming the file if it is missing or broken."""
    try:
        return pd.read_csv(path, dtype={"block": str, "key": str}, keep_default_na=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable recording ({error}); delete its video and generate again") from None


def summarise_recordings(parameters: Parameters, sweep: str) -> None:
    """Write attention-cells.csv, -steps.csv and, if frames were recorded, -frames.csv of a sweep, from its recordings.

    All values are means over heads, and over the queries of frames other than the reference's (of frame f in -frames).
    Attention between frames is a share of the attention to video tokens: what goes to text in joint attention is left out.
    cells: per video, mean over blocks and over the steps of a window ("early": the first fifth; "all").
    steps: per step and block, mean over videos and standard error; of the attention between frames only that to frame 0.
    frames: per video and window, attention from each latent frame to each (rows sum to 1), mean over blocks.
    """
    if parameters.sweeps[sweep].record is None:
        raise ValueError(f"sweeps.{sweep} has no `record`, so there is no attention to summarise")
    folder, out = runs_folder(parameters, sweep), sweep_folder(parameters, sweep)
    if not (folder / "manifest.csv").is_file():
        raise ValueError(f"no manifest in {folder}: run `python -m analysis generate {sweep}` first")
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    if len(bad := manifest[manifest["status"] != "ok"]):
        raise ValueError(f"{len(bad)} videos of {sweep} failed, first: {bad.iloc[0]['reason']}")
    cells, steps, frames = [], [], []
    for row in track(manifest.to_dict("records"), len(manifest), f"attention {sweep}"):
        found = of_video(read_recording(folder / f"{row['key']}.csv.gz"))
        for tables, part in zip((cells, steps, frames), found, strict=True):
            tables.append(part.assign(**{k: row[k] for k in CELL}))
    cells = pd.concat(cells)
    if len(cells):
        write_table(cells[[*CELL, "window", "site", "statistic", "key", "value"]], out / "attention-cells.csv", FLOATS)
    write_table(_over_videos(pd.concat(steps)), out / "attention-steps.csv", FLOATS)
    frames = pd.concat(frames)
    if len(frames):
        write_table(
            frames[[*CELL, "window", "query_frame", "key_frame", "value"]], out / "attention-frames.csv", FLOATS
        )


def of_video(recording: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(cells, steps, frames) of one video, as `summarise_recordings` describes them; frames are empty if not recorded."""
    table = _between_frames(recording)
    table = table[table["branch"] == "cond"]
    early = table[table["step"] < np.ceil(EARLY * table["steps"])]
    looks_back = (table["query_frame"] > 0) & ((table["statistic"] != "frame_mass") | (table["key"] == "0"))
    cells, frames = [], []
    for window, part in (("all", table), ("early", early)):
        between = part["statistic"] == "frame_mass"
        rest = part[~between & (part["query_frame"] > 0)]
        cells.append(_mean(rest, ["site", "statistic", "key"]).assign(window=window))
        frames.append(_mean(part[between], ["query_frame", "key"]).assign(window=window))
    steps = _mean(table[looks_back], ["step", "block", "site", "statistic", "key"])
    return pd.concat(cells), steps, pd.concat(frames).rename(columns={"key": "key_frame"})


def _between_frames(table):
    """The recording with its rows of attention between frames scaled to sum to 1, as they do without text."""
    rows = table["statistic"] == "frame_mass"
    between = table[rows].groupby(["step", "block", "branch", "site", "query_frame"])["value"]
    return table.assign(value=table["value"].where(~rows, table["value"] / between.transform("sum")))


def _mean(table, by):
    return table.groupby(by, as_index=False)["value"].mean()


def _over_videos(table):
    by = ["method", "guidance_scale", "blur", "step", "block", "site", "statistic", "key"]
    out = table.groupby(by)["value"].agg(["mean", "sem", "size"]).reset_index()
    return out.rename(columns={"mean": "value", "sem": "standard_error", "size": "n"})


def measures(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row per `by` and one column per entry of MEASURES and TEXT_SHARE: |text| / (|text| + |image|) of the lengths of
    the two cross-attention branches' outputs. `table` is a -cells table of one window, or a -steps table."""
    table = table.assign(key=table["key"].fillna(""))
    wide = table.pivot_table(index=by, columns=["site", "statistic", "key"], values="value", sort=False)
    norms = {site: wide[site, "norm", ""] for site in ("text", "image") if (site, "norm", "") in wide.columns}
    out = pd.DataFrame({name: wide[key] for key, name in MEASURES.items() if key in wide.columns})
    if len(norms) == 2:
        out[TEXT_SHARE] = norms["text"] / (norms["text"] + norms["image"])
    return out.reset_index()


def compare(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Ratios second / first of every measure, paired by sample: columns measure, first, second (means), mean, low, high
    (of the ratio, interval over prompts), n, p (that the ratio is 1) and p (Holm) over the measures."""
    pair = first.merge(second, on=["sample", "seed"], suffixes=("_a", "_b"), validate="one_to_one")
    rows = []
    for name in [m for m in [*MEASURES.values(), TEXT_SHARE] if m in first and m in second]:
        a, b = pair[f"{name}_a"], pair[f"{name}_b"]
        ratio = mean_and_p(b / a, pair["sample"], line=1.0)
        rows.append({"measure": name, "first": a.mean(), "second": b.mean()} | ratio)
    table = pd.DataFrame(rows)
    return table.assign(**{"p (Holm)": holm(table["p"])})


def frame_matrix(frames: pd.DataFrame) -> np.ndarray:
    """(F, F) from the rows of one video and window of a -frames table: query frame by key frame, rows sum to 1."""
    matrix = frames.pivot(index="query_frame", columns="key_frame", values="value").to_numpy(float)
    return matrix / matrix.sum(1, keepdims=True)  # the table is rounded


def frame_distance(a: np.ndarray, b: np.ndarray) -> float:
    """DyMoS's distance between two frame-to-frame matrices (Eq. 5): the Jensen-Shannon divergence, in nats, of their
    rows, mean over the query frames other than the reference. 0 for equal ones, at most log 2."""
    return float(np.mean(jensenshannon(a[1:], b[1:], axis=1) ** 2))


def dominance(matrix: np.ndarray) -> float:
    """Of the attention that frames other than the reference pay to frames, the share of the reference frame, in [0, 1]."""
    return float(matrix[1:, 0].mean())


def neighbours(matrix: np.ndarray) -> float:
    """Of the attention that frames other than the reference pay to frames, the share of those right before and after, the
    reference left out, in [0, 1] (AlignVid's "temporally adjacent frames")."""
    frames = np.arange(len(matrix))
    near = (np.abs(frames[:, None] - frames) == 1) & (frames > 0)
    return float((matrix * near)[1:].sum(1).mean())
