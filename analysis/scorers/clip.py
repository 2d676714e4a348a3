"""CLIP: how alike frames are (VBench's background consistency, which has no mask), and how alike frames and prompt
are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from .frame_features import as_clip, consistency, features, share
from .scorer import Metric, Requires, Sample
from .video import NotScored, Video
from .weights import HubModel, model_folder


@dataclass(frozen=True)
class ClipFrames(HubModel):
    """model: a folder, or a hub name that is in this machine's cache (at `revision`). device: "auto", "cpu", "cuda",
    ..."""

    model: str = "openai/clip-vit-base-patch32"

    name: ClassVar = "background_consistency_clip_hf"
    version: ClassVar = "1"
    classes: ClassVar = ("CLIPModel", "CLIPTokenizer")
    requires: ClassVar = Requires(
        {"transformers": "transformers", "torch": "torch"}, weights="openai/clip-vit-base-patch32",
        licence="code and weights MIT", install="hf download openai/clip-vit-base-patch32",
    )  # fmt: skip
    metrics: ClassVar = {
        "background_consistency_clip_hf": Metric(
            "", 0, 1, "mean similarity of CLIP features, of the middle square, to the frame before and to the first; no mask",
            better="higher", imitates="VBench background_consistency",
        ),
    }  # fmt: skip

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Unit vectors in the space that images share with texts, (T, D)."""
        model, device = self.loaded
        return features(frames, as_clip, lambda pixels: project(model, pixels), device)

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        return {self.name: share(consistency(self.features(video.at_least(2))).mean())}


def project(model, pixels):
    """CLIP's image embeddings, (T, D), before they are normalised."""
    return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)


@dataclass(frozen=True)
class ClipText(ClipFrames):
    """As `ClipFrames`. truncate: let a prompt that has more than CLIP's 77 tokens end there; otherwise it has no
    value."""

    truncate: bool = False

    name: ClassVar = "clip_text"
    inputs: ClassVar = ("prompt",)
    metrics: ClassVar = {
        "clip_text": Metric(
            "", -1, 1, "mean cosine of prompt and frames; it sees what is there, hardly what happens", better="higher"
        ),
        "clip_text_last_quarter": Metric("", -1, 1, "mean cosine of prompt and the last quarter's frames", better="higher"),
    }  # fmt: skip

    @cached_property
    def tokenizer(self):
        """The model's own, of transformers."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(model_folder(self.model, self.revision), local_files_only=True)

    def text(self, prompt: str) -> np.ndarray:
        """The unit vector of a prompt, (D,). Raises NotScored "undefined" if it is longer than the model reads."""
        import torch

        model, device = self.loaded
        most, count = model.config.text_config.max_position_embeddings, len(self.tokenizer(prompt).input_ids)
        if count > most and not self.truncate:
            raise NotScored(
                "undefined",
                f"the prompt has {count} tokens, CLIP reads {most}; {self.name}:truncate=true lets it end there",
            )
        ids = self.tokenizer(prompt, return_tensors="pt", truncation=True, max_length=most).to(device)
        with torch.inference_mode():
            vector = model.text_projection(model.text_model(**ids).pooler_output)[0].double()
        return (vector / vector.norm()).cpu().numpy()

    def score(self, video: Video, sample: Sample) -> dict[str, float | NotScored]:
        cosines = np.clip(self.features(video.frames) @ self.text(sample.prompt), -1, 1)
        last = cosines[-max(1, len(cosines) // 4) :]
        return {"clip_text": float(cosines.mean()), "clip_text_last_quarter": float(last.mean())}
