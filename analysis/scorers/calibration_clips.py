"""Clips of the testbed whose truth is known, and what a judge says of them.

For each sample three clips: "true", in which what the prompt says happens; "copy", the reference held still; and
"shuffled", the true clip of the sample whose prompt the shuffled control uses. The truth of a question about a clip is
the oracle's answer, from the clip's pixels. Clips are the world's own drawings, or those after an autoencoder, which
look as generated ones do.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from testbed.benchmark import draw_benchmark
from testbed.oracle import Oracle
from testbed.world import FPS, render

from ..study.cells import donor_of
from ..study.files import write_atomically, write_table
from ..study.video_files import write_video
from . import judge_calibration as calibration
from .evaluate import Settings, evaluate
from .judge_protocol import Judge
from .manifest import COLUMNS, read_manifest
from .registry import make_scorer

KINDS = ("true", "copy", "shuffled")


def clips(seed: int, samples: int) -> Iterator[tuple[str, dict, np.ndarray]]:
    """(kind, the benchmark's record, uint8 (T, 64, 64, 3)) of the first samples, three each. Raises ValueError for a
    number of samples that the benchmark does not have."""
    benchmark = draw_benchmark(seed)
    if not 1 <= samples <= len(benchmark):
        raise ValueError(f"{samples} samples are asked for; the benchmark has {len(benchmark)}")
    records = [record for record, _, _ in benchmark]
    for i, (record, scene, event) in enumerate(benchmark[:samples]):
        _, other_scene, other_event = benchmark[donor_of(i, records)]
        yield "true", record, render(scene, event)
        yield "copy", record, render(scene, event, executed=False)
        yield "shuffled", record, render(other_scene, other_event)


def write_clips(folder: Path, seed: int, samples: int, checkpoint: str | None = None) -> Path:
    """Write the clips, `truth.csv` and a manifest for `evaluate` into a folder; returns the manifest.

    checkpoint: whose autoencoder encodes and decodes the clips first; none by default. truth.csv has one row per clip
    and question, with the oracle's answer, "unknown" where there is none.
    """
    rows, truths = [], []
    for kind, record, video in clips(seed, samples):
        name = f"{kind}/{record['id']}.mkv"
        if checkpoint:
            from ..scoring.autoencoder_limit import autoencoder, round_trip

            video = round_trip(autoencoder(checkpoint), video)
        write_video(folder / name, video, FPS)
        questions = [{k: q[k] for k in ("id", "question", "expected_answer")} for q in record["questions"]]
        rows.append({"video": name, "prompt": record["prompt"], "id": record["id"], "questions": json.dumps(questions)})
        oracle = Oracle()
        truths += [
            {"video": kind, "sample": record["id"], "question": q["id"], "expected": q["expected_answer"],
             "truth": oracle.answer(video, q["question"]).value}
            for q in questions
        ]  # fmt: skip
    write_table(pd.DataFrame(truths), folder / "truth.csv")
    write_atomically(folder / "manifest.csv", lambda path: _write_rows(path, rows))
    return folder / "manifest.csv"


def _write_rows(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [c for c in COLUMNS if c in rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def judge_of(spelled: str) -> Judge:
    """The judge of a name with its parameters. Raises ValueError for a scorer that answers no questions or cannot run
    here."""
    judge = make_scorer(spelled)
    if not isinstance(judge, Judge):
        raise ValueError(f"{judge.name} answers no yes/no questions; a judge is calibrated")
    if why := judge.available():
        raise ValueError(f"{judge.spelled()} cannot run here: {why}")
    return judge


def calibrate_judge(
    spelled: str, folder: Path, *, seed: int, samples: int, cache: Path, checkpoint: str | None = None
) -> pd.DataFrame:
    """The judged answers and the truth, "unknown" where the oracle does not know: an object that is not in the clip.

    Writes the clips, `answers.csv` (`judge_calibration.COLUMNS`), `calibration.csv` (`judge_calibration.table_of`) and
    `settings.json` into `folder`. Answers that are in the cache are not asked for again. Raises ValueError, before a
    clip is made, for what cannot judge, and afterwards if a clip could not be judged: a calibration leaves nothing out
    unasked.
    """
    judge = judge_of(spelled)
    manifest = write_clips(folder / "clips", seed, samples, checkpoint)
    lines = evaluate(read_manifest(manifest)[0], [spelled], Settings(cache))
    if failed := [line for line in lines if line[5] not in ("ok", "undefined")]:
        raise ValueError(
            f"{len({line[0] for line in failed})} clips could not be judged; {failed[0][0]}: {failed[0][6]}"
        )
    said = [
        {"video": Path(line[0]).parent.name, "sample": Path(line[0]).stem, "question": line[3].partition("/")[2],
         "answer": "unknown" if line[5] == "undefined" else "yes" if float(line[4]) else "no"}
        for line in lines if line[3].startswith("answer/")
    ]  # fmt: skip
    keys = ["video", "sample", "question"]
    table = pd.read_csv(manifest.with_name("truth.csv"), dtype=str).merge(
        pd.DataFrame(said), on=keys, how="left", validate="one_to_one"
    )
    if table["answer"].isna().any():
        raise ValueError(f"{int(table['answer'].isna().sum())} questions have no answer of {judge.spelled()}")
    table.insert(0, "judge", judge_name(judge))
    table = table[list(calibration.COLUMNS)]
    write_table(table, folder / "answers.csv")
    write_table(calibration.table_of(table), folder / "calibration.csv", "%.4f")
    settings = {"judge": judge_name(judge), "benchmark_seed": seed, "samples": samples, "autoencoder": checkpoint}
    write_atomically(folder / "settings.json", lambda path: path.write_text(json.dumps(settings, indent=1) + "\n"))
    return table


def judge_name(judge: Judge) -> str:
    """The judge as its calibration and tables name it: with its parameters and version."""
    return f"{judge.spelled()} (version {judge.version})"


def read_answers(folder: Path) -> pd.DataFrame:
    """The judged answers of a calibration. Raises ValueError if there are none in the folder."""
    file = folder / "answers.csv"
    if not file.is_file():
        raise ValueError(f"{folder} holds no calibration: `python -m analysis calibrate-judge JUDGE -o {folder}`")
    return pd.read_csv(file, dtype=str, keep_default_na=False)
