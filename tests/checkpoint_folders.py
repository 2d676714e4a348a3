"""Folders of checkpoints for tests of the command line: tiny pipelines in diffusers' layout, with and without weights."""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from PIL import Image
from tiny_pipelines import build

TESTBED = Path(__file__).parent.parent / "testbed/checkpoints"


def save(name, folder):
    """A tiny pipeline of tests/tiny_pipelines.py, saved."""
    pipe, _ = build(name)
    pipe.save_pretrained(folder)
    if name == "hunyuan-1.5":  # whose sizes follow from the image and this
        path = folder / "transformer/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"target_size": 48}))
    return str(folder)


def without_weights(source, folder):
    """A copy of a checkpoint that has its configuration files alone: nothing could be loaded from it."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.model"))
    assert not list(folder.rglob("*.safetensors"))
    return str(folder)


def ltx(folder, pipeline):
    """Configuration files of an LTX pipeline whose parts have diffusers' default settings."""
    parts = {"transformer": "LTXVideoTransformer3DModel", "vae": "AutoencoderKLLTXVideo"}
    folder.mkdir(exist_ok=True)
    index = {"_class_name": pipeline, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    for part, kind in parts.items():
        index[part] = ["diffusers", kind]
        with torch.device("meta"):
            getattr(diffusers, kind)().save_config(folder / part)
    diffusers.FlowMatchEulerDiscreteScheduler().save_config(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index))


def image(path, size=(48, 32), **options):
    """An image whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", size, (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    picture.save(path, **options)
    return str(path)
