"""What blind videos would score: a copy of the reference, and the true clip of somebody else's prompt."""

from __future__ import annotations

import pandas as pd

from testbed.benchmark import draw_benchmark
from testbed.oracle import Oracle
from testbed.world import render

from ..study.cells import donor_of
from .score_video import answer_all


def blind_scores(seed: int, count: int) -> pd.DataFrame:
    """Scores of two blind videos for each of the first `count` samples, one row per (video, sample).

    video "copy": the reference held still. video "other prompt": the perfect clip of the sample whose prompt the
    shuffled control uses. What a model scores with shuffled prompts is at chance if it is no more than these.
    """
    benchmark = draw_benchmark(seed)
    records, rows = [r for r, _, _ in benchmark], []
    for i, (record, scene, event) in enumerate(benchmark[:count]):
        _, other_scene, other_event = benchmark[donor_of(i, records)]
        videos = {
            "copy": render(scene, event, executed=False, frames=4),
            "other prompt": render(other_scene, other_event)[[0, 13, 14, 15, 16]],
        }
        for name, video in videos.items():
            rows.append({"video": name, "sample": record["id"], "main_category": record["main-category"]})
            rows[-1] |= answer_all(Oracle(), video, record["questions"])
    return pd.DataFrame(rows)
