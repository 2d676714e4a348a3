"""The commands that the papers' tables print: each is planned, on the published architectures without weights."""

import functools
import json
import shlex
from pathlib import Path

import diffusers
import pandas as pd
import pytest
import torch
from checkpoint_folders import image

from methods.__main__ import parser
from methods.command_line import options, plan
from methods.command_line.checkpoint import open_checkpoint

ROOT = Path(__file__).parent.parent
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
WAN_VAE = ("AutoencoderKLWan", {})
HUNYUAN_VAE = ("AutoencoderKLHunyuanVideo", {})
UNIPC, EULER = ("UniPCMultistepScheduler", FLOW), ("FlowMatchEulerDiscreteScheduler", {"shift": 7.0})
FRAMEPACK = {
    "transformer": ("HunyuanVideoFramepackTransformer3DModel", {}), "vae": HUNYUAN_VAE,
    "scheduler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
}  # fmt: skip
WAN = "WanTransformer3DModel"
IMAGE_CHANNELS = {"in_channels": 36, "out_channels": 16}
# Number and kind of blocks, channels and branches as published; widths are the defaults of the classes.
MODELS = {
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": (
        "WanImageToVideoPipeline",
        {"transformer": (WAN, IMAGE_CHANNELS | {"image_dim": 1280, "added_kv_proj_dim": 5120})}
        | {"vae": WAN_VAE, "scheduler": UNIPC},
    ),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": (
        "WanImageToVideoPipeline",
        {"transformer": (WAN, IMAGE_CHANNELS), "transformer_2": (WAN, IMAGE_CHANNELS), "vae": WAN_VAE, "scheduler": UNIPC},
    ),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (
        "WanPipeline",
        {"transformer": (WAN, {"num_layers": 30}), "vae": WAN_VAE, "scheduler": UNIPC},
    ),
    "checkpoints/framepack": ("HunyuanVideoFramepackPipeline", FRAMEPACK),
    "checkpoints/framepack-f1": ("HunyuanVideoFramepackPipeline", FRAMEPACK),
    "THUDM/CogVideoX-5b-I2V": (
        "CogVideoXImageToVideoPipeline",
        {
            "transformer": ("CogVideoXTransformer3DModel", {"in_channels": 32, "num_layers": 42, "use_rotary_positional_embeddings": True}),
            "vae": ("AutoencoderKLCogVideoX", {}), "scheduler": ("CogVideoXDDIMScheduler", {}),
        },
    ),
    "hunyuanvideo-community/HunyuanVideo-I2V": (
        "HunyuanVideoImageToVideoPipeline",
        {"transformer": ("HunyuanVideoTransformer3DModel", {"image_condition_type": "token_replace"}), "vae": HUNYUAN_VAE, "scheduler": EULER},
    ),
    "hunyuanvideo-community/HunyuanVideo-1.5-480p_i2v": (
        "HunyuanVideo15ImageToVideoPipeline",
        {
            "transformer": ("HunyuanVideo15Transformer3DModel", {}), "vae": ("AutoencoderKLHunyuanVideo15", {}),
            "scheduler": EULER, "guider": ("ClassifierFreeGuidance", {}),
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Plans a command line; the skeletons of a model are built once."""
    folder = tmp_path_factory.mktemp("published")
    for name, (pipeline, parts) in MODELS.items():
        (folder / name).mkdir(parents=True)
        index = {"_class_name": pipeline, "boundary_ratio": 0.9 if "A14B" in name else None}
        for part, (kind, config) in parts.items():
            index[part] = ["diffusers", kind]
            with torch.device("meta" if part in ("transformer", "transformer_2", "vae") else "cpu"):
                getattr(diffusers, kind)(**config).save_config(folder / name / part)
        (folder / name / "model_index.json").write_text(json.dumps(index))
    picture = image(folder / "IMAGE.png", (64, 64))
    opened = functools.cache(lambda model, revision: open_checkpoint(str(folder / model), revision))

    def run(command):
        words = [
            w.replace("IMAGE.png", picture).replace("VIDEO.mp4", f"{folder}/VIDEO.mp4") for w in shlex.split(command)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "open_checkpoint", opened)
            return plan.make_plan(options.merge(parser().parse_args(words[3:])))

    return run


def commands():
    table = pd.read_csv(ROOT / "results/full/08_paper_tables/paper_tables.csv")["command"].dropna()
    found = sorted({c for text in table for c in text.split(" && ") if c.startswith("python -m methods generate")})
    return found


def test_every_model_of_the_tables_is_here():
    assert {shlex.split(c)[5] for c in commands()} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_the_tables_commands_are_planned(planned, model):
    own = [c for c in commands() if shlex.split(c)[5] == model]
    assert own
    for command in own:
        if "CLIP_FOLDER" in command:
            with pytest.raises(ValueError, match="focal: no CLIP model at CLIP_FOLDER"):
                planned(command)
            continue
        made = planned(command)
        words = shlex.split(command)
        if "--guidance" in words:
            assert made.guidance == float(words[words.index("--guidance") + 1])
        if "--steps" in words:
            assert made.steps == int(words[words.index("--steps") + 1])
        assert len(made.methods) == words.count("--method")
