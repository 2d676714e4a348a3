"""What a result was made from, as one line in a file: a command skips what is unchanged before it loads any model.

The line is a hash of everything that the result depends on. It is written last: a result without it is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .files import content_key, write_atomically
from .parameters import Parameters
from .resolved_settings import resolve
from .results_layout import runs_folder

# What decides which videos a sweep has, apart from its settings and files: the keys' code, and that of all methods.
KEY_CODE = ("methods", "analysis/study/cells.py", "analysis/study/video_key.py")
SCORING_CODE = ("analysis/scoring", "analysis/attention/recording_summaries.py", "analysis/study/video_files.py", "analysis/study/files.py", "testbed/oracle.py",
                "testbed/world.py")  # fmt: skip


def contents_hash(paths: Iterable[Path | str]) -> str:
    """Hash of the names and contents of files, and of the files in folders, compiled ones left out; what is not there
    counts as missing."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix == ".pyc":
                continue
            digest.update(file.as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"missing")
    return digest.hexdigest()[:20]


def sizes_hash(folder: Path) -> str:
    """Hash of names, sizes and times of the files in a folder: of videos, which are many."""
    found = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.glob("*")) if p.is_file()]
    return content_key({"files": found})


def of_videos(parameters: Parameters, sweep: str) -> str:
    """What the videos of a sweep are made from: its settings, checkpoints, the benchmark, the code of methods and keys, and
    the videos of another sweep that are its references; and the videos themselves, so that none may be lost."""
    grid = parameters.sweeps[sweep]
    backbone = parameters.backbones[grid.backbone]
    named = [backbone.checkpoint, *([backbone.delta] if backbone.delta else [])]
    named += [v for name in grid.methods for part in parameters.methods[name] for v in part.values() if _is_path(v)]
    source = grid.reference if grid.reference != "own" else None
    return content_key(
        {
            "settings": resolve(parameters, sweep),
            "files": contents_hash([*named, parameters.benchmark.folder]),
            "code": contents_hash(KEY_CODE),
            "references": of_videos(parameters, source) if source else "",
            "videos": sizes_hash(runs_folder(parameters, sweep)),
        }
    )


def of_scores(parameters: Parameters, sweep: str) -> str:
    """What the scores of a sweep are made from: its videos and manifest, the samples and the code that scores."""
    return content_key(
        {
            "videos": sizes_hash(runs_folder(parameters, sweep)),
            "samples": contents_hash([parameters.benchmark.folder / "meta.json"]),
            "code": contents_hash(SCORING_CODE),
            "backbone": parameters.sweeps[sweep].backbone,
        }
    )


def note(file: Path, stamp: str) -> None:
    """Write a stamp."""
    write_atomically(file, lambda path: path.write_text(stamp + "\n"))


def is_noted(file: Path, stamp: str, *results: Path) -> bool:
    """Whether the results are there and were made from what the stamp stands for."""
    return file.is_file() and file.read_text().strip() == stamp and all(r.is_file() for r in results)


def _is_path(value) -> bool:
    return isinstance(value, str) and Path(value).exists() and "/" in value
