"""What blind videos would score: a copy of the reference, and the true clip of somebody else's prompt."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from testbed.benchmark import draw_benchmark
from testbed.oracle import Oracle
from testbed.world import render

from ..study.cells import donor_of
from .score_video import answer_all


@lru_cache(maxsize=2)
def benchmark(seed: int) -> tuple:
    """The benchmark drawn from `seed`, drawn once; whoever reads it changes nothing in it."""
    return tuple(draw_benchmark(seed))


def scores_of_copy(record: dict, scene, event) -> dict:
    """What the reference held still would score."""
    return answer_all(Oracle(), render(scene, event, executed=False, frames=4), record["questions"])


def blind_scores(seed: int, count: int) -> pd.DataFrame:
    """Scores of two blind videos for each of the first `count` samples, one row per (video, sample).

    video "copy": the reference held still. video "other prompt": the perfect clip of the sample whose prompt the
    shuffled control uses. What a model scores with shuffled prompts is at chance if it is no more than these.
    """
    samples = benchmark(seed)
    records, rows = [r for r, _, _ in samples], []
    for i, (record, scene, event) in enumerate(samples[:count]):
        _, other_scene, other_event = samples[donor_of(i, records)]
        other = render(other_scene, other_event)[[0, 13, 14, 15, 16]]
        found = {
            "copy": scores_of_copy(record, scene, event),
            "other prompt": answer_all(Oracle(), other, record["questions"]),
        }
        what = {"sample": record["id"], "main_category": record["main-category"]}
        rows += [{"video": video, **what, **scores} for video, scores in found.items()]
    return pd.DataFrame(rows)
