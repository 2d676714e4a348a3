"""A scorer that is a program in an environment of its own: a YAML file says its command line and what it returns.

    name: my_metric
    version: "1"                      # of program and weights; raised whenever values would change
    command: ["{env:MY_PYTHON}", "{folder}/my_metric.py", "{video}", "--prompt", "{prompt}"]
    per: video                        # one call a video, or `manifest`: one call for many
    output: json                      # or csv
    timeout: 600                      # seconds a video
    inputs: [prompt]
    files: [my_metric.py]             # beside the YAML file; their contents enter the key
    requires: {weights: "...", licence: "...", install: "..."}
    metrics:
      my_score: {unit: "", low: 0, high: 1, what: "...", better: higher}

Placeholders of the command: {env:NAME} an environment variable, {folder} that of the YAML file, {out} a file that the
program writes (its standard output is read where the command has no {out}); with `per: video` {video}, {image}, {prompt},
{id}, {questions}, {fps}; with `per: manifest` {manifest}, a CSV with the columns video, image, prompt, id, questions, fps.
There is no shell. JSON is {metric: value}, or {video: {metric: value}} for a manifest, null where there is no value; CSV has
the columns metric, value, and video for a manifest, and may have status and reason, as in the table of scores.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from .manifest import COLUMNS
from .scorer import Metric, Requires, Sample, Scorer
from .video import NotScored, Video, file_sha256

FOLDER = Path(__file__).parent / "programs"  # those that come with this package
PLACEHOLDER = re.compile(r"\{(env:\w+|\w+)\}")
BATCH = 200  # videos of one call for a manifest: what is lost when it is stopped


def shipped() -> dict[str, Path]:
    """Name -> YAML file of the programs that come with this package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


@dataclass(frozen=True, eq=False, kw_only=True)
class Program(Scorer):
    """A program as a scorer; made by `load_program`."""

    file: Path
    name: str
    version: str
    command: tuple[str, ...]
    metrics: Mapping[str, Metric]
    requires: Requires
    inputs: tuple[str, ...] = ()
    per: str = "video"
    output: str = "json"
    timeout: float = 600.0
    files: tuple[str, ...] = ()

    __eq__, __hash__ = object.__eq__, object.__hash__  # the base compares no fields

    @property
    def runs(self) -> str:
        return "worker" if self.per == "video" else "here"

    @property
    def batch(self) -> int:
        return 1 if self.per == "video" else BATCH

    def parameters(self) -> dict:
        return {"command": list(self.command), "per": self.per, "output": self.output}

    def spelled(self) -> str:
        return self.name

    def fingerprint(self) -> str:
        return " ".join(file_sha256(self.file.parent / name) for name in self.files)

    def available(self) -> str | None:
        advice = f": {self.requires.install}" if self.requires.install else ""
        for variable in re.findall(r"\{env:(\w+)\}", " ".join(self.command)):
            if not os.environ.get(variable):
                return f"the environment variable {variable} is not set{advice}"
        program = self._fill(self.command[0], {})
        if shutil.which(program) is None:
            return f"there is no program {program!r}{advice}"
        return None

    def score(self, video: Video, sample: Sample) -> dict:
        if self.per == "manifest":
            result = self.score_many([(video, sample)])[0]
            if isinstance(result, NotScored):
                raise result
            return result
        _ = video.frames  # a file that cannot be read is none for the program
        with tempfile.TemporaryDirectory() as folder:
            values = self._values(self._read(self._run(_as_text(video, sample), Path(folder), self.timeout)))
        if isinstance(values, NotScored):
            raise values
        return values

    def score_many(self, videos: list[tuple[Video, Sample]]) -> list:
        if self.per == "video":
            return super().score_many(videos)
        results: dict[int, Any] = {}
        for index, (video, _) in enumerate(videos):
            try:
                _ = video.frames
            except NotScored as reason:
                results[index] = reason
            video.release()
        sound = [i for i in range(len(videos)) if i not in results]
        if sound:
            results |= self._call({i: _as_text(*videos[i]) for i in sound})
        return [results[i] for i in range(len(videos))]

    def _call(self, texts: dict[int, dict[str, str]]) -> dict[int, Any]:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / "manifest.csv"
            with open(manifest, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(texts.values())
            answer = self._read(self._run({"manifest": str(manifest)}, Path(folder), self.timeout * len(texts)))
        gone = NotScored("failed", f"{self.name} returned nothing for this video")
        return {i: self._values(answer[t["video"]]) if t["video"] in answer else gone for i, t in texts.items()}

    def _fill(self, argument: str, texts: dict[str, str]) -> str:
        known = {"folder": str(self.file.parent.resolve())} | texts

        def text(match: re.Match) -> str:
            name = match[1]
            return os.environ[name[4:]] if name.startswith("env:") else known[name]

        return PLACEHOLDER.sub(text, argument)

    def _run(self, texts: dict[str, str], folder: Path, timeout: float) -> str:
        """What the program wrote. Raises NotScored "failed" for its exit status, its time, or a file it did not write."""
        out = folder / "out"
        arguments = [self._fill(argument, texts | {"out": str(out)}) for argument in self.command]
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            said, errors = process.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the programs that it started
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise NotScored("failed", f"{self.name} did not end within {timeout:g} s") from None
            raise
        if process.returncode:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1][:200]
            raise NotScored("failed", f"{self.name} ended with status {process.returncode}: {last}")
        if not any("{out}" in argument for argument in self.command):
            return said
        if not out.is_file():
            raise NotScored("failed", f"{self.name} ended with status 0 and wrote no {{out}}")
        return out.read_text(encoding="utf-8", errors="replace")

    def _read(self, text: str) -> dict:
        try:
            found = json.loads(text) if self.output == "json" else _of_csv(text, by_video=self.per == "manifest")
        except (ValueError, KeyError, csv.Error) as error:
            raise NotScored("failed", f"{self.name} returned no {self.output}: {error!r}, {text[:80]!r}") from None
        if not isinstance(found, dict):
            raise NotScored("failed", f"{self.name} returned no object of metrics: {text[:80]!r}")
        return found

    def _values(self, found: dict) -> dict[str, float | NotScored] | NotScored:
        values = {}
        for name, value in found.items() if isinstance(found, dict) else ():
            if isinstance(value, NotScored):
                values[name] = value
            elif value is None:
                values[name] = NotScored("undefined", f"{self.name} gives no value")
            elif isinstance(value, int | float):  # booleans count as 0 and 1
                values[name] = float(value)
            else:
                return NotScored("failed", f"{self.name} returned {name} = {value!r}, which is no number")
        return {name: value for name, value in values.items() if name.partition("/")[0] in self.metrics} or NotScored(
            "failed", f"{self.name} returned none of its metrics: {str(found)[:80]}"
        )


def _as_text(video: Video, sample: Sample) -> dict[str, str]:
    return {
        "video": str(video.path.resolve()),
        "image": str(sample.image.resolve()) if sample.image else "",
        "prompt": sample.prompt or "",
        "id": sample.id or "",
        "questions": json.dumps(sample.questions) if sample.questions else "",
        "fps": str(video.stated or ""),
    }


def _of_csv(text: str, by_video: bool) -> dict:
    found: dict = {}
    for line in csv.DictReader(io.StringIO(text)):
        value: Any = float(line["value"]) if line["value"] else None
        if line.get("status") not in (None, "", "ok"):
            value = NotScored(line["status"], line.get("reason") or "it says no reason")
        (found.setdefault(line["video"], {}) if by_video else found)[line["metric"]] = value
    return found


def load_program(path: Path) -> Program:
    """The program of a YAML file. Raises ValueError, naming the file, for anything that it does not say or says wrongly."""
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; programs that come with this package: {', '.join(shipped()) or 'none'}"
        )
    try:
        given = YAML(typ="safe", pure=True).load(path.read_text())
        return _program(path, given)
    except (YAMLError, TypeError, KeyError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: {' '.join(reason.split())}") from None


def _metric(name: str, said: dict) -> Metric:
    if "fills" in said:
        raise ValueError(f"{name} says which columns it `fills`: papers/stand_ins.yaml does, under `real`; take it out here and name "
                         "the metric as it is called there, or add it there")  # fmt: skip
    return Metric(**said)


def _program(path: Path, given: dict) -> Program:
    if not isinstance(given, dict):
        raise ValueError("it holds no mapping")
    allowed = [f.name for f in fields(Program) if f.name != "file"]
    if unknown := set(given) - set(allowed):
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}; allowed are {', '.join(allowed)}")
    per, output = given.get("per", "video"), given.get("output", "json")
    if per not in ("video", "manifest") or output not in ("json", "csv"):
        raise ValueError(f"per is video or manifest and output is json or csv, not {per!r} and {output!r}")
    inputs = tuple(given.get("inputs", ()))
    command = given["command"]
    if not isinstance(command, list) or not command or not all(isinstance(c, str) for c in command):
        raise ValueError("command is a list of words")
    known = {"folder", "out"} | ({"manifest"} if per == "manifest" else {"video", "fps", *inputs})
    for word in PLACEHOLDER.findall(" ".join(command)):
        if not word.startswith("env:") and word not in known:
            raise ValueError(f"the command has {{{word}}}; there are {', '.join(sorted(known))} and env:NAME "
                             "(image, prompt, id and questions if they are among `inputs`)")  # fmt: skip
    files = tuple(given.get("files", ()))
    if gone := [name for name in files if not (path.parent / name).is_file()]:
        raise ValueError(f"there is no file {gone[0]} beside it")
    timeout = float(given.get("timeout", 600))
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; seconds above 0 are wanted")
    return Program(
        file=path, name=str(given["name"]), version=str(given["version"]), command=tuple(command),
        metrics={name: _metric(name, said) for name, said in given["metrics"].items()},
        requires=Requires(**({"packages": {}} | given.get("requires", {}))), inputs=inputs, per=per, output=output,
        timeout=timeout, files=files,
    )  # fmt: skip
