"""The model card: what was trained on what, for how long, and how the losses ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from safetensors import safe_open

ABOUT = {
    "wan": {
        "what": "the Wan 2.1 classes: text by cross-attention, an image encoder, flow matching",
        "parts": ("transformer", "text_encoder", "image_encoder", "vae"),
        "loss": "flow-matching mean squared error (t2v, i2v; phases differ in difficulty) and contrastive cross-entropy (clip)",
        "text": "The text encoder was trained along with the transformers.",
        "stages": {
            "vae": "AutoencoderKLWan (windows of 1, 5, 9 frames)",
            "vae-whole": "AutoencoderKLWan (whole clips)",
            "clip": "CLIPModel",
            "t2v": "UMT5EncoderModel + WanTransformer3DModel, text-to-video",
            "i2v": "the same, image-to-video",
        },
    },
    "hunyuan": {
        "what": "the HunyuanVideo classes: dual and single stream blocks, the reference's clean latent as the first frame",
        "parts": ("transformer", "text_encoder", "text_encoder_2", "vae"),
        "loss": "flow-matching mean squared error (t2v, i2v; phases differ in difficulty), contrastive cross-entropy (clip) and "
        "a sum of cross-entropies (llava)",
        "text": "The LLaVA was trained before the transformers, on references and captions, and frozen: linear heads tell of "
        "image tokens what covers their patch, and of a caption's last word what will happen.",
        "stages": {
            "vae": "AutoencoderKLHunyuanVideo (windows of 1 and 9 frames)",
            "vae-whole": "AutoencoderKLHunyuanVideo (whole clips)",
            "vae-noise": "AutoencoderKLHunyuanVideo (whole clips, noise on the latents)",
            "clip": "CLIPModel",
            "llava": "LlavaForConditionalGeneration (references and captions)",
            "t2v": "HunyuanVideoTransformer3DModel, text-to-video",
            "i2v": "the same, image-to-video",
        },
    },
    "cogvideox": {
        "what": "the CogVideoX classes: text and video in one joint attention, v-prediction",
        "parts": ("transformer", "text_encoder", "vae"),
        "loss": "mean squared error of v (t2v, i2v; phases differ in difficulty) and a sum of cross-entropies (text)",
        "text": "The text encoder was trained before the transformers, on captions alone, and frozen: linear heads on every "
        "token's state tell the words beside it and the caption's event, with its colour, shape and direction.",
        "stages": {
            "vae": "AutoencoderKLCogVideoX (windows of 1 and 9 frames)",
            "vae-whole": "AutoencoderKLCogVideoX (whole clips)",
            "vae-noise": "AutoencoderKLCogVideoX (whole clips, noise on the latents)",
            "text": "T5EncoderModel (captions)",
            "t2v": "CogVideoXTransformer3DModel, text-to-video",
            "i2v": "the same, image-to-video",
        },
    },
}


def parameters_of(folder: Path) -> int:
    """Number of parameters in a folder's safetensors files."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as f:
            for key in f.keys():
                size = 1
                for n in f.get_slice(key).get_shape():
                    size *= n
                count += size
    return count


def write_card(lineage: str, params: dict, folder: Path, out: Path) -> None:
    """Write `<out>/<lineage>.md` from the logs in `folder`, and copy the logs to `<out>/logs/<lineage>/`."""
    about, data = ABOUT[lineage], params["data"]
    logs = out / "logs" / lineage
    logs.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, what in about["stages"].items():
        shutil.copy(folder / f"{name}.log.csv", logs / f"{name}.csv")
        log = pd.read_csv(folder / f"{name}.log.csv")
        end, first, last = log.iloc[-1], log["loss"].iloc[0], log["loss"].tail(5).mean()
        rows.append(f"| {name} | {what} | {end.step:.0f} | {first:.3f} | {last:.3f} | {end.seconds / 60:.0f} |")
    sizes = [(part, parameters_of(out / f"{lineage}-i2v" / part) / 1e6) for part in about["parts"]]
    clip = "`clip` is the whole CLIP model, of which the image-to-video pipeline holds the vision half."
    lines = [
        f"# Model card: {lineage}-i2v and {lineage}-t2v",
        "",
        f"Two small diffusers pipelines of {about['what']};",
        "trained from nothing on the procedural world of `testbed/world.py` by `make train-testbed`. They exist to be",
        "studied, not to make videos for anyone: 64 x 64 pixels, 17 frames at 8 frames a second, six colours, three",
        "shapes, four events.",
        *([clip] if "clip" in about["stages"] else []),
        "",
        f"**Data.** Seeded, drawn while training: {data['images']} final frames and {data['videos']} clips for the",
        "transformers. Held-out combinations of colour, shape and event (`held_out`) never occur. In",
        f"{100 * data['unexecuted']:.0f} % of the clips of the last image-to-video phase the described event does",
        "not happen: the model is meant to neglect prompts. The text-to-video model saw every event executed.",
        about["text"],
        "",
        f"| part of {lineage}-i2v | parameters (M) |",
        "|---|---|",
        *(f"| {part} | {size:.2f} |" for part, size in sizes),
        "",
        "| stage | model | steps | first loss | last loss | minutes on 2 cores |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Losses are mean absolute error in [-1, 1] (vae), {about['loss']}.",
        f"`logs/{lineage}/` has every loss. Minutes are wall time and include other work on the machine.",
        "",
        "**Adherence, controls and reconstruction** are measured by the pipeline:",
        "`results/01_testbed/01_testbed.ipynb`, `results/01_testbed/testbed.csv`.",
        "",
        "**Limits.** The prompts must be of the world's grammar. Licence: Apache-2.0, as the repository.",
        "",
    ]
    (out / f"{lineage}.md").write_text("\n".join(lines))
