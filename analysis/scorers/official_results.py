"""Result files of official programs, read into the table of scores: for those who ran them elsewhere.

vbench: `*_eval_results.json` of VBench or VBench-I2V, {dimension: [mean, [{"video_path", "video_results"}, ...]]}.
videoscore: the list that benchmark/eval_videoscore.py writes. videoscore2: that of its eval/eval_vs2.py. omiti2v: what the released qwen.py writes, answers included.
pyiqa: the tab-separated file of inference_iqa.py for one video's frames, named as the video. csv: `video,value` and
perhaps `metric`, for programs that only print (VisionReward).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from .manifest import Row

# Dimensions whose mean in VBench's file is that of its videos; subject and background consistency average over frames.
MEAN_OF_VIDEOS = ("dynamic_degree", "motion_smoothness", "aesthetic_quality", "imaging_quality", "temporal_flickering",
                  "overall_consistency", "i2v_subject", "i2v_background")  # fmt: skip
PER_CENT = ("imaging_quality",)  # 0 to 100 per video, 0 to 1 in the mean
VIDEOSCORE = ("visual_quality", "temporal_consistency", "dynamic_degree", "text_alignment", "factual_consistency")
VIDEOSCORE2 = {
    "v_score_model": "visual_quality",
    "t_score_model": "text_alignment",
    "p_score_model": "physical_consistency",
}

# (name or path of the video, metric, value or None, reason where there is none)
Value = tuple[str, str, float | None, str]


def read_vbench(path: Path) -> Iterator[Value]:
    """Raises ValueError where a mean is not that of the listed videos: the file is not whole, or was changed."""
    for dimension, (mean, videos) in _json(path, dict).items():
        scale = 100.0 if dimension in PER_CENT else 1.0
        values = [float(one["video_results"]) / scale for one in videos]
        if dimension in MEAN_OF_VIDEOS and abs(sum(values) / len(values) - mean) > 1e-5:
            raise ValueError(
                f"{path}: {dimension} states a mean of {mean}, its videos have {sum(values) / len(values):.6f}"
            )
        for one, value in zip(videos, values, strict=True):
            yield one["video_path"], f"vbench_{dimension}", value, ""


def read_videoscore(path: Path) -> Iterator[Value]:
    """Videos are named by their id. Raises ValueError where `ans` is no list of five numbers."""
    for one in _json(path, list):
        values = json.loads(one["ans"])  # a list as text, "[2.297, 2.469, 2.906, 2.766, 2.516]"
        if len(values) != len(VIDEOSCORE):
            raise ValueError(f"{path}: {one['id']} has {len(values)} scores, VideoScore gives {len(VIDEOSCORE)}")
        for name, value in zip(VIDEOSCORE, values, strict=True):
            yield one["id"], f"videoscore_{name}", float(value), ""


def read_videoscore2(path: Path) -> Iterator[Value]:
    """No value where VideoScore2 could not read its own reply."""
    for one in _json(path, list):
        for key, name in VIDEOSCORE2.items():
            value = None if one[key] is None else float(one[key])
            yield one["video_name"], f"videoscore2_{name}", value, "VideoScore2 could not read its own reply"


def read_omiti2v(path: Path) -> Iterator[Value]:
    """The answers, which of them are right, and per video `macro` and `adherence`; no value for a video in error."""
    for one in _json(path, dict)["detailed_results"]:
        if error := one.get("error"):
            for metric in ("macro", "adherence"):
                yield one["video_path"], metric, None, error
            continue
        right = []
        for item, said in one["questions"].items():
            answer = {"yes": 1.0, "no": 0.0}.get(said["model_answer"])
            right.append(float(said["model_answer"] == said["expected_answer"].strip().lower()))
            yield one["video_path"], f"answer/{item}", answer, f"neither yes nor no: {said['response'][:200]!r}"
            yield one["video_path"], f"right/{item}", right[-1], ""
        yield one["video_path"], "macro", sum(right) / len(right), ""
        yield one["video_path"], "adherence", float(all(right)), ""


def read_pyiqa(path: Path) -> Iterator[Value]:
    """The mean over a video's frames, over 100; the video is called as the file."""
    with open(path, newline="", encoding="utf-8") as file:
        values = [float(score) for _, score in csv.reader(file, delimiter="\t")]
    yield path.stem, "imaging_quality_musiq_pyiqa", sum(values) / len(values) / 100, ""


def read_csv(path: Path) -> Iterator[Value]:
    """`video,value`, and `metric`, which is the file's name where there is no such column."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        for line in csv.DictReader(file):
            value = float(line["value"]) if line["value"] else None
            yield line["video"], line.get("metric") or path.stem, value, "the file has no value"


READERS: dict[str, Callable[[Path], Iterator[Value]]] = {
    "vbench": read_vbench, "videoscore": read_videoscore, "videoscore2": read_videoscore2, "omiti2v": read_omiti2v,
    "pyiqa": read_pyiqa, "csv": read_csv,
}  # fmt: skip


def _json(path: Path, kind: type):
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, kind):
        raise TypeError(f"it holds no {kind.__name__}")
    return found


def import_results(files: list[Path], kind: str, version: str, rows: list[Row] | None = None) -> list[tuple]:
    """Rows of the table of scores (`evaluate.FIELDS`) of official files of one kind.

    version: of the official program, as its user knows it. rows: a manifest, whose videos are matched by the names of
    their files without suffix, else by `id`; without one, videos are named as in the files. A video of the manifest
    that no file has is a row "missing" for each metric. Raises ValueError, naming the file, for what is not of the
    kind, for a video that the manifest does not have or has twice, and for a value that is there twice.
    """
    if kind not in READERS:
        raise ValueError(f"unknown kind {kind!r}; allowed are {', '.join(READERS)}")
    if not version or not files:
        raise ValueError("an import needs files and the version of the program that made them")
    names, found = _names(rows), {}
    for path in files:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        try:
            values = list(READERS[kind](path))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            reason = str(error) if str(path) in str(error) else f"{path} is no result of {kind}: {error!r}"
            raise ValueError(reason) from None
        for given, metric, value, reason in values:
            if names is not None and Path(given).stem not in names:
                raise ValueError(f"{path}: the manifest has no video {Path(given).stem!r}")
            key = (names[Path(given).stem] if names else given, metric)
            if key in found:
                raise ValueError(f"{path}: {metric} of {key[0]} is there twice")
            found[key] = (value, reason)
    metrics = list(dict.fromkeys(metric for _, metric in found))
    lines = [_line(kind, version, *key, *value) for key, value in found.items()]
    for row in rows or []:
        gone = [m for m in metrics if "/" not in m and (row.video, m) not in found]
        lines += [
            (row.video, f"{kind}_import", version, m, "", "missing", "the imported files do not have it") for m in gone
        ]
    return lines


def _line(kind: str, version: str, video: str, metric: str, value: float | None, reason: str) -> tuple:
    if value is None or math.isnan(value):
        status = "missing" if "not found" in reason else "undefined"
        return video, f"{kind}_import", version, metric, "", status, reason or "it is not a number"
    return video, f"{kind}_import", version, metric, repr(round(value, 6)), "ok", ""


def _names(rows: list[Row] | None) -> dict[str, str] | None:
    """Name of a file without suffix, and id -> the video as the manifest has it."""
    if rows is None:
        return None
    names: dict[str, str] = {}
    for row in rows:
        for name in {row.path.stem, row.sample.id or row.path.stem}:
            if names.setdefault(name, row.video) != row.video:
                raise ValueError(f"{names[name]} and {row.video} cannot be told apart by the name {name!r}")
    return names
