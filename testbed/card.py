"""The model card: what was trained on what, for how long, and how the losses ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from safetensors import safe_open

NAMES = {
    "vae": "AutoencoderKLWan (windows of 1, 5, 9 frames)",
    "vae-whole": "AutoencoderKLWan (whole clips)",
    "clip": "CLIPModel",
    "t2v": "UMT5EncoderModel + WanTransformer3DModel, text-to-video",
    "i2v": "the same, image-to-video",
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


def write_card(params: dict, folder: Path, out: Path) -> None:
    """Write `<out>/README.md` from the logs in `folder`, and copy the logs to `<out>/logs/`."""
    (out / "logs").mkdir(exist_ok=True)
    rows = []
    for name, what in NAMES.items():
        shutil.copy(folder / f"{name}.log.csv", out / "logs" / f"{name}.csv")
        log = pd.read_csv(folder / f"{name}.log.csv")
        end = log.iloc[-1]
        last = log["loss"].tail(5).mean()
        rows.append(
            f"| {name} | {what} | {end.step:.0f} | {log['loss'].iloc[0]:.3f} | {last:.3f} | {end.seconds / 60:.0f} |"
        )
    parts = [
        f"| {part} | {parameters_of(out / 'wan-i2v' / part) / 1e6:.2f} |"
        for part in ("transformer", "text_encoder", "image_encoder", "vae")
    ]
    data = params["data"]
    (out / "README.md").write_text(
        "\n".join(
            [
                "# Model card: wan-i2v and wan-t2v",
                "",
                "Two small diffusers pipelines of the Wan 2.1 classes, trained from nothing on the procedural world of",
                "`testbed/world.py` by `make train-testbed`. They exist to be studied, not to make videos for anyone:",
                "64 x 64 pixels, 17 frames at 8 frames a second, six colours, three shapes, four events.",
                "`clip` is the whole CLIP model, of which the image-to-video pipeline holds the vision half.",
                "",
                f"**Data.** Seeded, drawn while training: {data['images']} final frames and {data['videos']} clips for the",
                "transformers. Held-out combinations of colour, shape and event (`held_out`) never occur. In",
                f"{100 * data['unexecuted']:.0f} % of the clips of the last image-to-video phase the described event does",
                "not happen: the model is meant to neglect prompts. The text-to-video model saw every event executed.",
                "",
                "| part of wan-i2v | parameters (M) |",
                "|---|---|",
                *parts,
                "",
                "| stage | model | steps | first loss | last loss | minutes on 2 cores |",
                "|---|---|---|---|---|---|",
                *rows,
                "",
                "Losses are mean absolute error in [-1, 1] (vae), contrastive cross-entropy (clip) and flow-matching mean",
                "squared error (t2v, i2v; phases differ in difficulty). `logs/` has every loss. Minutes are wall time and",
                "include other work on the machine.",
                "",
                "**Adherence, controls and reconstruction** are measured by the pipeline:",
                "`results/notebooks/01_testbed.ipynb`, `results/tables/01_testbed.csv`.",
                "",
                "**Limits.** The prompts must be of the world's grammar. Licence: Apache-2.0, as the repository.",
                "",
            ]
        )
    )
