"""Blinded sheets for people who rate videos: which videos, in which order and on which side, by a seed; and the key.

The videos are written anew, all in the same way and under names that say nothing, so that neither a name nor a file's metadata
gives a method away. The key lies beside the folder that is handed out, not in it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd

from ..benchmarks.reference_images import first_frame
from ..study.files import content_key, write_table
from .imported_scores import read_manifest
from .rating_page import rating_page

SLOTS = "ABCDEFGH"
KEY = ["study", "sheet", "trial", "slot", "file", "video", "sample", "seed", "backbone", "method", "guidance_scale", "row",
       "main_category"]  # fmt: skip
QUESTIONS = {
    # AlignVid, appendix: two dimensions on a scale of 1 to 7.
    "likert": [
        {"name": "semantic_fidelity", "kind": "likert", "points": 7, "low": "not at all", "high": "completely",
         "text": "does what the sentence says happen?"},
        {"name": "aesthetic_quality", "kind": "likert", "points": 7, "low": "very bad", "high": "very good",
         "text": "how good does it look?"},
    ],
    # DyMoS, C.4: which of the videos is the best, by four criteria.
    "best": [
        {"name": "motion", "kind": "best", "text": "Which video has the most natural and lively motion?"},
        {"name": "reference_fidelity", "kind": "best", "text": "Which video stays closest to the picture?"},
        {"name": "text_alignment", "kind": "best", "text": "Which video does best what the sentence says?"},
        {"name": "overall", "kind": "best", "text": "Which video do you like best, all in all?"},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Sheets:
    """key: columns KEY. prompts, images: by sample; an image is a path or None. questions: of QUESTIONS."""

    study: str
    key: pd.DataFrame
    prompts: dict[str, str]
    images: dict[str, Path | None]
    questions: list[dict]
    folder: Path  # that the manifest's paths are relative to


def plan_sheets(
    manifest: Path, pairs: int, raters: int, *, methods: list[str] | None = None, backbone: str | None = None,
    guidance: float | None = None, ask: str = "likert", seed: int = 0,
) -> Sheets:  # fmt: skip
    """Who sees which videos, where. Every rater sees the same `pairs` prompts, as many of each main category as there can be, in
    an order and with sides of his own.

    manifest: video, sample (or id), method and prompt; image, seed, status and main_category if there are. methods: those that
    are shown together, all of the manifest by default. backbone, guidance: the only ones that are shown, where the manifest has
    several. ask: "likert", "best" or "both". Raises ValueError when fewer prompts have
    a video of every method.
    """
    if ask not in (*QUESTIONS, "both"):
        raise ValueError(f"ask is {ask!r}; it is likert, best or both")
    if pairs < 1 or raters < 1:
        raise ValueError(f"{pairs} prompts and {raters} raters are asked for; both are at least 1")
    videos, told = read_manifest(manifest), pd.read_csv(manifest, dtype=str, keep_default_na=False)
    if "prompt" not in told:
        raise ValueError(f"{manifest} has no column prompt, which raters are shown")
    for column, value in (("backbone", backbone), ("guidance_scale", guidance)):
        if value is not None and value not in set(videos[column]):
            raise ValueError(
                f"{manifest} has no {column} {value}; it has {', '.join(map(str, videos[column].unique()))}"
            )
        kept = videos[column] == value if value is not None else pd.Series(True, videos.index)
        videos, told = videos[kept], told[kept]
    there = list(dict.fromkeys(videos["method"]))
    if unknown := [m for m in methods or [] if m not in there]:
        raise ValueError(f"{manifest} has no method {unknown[0]!r}; it has {', '.join(there)}")
    methods = methods or there
    if not 2 <= len(methods) <= len(SLOTS):
        raise ValueError(f"{len(methods)} methods ({', '.join(methods)}); 2 to {len(SLOTS)} can be shown together")
    made = told["status"].isin(["ok", ""]) if "status" in told else pd.Series(True, told.index)
    made &= told["video"].map(lambda v: (manifest.parent / v).is_file())
    chosen = _choose(videos[made & videos["method"].isin(methods)], methods, pairs, seed)
    study = content_key({"videos": chosen["video"].tolist(), "seed": seed, "ask": ask})[:8]
    rows, files = [], {v: f"videos/{_token(seed, v)}.mp4" for v in chosen["video"]}
    for sheet in range(1, raters + 1):
        rng = np.random.default_rng([seed, sheet])
        for trial, sample in enumerate(rng.permutation(chosen["sample"].unique()), start=1):
            own = chosen[chosen["sample"] == sample]
            for slot, i in zip(SLOTS, rng.permutation(len(own)), strict=False):
                video = own.iloc[i]
                rows.append(
                    {"study": study, "sheet": sheet, "trial": trial, "slot": slot, "file": files[video["video"]]}
                    | video.to_dict()
                )
    first = told.assign(sample=videos["sample"]).drop_duplicates("sample").set_index("sample")
    shown = list(chosen["sample"].unique())
    images = {
        s: manifest.parent / first.at[s, "image"] if "image" in first and first.at[s, "image"] else None for s in shown
    }
    questions = [q for name in QUESTIONS if ask in (name, "both") for q in QUESTIONS[name]]
    return Sheets(
        study, pd.DataFrame(rows)[KEY], {s: first.at[s, "prompt"] for s in shown}, images, questions, manifest.parent
    )


def _choose(videos: pd.DataFrame, methods: list[str], pairs: int, seed: int) -> pd.DataFrame:
    """The videos of `pairs` samples that have one of every method: of one seed each, and of the main categories in turn."""
    several = videos.groupby(["sample", "seed", "method"]).size()
    if (several > 1).any():
        said = ", ".join(map(str, several.idxmax()))
        raise ValueError(f"{said} has {several.max()} videos: choose one with --backbone or --guidance")
    whole = videos.groupby(["sample", "seed"])["method"].nunique() == len(methods)
    seeds = whole[whole].reset_index().groupby("sample")["seed"].min()
    if len(seeds) < pairs:
        raise ValueError(f"{len(seeds)} prompts have a video of each of {', '.join(methods)}; {pairs} are asked for")
    groups = defaultdict(list)
    for sample in sorted(seeds.index, key=lambda s: _token(seed, s)):
        groups[videos.loc[videos["sample"] == sample, "main_category"].iloc[0]].append(sample)
    queues = [groups[g] for g in sorted(groups)]
    turns = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    kept = seeds[turns[:pairs]].reset_index()
    return kept.merge(videos, on=["sample", "seed"])


def _token(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:12]


def write_sheets(sheets: Sheets, out: Path, progress: Callable = lambda steps: steps) -> Path:
    """Write the pages, videos and images into `out` and the key beside it, `<out>-key.csv`; the key. Raises ValueError when `out`
    has something in it, or a video cannot be read."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; sheets are written into a folder of their own")
    (out / "videos").mkdir(parents=True)
    (out / "images").mkdir()
    images = {}
    for sample, path in sheets.images.items():
        if path is not None:
            images[sample] = f"images/{_token(0, sheets.study + sample)}.png"
            first_frame(path).save(out / images[sample])
    for row in progress(list(sheets.key.drop_duplicates("file").itertuples())):
        write_for_browsers(sheets.folder / row.video, out / row.file)
    for sheet, rows in sheets.key.groupby("sheet"):
        trials = []
        for trial, own in rows.groupby("trial"):
            sample = own["sample"].iloc[0]
            shown = [{"slot": r.slot, "file": r.file} for r in own.itertuples()]
            trials.append(
                {
                    "trial": int(trial),
                    "prompt": sheets.prompts[sample],
                    "image": images.get(sample, ""),
                    "videos": shown,
                }
            )
        page = rating_page(sheets.study, int(sheet), trials, sheets.questions)
        (out / f"sheet-{sheet:02d}.html").write_text(page, encoding="utf-8")
    key = out.with_name(f"{out.name}-key.csv")
    write_table(sheets.key, key)
    return key


def write_for_browsers(source: Path, target: Path) -> None:
    """Write a video anew as H.264, which browsers play, nearly lossless, at its own frame rate and without metadata; odd sides lose a pixel.
    Raises ValueError that names a video that cannot be read."""
    try:
        with (
            av.open(str(source)) as given,
            av.open(str(target), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as made,
        ):
            stream = None
            for frame in given.decode(video=0):
                picture = frame.to_ndarray(format="rgb24")
                picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
                if stream is None:
                    rate = Fraction(given.streams.video[0].average_rate or 16)
                    stream = made.add_stream(
                        "libx264", rate=rate, options={"crf": "12", "flags": "+bitexact", "threads": "1"}
                    )
                    stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
                made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if stream is None:
                raise ValueError("no frame")
            made.mux(stream.encode())
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        target.unlink(missing_ok=True)
        raise ValueError(f"{source} cannot be shown: {error}") from None
