"""Weights on this machine: where a model's folder is, and a hash of what is in it. Nothing is ever downloaded by a
scorer."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

from .scorer import Scorer

KEPT = {".json", ".safetensors", ".txt", ".model"}  # files that decide what a model computes


def model_folder(model: str, revision: str = "") -> Path | None:
    """The folder of a model with all its safetensors: `model` itself, or the copy of a hub name such as
    organisation/model (at `revision`, main by default) in the cache of this machine; None if it is not there or not
    whole."""
    folder = _folder(model, revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return folder if all((folder / name).is_file() for name in names) else None


def _folder(model: str, revision: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None


def missing_model(scorer: str, model: str, revision: str = "", classes: tuple[str, ...] = ()) -> str | None:
    """None, or a sentence that says how to get a model that is not here. classes: of transformers, that save the model
    and its tokenizer anew where the hub has it as `pytorch_model.bin` alone."""
    if model_folder(model, revision):
        return None
    folder = _folder(model, revision)
    if classes and folder is not None and (folder / "pytorch_model.bin").is_file():
        saved = "; ".join(f"t.{c}.from_pretrained('{folder}').save_pretrained('FOLDER')" for c in classes)
        return (
            f"{model} is here as pytorch_model.bin alone, and pickled weights are not read by a scorer. Save it anew "
            f'once, python -c "import transformers as t; {saved}", and name it with {scorer}:model=FOLDER'
        )
    at = f" --revision {revision}" if revision else ""
    return (
        f"no folder with config.json and all safetensors of {model} is here: `hf download {model}{at}`, or name one "
        f"with {scorer}:model=FOLDER"
    )


def missing_file(scorer: str, parameter: str, file: str, source: str) -> str | None:
    """None, or a sentence that says which file of weights a parameter has to name, and what to make it from."""
    if not file:
        return f"it needs {scorer}:{parameter}=FILE.safetensors, made from {source}"
    if Path(file).suffix != ".safetensors":
        return f"{parameter}={file} is not read: pickled weights can run code. {convert(file)}"
    return None if Path(file).is_file() else f"there is no file {file} ({scorer}:{parameter}), to be made from {source}"


def convert(file: str) -> str:
    """How a state dict saved by torch becomes a safetensors file."""
    new = Path(file).with_suffix(".safetensors").name
    return (
        'Convert it once: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{file}', map_location='cpu', weights_only=True), '{new}')\""
    )


def weights_digest(path: Path) -> str:
    """20 hex digits of the names and contents of a model's files, or of one file. A file in the hub's cache is known by
    the SHA-256 that it is stored under, and is not read."""
    if path.is_file():
        return _sha256_of(path)[:20]
    total = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in KEPT and p.is_file()):
        total.update(f"{file.name} {_sha256_of(file)}\n".encode())
    return total.hexdigest()[:20]


def _sha256_of(file: Path) -> str:
    stored = file.resolve()
    if stored.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return stored.name
    status = file.stat()
    return _read(file, status.st_size, status.st_mtime_ns)


@cache
def _read(file: Path, size: int, changed: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def device_of(device: str):
    """The torch device that `device` names; "auto" is the GPU if there is one. Raises ValueError if it is not there."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def required_folder(scorer: str, model: str, revision: str = "") -> Path:
    """`model_folder`. Raises ValueError, with what `missing_model` says, if it is not there."""
    folder = model_folder(model, revision)
    if folder is None:
        raise ValueError(missing_model(scorer, model, revision))
    return folder


def model_digest(model: str, revision: str = "") -> str:
    """`weights_digest` of a model's folder; "" if it is not there."""
    folder = model_folder(model, revision)
    return weights_digest(folder) if folder else ""


@dataclass(frozen=True)
class HubModel(Scorer):
    """Base of scorers on a model of transformers. model: a folder, or a hub name that is in this machine's cache (at
    `revision`). device: "auto", "cpu", "cuda", ..."""

    model: str = ""
    revision: str = ""
    device: str = "auto"

    runs: ClassVar = "here"
    classes: ClassVar[tuple[str, ...]]  # of transformers: the model's, and its tokenizer's if it has one
    options: ClassVar[dict] = {}  # of the model's from_pretrained

    def available(self) -> str | None:
        return self.requires.missing() or missing_model(self.name, self.model, self.revision, self.classes)

    def fingerprint(self) -> str:
        return model_digest(self.model, self.revision)

    @cached_property
    def loaded(self):
        """(model, device)."""
        import transformers

        folder, device = required_folder(self.name, self.model, self.revision), device_of(self.device)
        kind = getattr(transformers, self.classes[0])
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **self.options)
        return model.eval().to(device), device
