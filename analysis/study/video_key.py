"""What determines a video, as short hashes: the weights, the code that steers it, and the files that a setting names.

Nothing here imports a model or torch: that all videos of a sweep are there is known in a second.
"""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from safetensors import safe_open

from .backbone_settings import Backbone, Lora, family_of
from .files import content_key, write_atomically
from .input_edits import SOURCES, split
from .source_hash import import_closure, source_hash

METHODS = Path(__file__).parents[2] / "methods"
# Of these, the version that is raised by hand is part of the key; the rest only finds and names methods.
SHARED = ("core", "families", "registry.py", "__main__.py")
KNOWN, LARGE = Path("build/weights.json"), 2**26  # bytes; {path: [size, time, sha256]}
WEIGHTS = {".json", ".safetensors", ".txt", ".model"}


def canonical(settings) -> str:
    """JSON with sorted keys, so that equal settings are equal text."""
    return json.dumps(settings, sort_keys=True)


# Files ---------------------------------------------------------------------------------------------------------------
def _read(path: Path, size: int, changed: int) -> bytes:
    with path.open("rb") as file:  # piece by piece: weights are larger than memory
        return hashlib.file_digest(file, "sha256").digest()


@cache
def _read_once(path: Path, size: int, changed: int) -> bytes:
    """`_read`, which for large files is also read once a machine: their hashes are kept in KNOWN."""
    if size < LARGE:
        return _read(path, size, changed)
    place, stamp = path.resolve().as_posix(), [size, changed]
    known = _known_hashes()
    if place in known and known[place][:2] == stamp:
        return bytes.fromhex(known[place][2])
    digest = _read(path, size, changed)
    known = _known_hashes() | {place: [*stamp, digest.hex()]}  # another process may have added to it meanwhile
    with suppress(OSError):  # where nothing can be written it is read again next time
        write_atomically(KNOWN, lambda path: path.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n"))
    return digest


def _known_hashes() -> dict[str, list]:
    try:
        found = json.loads(KNOWN.read_text())
        return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 3}
    except (OSError, ValueError, AttributeError):  # not there yet, or not what was written here: read the files again
        return {}


def _digest(path: Path) -> bytes:
    """sha256 of a file, read once a process (a large one once a machine) unless its size or time changes. A file of the last
    seconds is always read: it could change again within one tick of its time."""
    status = path.stat()
    read = _read if time.time_ns() - status.st_mtime_ns < 5e9 else _read_once
    return read(path, status.st_size, status.st_mtime_ns)


def file_hash(path: Path) -> str:
    """Hash of a file's content."""
    return _digest(path).hex()[:20]


def folder_hash(folder: Path) -> str:
    """Hash of the names and contents of a checkpoint's files, independent of where it lies."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in WEIGHTS and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(_digest(file))
    return digest.hexdigest()[:20]


# Weights -------------------------------------------------------------------------------------------------------------
def weights_hash(name: str, backbone: Backbone) -> str:
    """Identifies a backbone's weights: a hash of the folder's files, or the hub name at a revision, and of the delta or the
    LoRAs with their strengths. Raises ValueError if one is missing, or if the delta was tuned from other weights."""
    base = checkpoint_hash(name, backbone)
    if backbone.load.lora:
        return content_key(
            {"checkpoint": base, "lora": [[_lora_hash(name, one), one.scale] for one in backbone.load.lora]}
        )
    if backbone.delta is None:
        return base
    file = Path(backbone.delta)
    if not file.is_file():
        raise ValueError(f"backbone {name}: no delta at {file}; tune one with `python -m analysis tune-focal`")
    _check_weights(file, base, f"backbone {name}: the delta {file} was tuned from", backbone, "tune")
    return content_key({"checkpoint": base, "delta": file_hash(file)})


def checkpoint_hash(name: str, backbone: Backbone) -> str:
    """Identifies a backbone's checkpoint, without its delta and LoRAs. Raises ValueError if it is missing."""
    folder = Path(backbone.checkpoint)
    if (folder / "model_index.json").is_file():
        return folder_hash(folder)
    if folder.exists() or backbone.checkpoint.count("/") != 1:
        raise ValueError(
            f"backbone {name}: no checkpoint at {backbone.checkpoint} (model_index.json is missing); "
            "train it with `make train-testbed`, or give a hub name such as organisation/model"
        )
    if not backbone.revision:
        raise ValueError(
            f"backbone {name}: the hub checkpoint {backbone.checkpoint} needs a `revision` (a commit hash)"
        )
    return f"{backbone.checkpoint}@{backbone.revision}"


def _lora_hash(name: str, lora: Lora) -> str:
    if lora.revision is not None:
        return f"{lora.checkpoint}@{lora.revision}/{lora.weight_name}"
    if not Path(lora.checkpoint).is_file():
        raise ValueError(f"backbone {name}: no LoRA at {lora.checkpoint}")
    return file_hash(Path(lora.checkpoint))


def check_projections(name: str, backbone: Backbone, weights: str, settings: Iterable[dict]) -> None:
    """Raise ValueError for a method's projection that is missing or was trained with other weights than the backbone's of
    hash `weights`; a delta over them does not count."""
    files = sorted({Path(s["projection"]) for s in settings if s.get("projection") is not None})
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(
            f"no projection at {missing[0]}; train it with `python -m analysis tune-focal --backbone NAME`, which writes "
            "<out>/<variant>-projection.safetensors"
        )
    base = weights
    if files and (backbone.delta is not None or backbone.load.lora):
        base = checkpoint_hash(name, backbone)
    for file in files:
        _check_weights(file, base, f"backbone {name}: the projection {file} was trained with", backbone, "train")


def _check_weights(file: Path, base: str, made: str, backbone: Backbone, again: str) -> None:
    """Raise ValueError, beginning with `made`, if the metadata of a safetensors file name other weights than `base`."""
    with safe_open(file, "np") as f:
        weights = (f.metadata() or {}).get("weights")
    if weights != base:
        raise ValueError(
            f"{made} other weights ({weights}) than {backbone.checkpoint} has ({base}); {again} it anew with "
            "`python -m analysis tune-focal`"
        )


# Code ----------------------------------------------------------------------------------------------------------------
def core_version(package: Path = METHODS) -> int:
    """CORE_VERSION as it stands in the source. Raises ValueError if it is not a plain number there."""
    for node in ast.parse((package / "core/version.py").read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["CORE_VERSION"]:
            return ast.literal_eval(node.value)
    raise ValueError(f"{package / 'core/version.py'} has no line `CORE_VERSION = <number>`")


def method_files(package: Path = METHODS) -> dict[str, Path]:
    """{method's name: the file of its class}, found as methods.registry finds them: classes with a `name` of their own."""
    return {name: path for path in sorted(package.glob("[!_]*.py")) for name in _names_in(path.read_text())}


@cache
def _names_in(source: str) -> list[str]:
    """The values of `name` in the bodies of a module's classes."""
    found = []
    for node in ast.parse(source).body:
        for line in node.body if isinstance(node, ast.ClassDef) else []:
            targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
            value = getattr(line, "value", None)
            if "name" in [getattr(t, "id", "") for t in targets] and isinstance(value, ast.Constant):
                found.append(value.value)
    return found


def program_hash(settings: list[dict], pipeline: str, *, blurred: bool = False, package: Path = METHODS) -> str:
    """Hash of the code that a video depends on beyond its pipeline: the version of the core, the files that each method
    needs besides it, and those that blur the reference; of the calibrated blocks of the pipeline's family if they are
    asked for, and of files and folders that a setting names.

    settings: the methods and edits of inputs as dictionaries; none if a video is only recorded. Raises ValueError for an
    unknown method.
    """
    edits, settings = split(settings)
    known = method_files(package)
    if unknown := [s.get("method") for s in settings if s.get("method") not in known]:
        raise ValueError(f"unknown method {unknown[0]!r}; allowed are {', '.join(known)}")
    modules = [known[s["method"]] for s in settings] + ([package / "blur.py"] if blurred else [])
    modules += [package / source for source in SOURCES if edits]
    files = {file for module in modules for file in import_closure(module, package, SHARED)}
    code = {file.relative_to(package).as_posix(): source_hash(file) for file in sorted(files)}
    found = {"core": core_version(package), "code": code}
    values = [v for s in settings for v in s.values() if isinstance(v, str)]
    if "calibrated" in values:
        lists = json.loads((package / "calibrated_blocks.json").read_text())
        own = [e for e in lists if e["family"] == family_of(pipeline)]
        found["lists"] = [[e["family"], e["count"], e["blocks"]] for e in own]
    named = sorted({v for v in values if "/" in v and Path(v).exists()})
    if named:
        found["files"] = {v: folder_hash(Path(v)) if Path(v).is_dir() else file_hash(Path(v)) for v in named}
    return content_key(found)
