"""What notebook 09 says of timings: verdicts on targets, and devices that were not run."""

import pandas as pd
import pytest

from analysis.report import cost_figures as cost

NAMES = ["plain", "AlignVid, gamma 1", "AlignVid", "DyMoS", "record, 16 queries a frame", "record, all queries"]


def tables(alignvid: float):
    """Timings at two lengths; the last block measures `alignvid` for AlignVid."""
    ratios = [1.0, 1.004, alignvid, 1.01, 1.1, 1.9]
    blocks = [{"device": "card", "threads": 1, "tokens": t, "setting": n, "ms": 10.0 * r, "ratio": r, "ratio_low": r - 0.01,
               "ratio_high": r + 0.01} for t in (100, 400) for n, r in zip(NAMES, ratios, strict=True)]  # fmt: skip
    ways = {cost.PLAIN: (2.0, 1.0, 1), cost.RECORDED: (3.9, 1.95, 4), cost.EXPLICIT: (9.0, 4.5, 40)}
    attention = [{"device": "card", "threads": 1, "tokens": t, "way": w, "ms": ms, "ratio": r, "ratio_low": r, "ratio_high": r,
                  "peak_mb": mb * t / 100, "reason": None} for t in (100, 400) for w, (ms, r, mb) in ways.items()]  # fmt: skip
    return pd.DataFrame(blocks), pd.DataFrame(attention)


def test_a_device_without_a_run_is_said_to_be_not_run():
    blocks, attention = tables(1.0)
    table = cost.judged({"CPU": blocks}, {"CPU": attention}, 400).set_index(["setting", "device"])
    assert set(table.xs("GPU", level="device")["verdict"]) == {"not run"}
    assert table.loc[("AlignVid, gamma 1", "CPU"), "verdict"] == "met"
    assert table.loc[("record, all queries", "CPU"), "measured"] == "0.95"
    assert (
        table.loc[("record, 16 queries a frame", "CPU"), "measured"] == "0.5"
    )  # 0.1 blocks of 10 ms, 2 ms a token's pass
    assert any("No run on a GPU" in s for s in cost.sentences({"CPU": blocks}, {"CPU": attention}, 400))
    numbers = cost.all_numbers({"CPU": blocks}, {"CPU": attention}, 400, 2)
    assert list(numbers["source"].unique()) == ["measured", "not run", "computed"]
    assert cost.machines({"CPU": blocks})["machine"].tolist() == ["card", "not run"]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0004, "met"), (1.003, "missed")])
def test_a_target_that_names_a_gpu_is_decided_by_a_gpu(ratio, verdict):
    blocks, attention = tables(ratio)
    table = cost.judged({"GPU": blocks}, {"GPU": attention}, 400).set_index(["setting", "device"])
    assert table.loc[("AlignVid", "GPU"), "verdict"] == verdict
    assert set(cost.judged({"GPU": blocks}, {"GPU": attention}, 999).query("setting == 'AlignVid'")["verdict"]) == {
        "not run"
    }
