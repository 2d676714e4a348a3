"""What a result was made from, as one line in a file: a command skips what is unchanged before it loads any model.

The line is a hash of everything that the result depends on. It is written last: a result without it is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .cells import expand
from .files import content_key, write_atomically
from .parameters import Parameters
from .results_layout import runs_folder, sweep_folder, tables_of
from .source_hash import import_closure, source_hash

ROOT = Path(__file__).parents[2]


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
    """What the videos of a sweep are made from, the keys of its cells; and the videos themselves, so that none may be lost.

    Raises ValueError for what a sweep cannot have, such as a missing checkpoint; methods are checked when videos are made.
    """
    keys = [cell.key for cell in expand(parameters, sweep, checked=False)]
    return content_key({"keys": keys, "videos": sizes_hash(runs_folder(parameters, sweep))})


def scoring_code(*, recorded: bool, strips: bool) -> dict[str, str]:
    """{file: hash} of the code that scores a video and, if asked for, of that which summarises recordings and cuts film
    strips: comments do not count, nor what else scores are read or counted with."""
    modules = ["score_video.py", *(["score.py"] if strips else [])]
    starts = [ROOT / "analysis/scoring" / name for name in modules]
    starts += [ROOT / "analysis/attention/recording_summaries.py"] if recorded else []
    files = {f for start in starts for f in import_closure(start, ROOT / "analysis", ("study",))}
    files |= {ROOT / "analysis/study/video_files.py"}
    files |= set(import_closure(ROOT / "testbed/oracle.py", ROOT / "testbed"))
    return {file.relative_to(ROOT).as_posix(): source_hash(file) for file in sorted(files)}


def of_scores(parameters: Parameters, sweep: str) -> str:
    """What the tables of a sweep are made from: its videos and manifest, the samples and the code that scores; and the
    tables themselves, which another commit may have put there."""
    tables = [sweep_folder(parameters, sweep) / name for name in tables_of(parameters, sweep)]
    recorded = parameters.sweeps[sweep].record is not None
    return content_key(
        {
            "videos": sizes_hash(runs_folder(parameters, sweep)),
            "samples": contents_hash([parameters.benchmark_of(sweep).folder / "meta.json"]),
            "code": scoring_code(recorded=recorded, strips=True),
            "backbone": parameters.sweeps[sweep].backbone,
            "tables": contents_hash(tables),
        }
    )


def note(file: Path, stamp: str) -> None:
    """Write a stamp."""
    write_atomically(file, lambda path: path.write_text(stamp + "\n"))


def is_noted(file: Path, stamp: str, *results: Path) -> bool:
    """Whether the results are there and were made from what the stamp stands for."""
    return file.is_file() and file.read_text().strip() == stamp and all(r.is_file() for r in results)
