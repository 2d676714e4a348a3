"""The benchmark's samples: prompts, questions and reference images."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

QUESTION_FIELDS = {"id", "question", "expected_answer", "category"}


def load_samples(folder: Path) -> list[dict]:
    """The benchmark's records. Raises ValueError that names the sample when one lacks questions or an answer."""
    file = folder / "meta.json"
    if not file.is_file():
        raise ValueError(f"no benchmark at {file}: run `python -m testbed benchmark` or `dvc repro benchmark`")
    return _checked(file, file.stat().st_mtime_ns)


@cache
def _checked(file: Path, changed: int) -> list[dict]:
    samples = json.loads(file.read_text())
    for sample in samples:
        name = sample.get("id", "without an id")
        if not sample.get("questions"):
            raise ValueError(f"{file}: sample {name} has no questions, so nothing could be scored")
        for question in sample["questions"]:
            if missing := QUESTION_FIELDS - question.keys():
                raise ValueError(f"{file}: a question of sample {name} lacks {sorted(missing)}")
            if question["expected_answer"] not in ("yes", "no"):
                raise ValueError(
                    f"{file}: {question['id']} expects {question['expected_answer']!r}; yes or no is allowed"
                )
    return samples
