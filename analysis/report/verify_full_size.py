"""Whether this code still makes the full-size run's videos: a drawn sample of them is made again and scored, and every
number is compared with the one that was written.

With it a change that touches keys but no video, such as a renamed setting, costs some hundred videos and not all of them:
what is found equal may be accepted as made by the present code.
"""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..attention.recording_summaries import CELL, of_video, read_recording
from ..scoring.score import score_table
from ..scoring.score_video import DIGITS, score_video
from ..study import made_from
from ..study.benchmark_samples import load_samples
from ..study.cells import Cell, expand
from ..study.files import write_table
from ..study.parameters import Parameters
from ..study.progress import track
from ..study.results_layout import CELLS, FRAMES, SCORES, sweep_folder, tables_of
from ..study.score_columns import COLUMNS
from ..videos.generate import run_cell
from .full_size_run import NOTE, cells_stamp

PLACE = ["method", "guidance_scale", "blur", "prompts", "seed", "sample"]
ROUNDED = 1e-4  # of a recorded statistic: tables hold five digits


def draw(parameters: Parameters, count: int, seed: int) -> list[tuple[str, Cell]]:
    """(sweep, cell) of `count` cells: one of every method in every sweep, the others drawn from all that is left.

    Raises ValueError if `count` is less than there are methods in sweeps, or more than there are cells.
    """
    rng, chosen, rest = np.random.default_rng(seed), [], []
    for sweep in parameters.sweeps:
        cells = expand(parameters, sweep, checked=False)
        for method in parameters.sweeps[sweep].methods:
            own = [(sweep, cell) for cell in cells if cell.method == method]
            first = int(rng.integers(len(own)))
            chosen.append(own[first])
            rest += own[:first] + own[first + 1 :]
    if not len(chosen) <= count <= len(chosen) + len(rest):
        raise ValueError(f"{count} videos are asked for; there are {len(chosen)} methods in sweeps, of each one is made, "
                         f"and {len(chosen) + len(rest)} videos")  # fmt: skip
    more = rng.choice(len(rest), count - len(chosen), replace=False)
    return sorted(chosen + [rest[i] for i in more], key=lambda found: found[1].backbone)  # a model is loaded once


def make(
    cell: Cell, source: Cell | None, sample: dict, parameters: Parameters, folder: Path
) -> tuple[dict, dict[str, pd.DataFrame]]:
    """(scores, {name of a table: recorded statistics}) of a cell that is made anew in `folder`, after the video `source`
    whose first frame it starts from, if there is one."""
    image = parameters.benchmark.folder / sample["image-path"]
    if source is not None:
        run_cell(source, parameters.backbones[source.backbone], image, folder)
        image = folder / f"{source.key}.mkv"
    backbone = parameters.backbones[cell.backbone]
    status, reason = run_cell(cell, backbone, image, folder)
    if (said := folder / f"{cell.key}.txt").is_file():  # what a method said about this video
        reason = said.read_text()
    row = {"key": cell.key, "status": status, "reason": reason, "reference": image.as_posix()}
    row |= {name: getattr(cell, name) for name in ("backbone", *PLACE)}
    scores = score_video(row, sample, folder=folder, frames=backbone.frames)
    if not cell.record or status != "ok":
        return scores, {}
    cells, _, frames = of_video(read_recording(folder / f"{cell.key}.csv.gz"))
    return scores, {CELLS: cells, FRAMES: frames}


def compare(scored: pd.DataFrame, written: pd.DataFrame) -> dict:
    """How one row of scores differs from the written one: the columns that are not the same, and those of them in which it
    is more than one unit of a measure's last written digit, which another kind of processor may round otherwise. Columns
    that there were not yet when the row was written are not compared."""
    a, b = scored.iloc[0], written.iloc[0]
    known = [c for c in written.columns if not (c in COLUMNS and pd.isna(b[c]))]
    differing = [c for c in known if not (a[c] == b[c] or (pd.isna(a[c]) and pd.isna(b[c])))]
    rounded = [c for c in differing if c in DIGITS and abs(a[c] - b[c]) < 1.5 * 10.0 ** -DIGITS[c]]
    wrong = [c for c in differing if c not in rounded]
    return {"columns": len(known), "differing": " ".join(differing), "wrong": " ".join(wrong)}


def verify(
    parameters: Parameters, executor: Executor, folder: Path, out: Path, *, count: int, seed: int = 0
) -> pd.DataFrame:
    """Make `count` cells of the full-size run again in `folder` and write what was found to `out`, a row per cell.

    Columns: sweep, backbone, PLACE; columns (of scores, how many were compared), differing (names of those that are not the
    same), wrong (of those that differ by more than rounding); statistics (recorded, how many were compared) and
    statistics_largest, the largest relative difference.
    """
    samples = {s["id"]: s for s in load_samples(parameters.benchmark.folder)}
    drawn = draw(parameters, count, seed)
    sources = {s: expand(parameters, own, checked=False) for s in parameters.sweeps
               if (own := parameters.sweeps[s].reference) != "own"}  # fmt: skip
    before = [next((c for c in sources.get(sweep, []) if c.key == cell.image), None) for sweep, cell in drawn]
    asked = [samples[cell.sample] for _, cell in drawn]
    one = partial(make, parameters=parameters, folder=folder)
    work = executor.map(one, [cell for _, cell in drawn], before, asked)
    rows, tables = [], {}
    for (sweep, cell), (scored, recorded) in zip(drawn, track(work, len(drawn), "verify"), strict=True):
        if sweep not in tables:
            tables[sweep] = pd.read_csv(sweep_folder(parameters, sweep) / SCORES)
        written = _rows_of(tables[sweep], cell, PLACE)
        if len(written) != 1:
            raise ValueError(f"{sweep_folder(parameters, sweep) / SCORES} has {len(written)} rows of {cell.method}, "
                             f"{cell.sample}, seed {cell.seed}: make the sweep first")  # fmt: skip
        row = {"sweep": sweep, "backbone": cell.backbone} | {name: getattr(cell, name) for name in PLACE}
        row |= compare(_as_read(score_table([scored], sweep), folder / f"{cell.key}.csv"), written)
        rows.append(row | _recorded(parameters, sweep, cell, recorded))
    table = pd.DataFrame(rows)
    write_table(table, out)
    return table


def _rows_of(table: pd.DataFrame, cell: Cell, names: list[str]) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[name] == getattr(cell, name) for name in names])]


def _as_read(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table as it is read again from CSV: numbers, and what is missing, look alike on both sides."""
    write_table(table, path)
    return pd.read_csv(path)


def _recorded(parameters: Parameters, sweep: str, cell: Cell, recorded: dict[str, pd.DataFrame]) -> dict:
    """How many recorded statistics were compared, and the largest relative difference. Raises ValueError if others were
    recorded than are written."""
    compared, largest = 0, 0.0
    for name, table in recorded.items():
        if table.empty or name not in tables_of(parameters, sweep):
            continue
        by = [column for column in table.columns if column != "value"]
        written = pd.read_csv(sweep_folder(parameters, sweep) / name, keep_default_na=False)
        written = _rows_of(written, cell, CELL)[[*by, "value"]]
        both = table.astype(dict.fromkeys(by, str)).merge(
            written.astype(dict.fromkeys(by, str)), on=by, how="outer", suffixes=("", "_written")
        )
        if both.isna().any().any():
            raise ValueError(f"{sweep}, {cell.method}, {cell.sample}: other statistics are recorded than {name} has")
        difference = (both["value"] - both["value_written"]).abs() / both["value_written"].abs().clip(lower=1e-12)
        compared, largest = compared + len(both), max(largest, float(difference.max()))
    return {"statistics": compared, "statistics_largest": largest}


def is_equal(table: pd.DataFrame) -> bool:
    """Whether every score of every cell is the written one but for rounding, and every recorded statistic as far as it is
    written."""
    return bool((table["wrong"] == "").all() and (table["statistics_largest"] < ROUNDED).all())


def accept(parameters: Parameters) -> int:
    """Note of every sweep whose tables are there that the present code makes them; their number."""
    done = 0
    for sweep in parameters.sweeps:
        folder = sweep_folder(parameters, sweep)
        if all((folder / name).is_file() for name in tables_of(parameters, sweep)):
            made_from.note(folder / NOTE, cells_stamp(parameters, sweep))
            done += 1
    return done
