"""The remaining time: of the pace at which items come, not of the wait for the first."""

import re

from analysis.study import progress


def test_loading_the_model_does_not_count_for_the_rest(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def items():  # the first after 300 s of loading, then one every 20 s
        for i in range(10):
            now[0] += 300 if i == 0 else 20
            yield i

    assert list(progress.track(items(), 10, "generate")) == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "generate: 1/10, 300.00 s each, 45 min 0 s left", "nothing else is known yet"
    for done, line in enumerate(lines[1:], 2):
        left = re.search(r"(\d+) min (\d+) s left", line)
        assert line.startswith(f"generate: {done}/10, 20.00 s each") and int(left[1]) * 60 + int(left[2]) == 20 * (
            10 - done
        )
