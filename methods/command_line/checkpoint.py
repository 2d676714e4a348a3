"""What a checkpoint says of itself in its configuration files, without loading weights.

The pipeline's class comes from model_index.json, the arguments of its call from the signature, and the transformer and
the autoencoder are built without memory for their weights (on the "meta" device), so that methods can be checked on them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

SMALL = 8 * 1024**3  # bytes of weights that are hashed whole
PIECE, STRIDE = 1024**2, 64 * 1024**2  # of larger ones a piece is hashed in every stride


@dataclass(frozen=True)
class Checkpoint:
    """A folder in diffusers' layout, or a hub name with its revision.

    model_index: contents of model_index.json. pipeline: the class that it names.
    """

    model: str
    revision: str | None
    model_index: dict
    pipeline: type

    @cached_property
    def call(self) -> dict[str, inspect.Parameter]:
        """The arguments of the pipeline's call by name."""
        return dict(list(inspect.signature(self.pipeline.__call__).parameters.items())[1:])

    def component(self, part: str) -> str | None:
        """Class name of a component, None if the checkpoint has none of that name."""
        entry = self.model_index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def config(self, part: str) -> dict:
        """The configuration of a component; {} if there is none."""
        if self.component(part) is None:
            return {}
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.model, f"{part}/{name}", self.revision) or {}

    def skeleton(self, part: str) -> torch.nn.Module | None:
        """A model of diffusers built from its configuration without memory for weights; None if there is none."""
        import diffusers

        kind = getattr(diffusers, self.component(part) or "", None)
        if kind is None or not issubclass(kind, diffusers.ModelMixin):
            return None
        with torch.device("meta"):
            return kind.from_config(self.config(part)).eval()

    @cached_property
    def transformers(self) -> dict[str, torch.nn.Module]:
        """Skeletons of the transformer and, in Wan 2.2 A14B, of the second expert."""
        found = {name: self.skeleton(name) for name in ("transformer", "transformer_2")}
        return {name: part for name, part in found.items() if part is not None}

    @cached_property
    def compression(self) -> tuple[int, int]:
        """Frames and pixels (a side) of the video per latent one; (4, 8) where the checkpoint has no autoencoder."""
        vae = self.skeleton("vae")
        if vae is None:
            return 4, 8
        time, space = (
            next((n for n in (vae.config.get(old), vae.config.get(new), vars(vae).get(new)) if n), None)
            for old, new in (
                ("scale_factor_temporal", "temporal_compression_ratio"),
                ("scale_factor_spatial", "spatial_compression_ratio"),
            )
        )
        return int(time), int(space or 2 ** (len(vae.config.block_out_channels) - 1))

    @cached_property
    def patch(self) -> tuple[int, int]:
        """Latent frames and latent pixels (a side) in a token."""
        config = self.config("transformer")
        size = config.get("patch_size") or 1
        if isinstance(size, list):
            return int(size[0]), int(size[-1])
        return int(config.get("patch_size_t") or 1), int(size)


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Raises FileNotFoundError for a model without model_index.json, ValueError for a pipeline that diffusers lacks and for
    a revision of a folder."""
    import diffusers

    if revision is not None and Path(model).is_dir():
        raise ValueError(f"--revision {revision}: {model} is a folder; revisions are of names on the hub")
    index = read_json(model, "model_index.json", revision)
    if index is None:
        raise FileNotFoundError(f"--model {model}: no model_index.json there, so it is not a pipeline of diffusers")
    name = index.get("_class_name", "")
    kind = getattr(diffusers, name, None)
    if kind is None or not issubclass(kind, diffusers.DiffusionPipeline):
        raise ValueError(
            f"--model {model} is a {name or 'pipeline without a name'}, which diffusers {diffusers.__version__} lacks"
        )
    return Checkpoint(model, revision, index, kind)


def read_json(model: str, file: str, revision: str | None) -> dict | None:
    """A configuration file of a folder or a hub name; None if the model has no such file.

    Raises FileNotFoundError for a folder that is not there, or a hub name that can neither be reached nor is cached.
    """
    if Path(model).is_dir():
        path = Path(model, file)
        if not path.is_file():
            return None
    else:
        path = _from_hub(model, file, revision)
        if path is None:
            return None
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _from_hub(model: str, file: str, revision: str | None) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"--model {model}: no such folder, and no name of a model on the hub (OWNER/NAME) either"
        )
    try:
        return hf_hub_download(model, file, revision=revision)
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"--model {model}: no such folder, and {file} of that name is not on this machine and could not be downloaded "
            "(HF_HUB_OFFLINE=1 forbids it)"
        ) from None
    except EntryNotFoundError:
        return None
    except (HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"--model {model}: no such folder; from the hub: {str(error).splitlines()[0]}"
        ) from None


def fingerprint(model: str, revision: str | None = None) -> str:
    """What tells the weights from others: the commit of a hub name, else a SHA-256 over names, sizes and contents.

    Of more than 8 GB only a mebibyte in every 64 is read: "sha256-sampled", which small changes can escape.
    """
    if not Path(model).is_dir():
        return f"commit:{Path(_from_hub(model, 'model_index.json', revision)).parent.name}"
    files = sorted(p for p in Path(model).rglob("*") if p.suffix == ".safetensors")
    sampled = sum(p.stat().st_size for p in files) > SMALL
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(model).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, STRIDE if sampled else PIECE):
                file.seek(start)
                digest.update(file.read(PIECE))
    return f"sha256{'-sampled' if sampled else ''}:{digest.hexdigest()}"
