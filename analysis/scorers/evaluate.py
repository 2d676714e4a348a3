"""Score the videos of a manifest: in worker processes and here, from the cache where a score is known, and into one table.

A video that cannot be read, a scorer that ends with an error and a worker that dies are rows with a reason; the run goes on.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from testbed.cores import usable_cores

from ..study.files import content_key, write_atomically
from ..study.progress import track
from ..study.workers import stopping, worker_pool
from .manifest import Row, only
from .registry import make_scorer
from .scorer import Scorer, check_values
from .video import LIMIT, NotScored, Video, file_sha256

FIELDS = ("video", "scorer", "version", "metric", "value", "status", "reason")
KEPT = ("ok", "undefined", "too_short", "varying_size", "no_input")  # statuses that the same file gives again
Values = dict[str, float | NotScored]


@dataclass(frozen=True)
class Settings:
    """cache: folder of what is known. limit: GiB that a decoded video may take."""

    cache: Path
    limit: float = LIMIT


make = lru_cache(maxsize=None)(make_scorer)  # a model is loaded once in a process


def evaluate(
    rows: list[Row], names: list[str], settings: Settings, workers: int | None = None
) -> list[tuple[str, str, str, str, str, str, str]]:
    """The table's rows, in the order of the manifest, the scorers and their metrics, whatever the number of workers.

    names: scorers as `registry.make_scorer` takes them. Raises ValueError for one that is unknown, twice there, or cannot
    run here, before any video is opened.
    """
    scorers = {name: make(name) for name in names}
    spelled = [scorers[name].spelled() for name in names]
    if twice := {s for s in spelled if spelled.count(s) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is asked for twice")
    if reasons := {s.spelled(): why for s in scorers.values() if (why := s.available())}:
        raise ValueError("; ".join(f"{name} cannot run here: {why}" for name, why in reasons.items()))
    pooled = [name for name, s in scorers.items() if s.runs == "worker"]
    here = [name for name, s in scorers.items() if s.runs == "here"]
    found: list[dict[str, Values]] = [{} for _ in rows]
    if pooled:
        results = _in_workers(rows, pooled, settings, workers or usable_cores())
        for index, values in track(results, len(rows), "score videos"):
            found[index] |= values
    for name in here:
        for index, values in track(_here(rows, name, settings), len(rows), f"score {scorers[name].name}"):
            found[index][name] = values
    return [line for row, values in zip(rows, found, strict=True) for name in names
            for line in _lines(row, scorers[name], values[name])]  # fmt: skip


def write_scores(lines: list[tuple], path: Path) -> None:
    """Write the table; the file is whole or not there."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(FIELDS)
            writer.writerows(lines)

    write_atomically(path, write)


def _lines(row: Row, scorer: Scorer, values: Values) -> Iterator[tuple]:
    for name, value in values.items():
        status, reason, text = "ok", "", ""
        if isinstance(value, NotScored):
            status, reason = value.status, value.reason
        else:
            metric = scorer.metrics.get(name) or scorer.metrics[name.partition("/")[0]]
            text = repr(round(float(value), metric.digits))
        yield row.video, scorer.spelled(), scorer.version, name, text, status, reason


def _all(scorer: Scorer, reason: NotScored) -> Values:
    return dict.fromkeys(scorer.metrics, reason)


# One video, several scorers: the frames are decoded once.


def score_row(row: Row, names: list[str], settings: Settings) -> dict[str, Values]:
    """name -> values of one video, from the cache where they are there; what is new is kept there."""
    video, values = Video(row.path, row.fps, settings.limit), {}
    for name in names:
        values[name] = _score(video, row, make(name), settings)
    return values


def _score(video: Video, row: Row, scorer: Scorer, settings: Settings) -> Values:
    try:
        key = _key(video, row, scorer)
    except NotScored as reason:
        return _all(scorer, reason)
    if (known := _load(settings.cache, key)) is not None:
        return known
    try:
        values = scorer.score(video, only(row.sample, scorer.inputs))
    except NotScored as reason:
        values = _all(scorer, reason)
    except Exception as error:
        values = _all(scorer, _failure(error))
    return _keep(settings.cache, key, scorer, values)


def _failure(error: Exception) -> NotScored:
    return NotScored("failed", f"{type(error).__name__}: {error}"[:300])


def _key(video: Video, row: Row, scorer: Scorer) -> str:
    """Of everything that decides the values. Raises NotScored where the video or an input is not there."""
    content = video.sha256
    sample, inputs = only(row.sample, scorer.inputs), {}
    for name in scorer.inputs:
        if (given := getattr(sample, name)) is None:
            raise NotScored("no_input", f"the manifest states no {name}, which {scorer.name} needs")
        inputs[name] = given
    if "image" in inputs:
        if not sample.image.is_file():
            raise NotScored("no_input", f"there is no image {sample.image.name}")
        inputs["image"] = file_sha256(sample.image)
    return content_key({
        "video": content, "fps": row.fps, "scorer": scorer.name, "version": scorer.version,
        "parameters": scorer.parameters(), "fingerprint": _fingerprint(scorer), "inputs": inputs,
        "packages": scorer.requires.versions() | _READER,
    })  # fmt: skip


# "frames": raised whenever video.py would give other frames of the same file.
_READER = {"frames": "2", "av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__}


@cache
def _fingerprint(scorer: Scorer) -> str:
    return scorer.fingerprint()


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"


def _load(folder: Path, key: str) -> Values | None:
    try:
        kept = json.loads(_file(folder, key).read_text())["values"]
        return {name: v if isinstance(v, float) else NotScored(*v) for name, v in kept.items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # a file that another program damaged is no score
        return None


def _keep(folder: Path, key: str, scorer: Scorer, values: Values) -> Values:
    """`values` as the table has them, kept under the key if the same file would give them again."""
    try:
        check_values(scorer, values)
    except (ValueError, TypeError) as error:
        values = _all(scorer, NotScored("failed", str(error)))
    values = {name: _plain(v) for name, v in values.items()}
    if all(not isinstance(v, NotScored) or v.status in KEPT for v in values.values()):
        text = json.dumps({
            "scorer": scorer.spelled(), "version": scorer.version, "packages": scorer.requires.versions() | _READER,
            "values": {n: [v.status, v.reason] if isinstance(v, NotScored) else v for n, v in values.items()},
        })  # fmt: skip
        write_atomically(_file(folder, key), lambda path: path.write_text(text))
    return values


def _plain(value) -> float | NotScored:
    if isinstance(value, NotScored):
        return value
    return float(value) if not np.isnan(value) else NotScored("undefined", "it is not defined for this video")


# In worker processes: one that dies takes at most the videos with it that were being scored, and these are tried alone.


def _prepare() -> None:
    cv2.setNumThreads(1)


def _in_workers(rows: list[Row], names: list[str], settings: Settings, workers: int) -> Iterator[tuple[int, dict]]:
    waiting = deque(range(len(rows)))
    while waiting:
        suspects = []
        with stopping(worker_pool(min(workers, len(waiting)), _prepare)) as pool:
            running = {}
            while not suspects and (waiting or running):
                try:
                    while waiting and len(running) < 2 * workers:
                        future = pool.submit(score_row, rows[waiting[0]], names, settings)
                        running[future] = waiting.popleft()
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                except BrokenProcessPool:
                    done = set(running)
                for future in done:
                    index = running.pop(future)
                    try:
                        values = future.result()
                    except BrokenProcessPool:
                        suspects.append(index)
                        continue
                    yield index, values
            suspects += running.values()
        for index in suspects:
            yield index, _alone(rows[index], names, settings)


def _alone(row: Row, names: list[str], settings: Settings) -> dict[str, Values]:
    """Each scorer in a process of its own, so that what is said is said of the one that ends it."""
    values = {}
    for name in names:
        with stopping(worker_pool(1, _prepare)) as pool:
            try:
                values |= pool.submit(score_row, row, [name], settings).result()
            except BrokenProcessPool:
                values[name] = _all(
                    make(name), NotScored("failed", "the process that scored it died, perhaps of too little memory")
                )
    return values


# In this process, in batches.


def _here(rows: list[Row], name: str, settings: Settings) -> Iterator[tuple[int, Values]]:
    scorer, batch = make(name), []
    for index, row in enumerate(rows):
        video = Video(row.path, row.fps, settings.limit)
        try:
            key = _key(video, row, scorer)
        except NotScored as reason:
            yield index, _all(scorer, reason)
            continue
        if (known := _load(settings.cache, key)) is not None:
            yield index, known
            continue
        batch.append((index, key, video))
        if len(batch) == scorer.batch:
            yield from _score_batch(rows, batch, scorer, settings)
            batch = []
    yield from _score_batch(rows, batch, scorer, settings)


def _score_batch(rows, batch, scorer: Scorer, settings: Settings) -> Iterator[tuple[int, Values]]:
    given = [(video, only(rows[index].sample, scorer.inputs)) for index, _, video in batch]
    try:
        results = scorer.score_many(given) if batch else []
        if len(results) != len(batch):
            raise ValueError(f"{scorer.name} returned {len(results)} results for {len(batch)} videos")
    except Exception as error:
        if len(batch) > 1:  # to know whose fault it is
            for one in batch:
                yield from _score_batch(rows, [one], scorer, settings)
            return
        results = [error if isinstance(error, NotScored) else _failure(error)]
    for (index, key, _), result in zip(batch, results, strict=True):
        values = _all(scorer, result) if isinstance(result, NotScored) else result
        yield index, _keep(settings.cache, key, scorer, values)
