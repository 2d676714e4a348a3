import json
from collections import Counter
from pathlib import Path

from testbed.benchmark import draw_benchmark, write_benchmark

FIELDS = [
    "id", "prompt", "image-path", "resolution", "expected-change", "main-category", "sub-category", "domain", "questions"
]  # fmt: skip


def test_omit_i2v_fields_and_proportions():
    records = [record for record, _, _ in draw_benchmark(7)]
    assert all(list(r) == FIELDS for r in records)
    counts = Counter(r["main-category"] for r in records)
    assert counts == {"modification": 125, "addition": 122, "deletion": 120, "motion": 100}
    for record in records:
        assert all(list(q) == ["id", "question", "expected_answer", "category"] for q in record["questions"])
        answers = Counter(q["expected_answer"] for q in record["questions"])
        assert 2 <= len(record["questions"]) <= 6 and answers["yes"] == answers["no"]
    assert len({r["id"] for r in records}) == 467


def test_the_first_samples_are_balanced():
    counts = Counter(r["main-category"] for r, _, _ in draw_benchmark(7)[:160])
    assert all(32 <= n <= 45 for n in counts.values())


def test_writing_gives_the_committed_manifest(tmp_path):
    committed = Path("testbed/benchmark")
    write_benchmark(tmp_path, 7)
    assert (tmp_path / "manifest.csv").read_text() == (committed / "manifest.csv").read_text()
    assert json.loads((tmp_path / "meta.json").read_text()) == json.loads((committed / "meta.json").read_text())
