"""`study export`: the lossless videos as mp4 under the names that other programs read, such as OmitI2V's and VBench's scripts."""

from __future__ import annotations

import csv
import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..study.files import write_atomically
from ..study.parameters import Parameters
from ..study.video_files import read_video
from ..videos.records import VideoState, sweep_states

FIELDS = ("backbone", "method", "sweep", "id", "prompt", "seed", "index", "guidance")
LIST = "export.csv"  # which video each file was made of
LONGEST = 255  # bytes of a name


@dataclass(frozen=True)
class Export:
    """A video to write: its state, what its file is to be called, and its frames per second."""

    state: VideoState
    name: str
    fps: int


def planned(parameters: Parameters, names: str) -> list[Export]:
    """Every cell of the study with its file's name, made from a pattern such as `{method}/{id}.mp4`.

    index is that of the seed, from 0. Raises ValueError for an unknown field, for a pattern under which two videos have one
    name, and for names that no file can have.
    """
    if unknown := sorted({f for _, f, _, _ in string.Formatter().parse(names) if f is not None} - set(FIELDS)):
        raise ValueError(f"--names has {{{unknown[0]}}}; there are {', '.join(f'{{{f}}}' for f in FIELDS)}")
    if not names.endswith(".mp4"):
        raise ValueError(f"--names is {names!r}; it has to end in .mp4")
    found, taken = [], {}
    for sweep, grid in parameters.sweeps.items():
        for state in sweep_states(parameters, sweep):
            cell = state.cell
            name = names.format(
                backbone=cell.backbone, method=cell.method, sweep=sweep, id=cell.sample, prompt=_one_name(cell.prompt),
                seed=cell.seed, index=grid.seeds.index(cell.seed), guidance=f"{cell.guidance_scale:g}",
            )  # fmt: skip
            _check_name(name)
            if name in taken:
                raise ValueError(f"two videos would be called {name}: {_said(taken[name])} and {_said(cell)}; name more of "
                                 f"{', '.join(f'{{{f}}}' for f in FIELDS)}")  # fmt: skip
            taken[name] = cell
            found.append(Export(state, name, parameters.backbones[cell.backbone].fps))
    return found


def _one_name(prompt: str) -> str:
    # A slash would be a folder. VBench's prompts have none; it is refused rather than replaced, since scripts look for the name.
    if "/" in prompt or "\0" in prompt:
        raise ValueError(f"the prompt {prompt[:60]!r} has a slash and cannot be a file's name; use {{id}}")
    return prompt


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts:
        raise ValueError(f"{name!r} would be outside the folder")
    if long := [p for p in parts if len(p.encode()) > LONGEST]:
        raise ValueError(f"the name {long[0][:60]!r}... has {len(long[0].encode())} bytes; {LONGEST} are allowed")


def _said(cell) -> str:
    return f"{cell.sample}, {cell.method}, seed {cell.seed}"


def export(parameters: Parameters, to: Path, names: str, *, crf: int = 12) -> tuple[int, int, list[str]]:
    """Write every video that is there; (written, kept, what is missing and why). Run it in the study's folder.

    A file is kept if it was made of the same video, with the same quality, by an earlier call. H.264 with 4:2:0 chroma, `crf`
    its quality: 0 is the best, 12 is hard to tell from the original. Raises ValueError for an odd height or width.
    """
    if not 0 <= crf <= 51:
        raise ValueError(f"--crf is {crf}; 0 (best) to 51 are allowed")
    todo, known, missing = planned(parameters, names), _known(to), []
    written = kept = 0
    for item in todo:
        if item.state.state != "ok":
            missing.append(f"{item.name}: {item.state.state}, {item.state.reason}")
            continue
        if known.get(item.name) == (item.state.cell.key, str(crf)) and (to / item.name).is_file():
            kept += 1
            continue
        video = read_video(item.state.path)
        write_atomically(to / item.name, lambda path, video=video, fps=item.fps: write_mp4(path, video, fps, crf))
        known[item.name] = (item.state.cell.key, str(crf))
        _note(to, known)
        written += 1
    return written, kept, missing


def write_mp4(path: Path, video: np.ndarray, fps: int, crf: int) -> None:
    """Write uint8 (T, H, W, 3) as H.264, the same bytes for the same video."""
    import av

    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path.name} would be {width}x{height}; H.264 with 4:2:0 chroma needs even sides")
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _known(to: Path) -> dict[str, tuple[str, str]]:
    if not (to / LIST).is_file():
        return {}
    with (to / LIST).open(newline="") as file:
        return {row["file"]: (row["key"], row["crf"]) for row in csv.DictReader(file)}


def _note(to: Path, known: dict[str, tuple[str, str]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("file", "key", "crf"))
            writer.writerows((name, *own) for name, own in sorted(known.items()))

    write_atomically(to / LIST, write)


def relative(path: Path, folder: Path) -> str:
    """A path as it is written into a manifest in `folder`."""
    return Path(os.path.relpath(path, folder)).as_posix()


def states_of(parameters: Parameters) -> Iterator[tuple[str, VideoState]]:
    """(sweep, state) of every cell of a study."""
    for sweep in parameters.sweeps:
        yield from ((sweep, state) for state in sweep_states(parameters, sweep))
