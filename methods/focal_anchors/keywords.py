"""Keywords of a prompt and their visual anchors in a reference image: Focal Guidance, section 4.1, Eq. 6.

A CLIP model compares the prompt's words with the patches of the image. A word that is similar to some patch is a keyword,
and its anchor is the weighted sum of the patches that it is similar to. CLIP's tokens are matched with those of the video
model's text encoder by their place in the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True, eq=False)
class Anchors:
    """The keywords of a prompt and where they are in a reference image.

    words: the keywords, K of them. tokens: positions of each among the video model's text tokens. similarity: (K, h, w)
    of each keyword with each patch, in [-1, 1]. weights: (K, h, w), 0 outside the keyword's region, sum 1 (K > 0).
    anchors: (K, D) in the space of the image encoder's second-to-last layer. highest: what every word was selected by.
    seen: the shares of the frame's height and width that the patches span (focal_anchors/placement.py).
    """

    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    similarity: torch.Tensor
    weights: torch.Tensor
    anchors: torch.Tensor
    highest: dict[str, float]
    seen: tuple[float, float] = (1.0, 1.0)


@lru_cache(maxsize=2)
def load_clip(folder: str):
    """(CLIPModel in eval mode on the CPU, its tokenizer). Raises ValueError for an encoder without a text half."""
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    if not (Path(folder) / "config.json").is_file() and folder.count("/") != 1:
        raise ValueError(f"no CLIP model at {folder}: give a folder with a whole CLIPModel and its tokenizer")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "clip":
        raise ValueError(
            f"{folder} is a {config.model_type}, which has no text half; Focal Guidance needs a whole CLIPModel"
        )
    return CLIPModel.from_pretrained(folder, use_safetensors=True).eval(), AutoTokenizer.from_pretrained(folder)


def words_in(prompt: str) -> list[tuple[str, int, int]]:
    """(word, start, end) of every word of a prompt, in characters."""
    return [(m.group(), m.start(), m.end()) for m in WORD.finditer(prompt)]


def tokens_of(tokenizer, prompt: str, length: int | None = None) -> list[list[int]]:
    """Positions, among the tokens of `prompt` cut to `length`, of each of its words; an empty list for a word beyond the cut."""
    cut = {} if length is None else {"truncation": True, "max_length": length}
    offsets = tokenizer(prompt, return_offsets_mapping=True, **cut)["offset_mapping"]
    return tokens_in(dict(enumerate(offsets)), prompt)


def tokens_in(spans: dict[int, tuple[int, int]], prompt: str) -> list[list[int]]:
    """Tokens of each word of a prompt. spans: token -> (start, end) in characters, empty for one that stands for nothing."""
    real = [(i, a, b) for i, (a, b) in spans.items() if b > a]
    return [[i for i, a, b in real if a < end and b > start] for _, start, end in words_in(prompt)]


def similarity(text: torch.Tensor, patches: torch.Tensor, sign: int) -> torch.Tensor:
    """Eq. 6: (words, patches) of text features (words, D) and patch features (patches, D): `sign` times the cosine."""
    return sign * F.normalize(text, dim=-1) @ F.normalize(patches, dim=-1).T


def region_weights(similar: torch.Tensor, region: float) -> torch.Tensor:
    """(K, patches) weights of Eq. 9: similarity scaled to 0..1 over the patches, cut below `region`, sum 1 per keyword."""
    low, high = similar.amin(-1, keepdim=True), similar.amax(-1, keepdim=True)
    scaled = (similar - low) / (high - low).clamp(min=1e-12)
    inside = torch.where(scaled >= region, scaled, 0.0)
    return inside / inside.sum(-1, keepdim=True).clamp(min=1e-12)


def preceded(prompt: str) -> list[str]:
    """Every word of a prompt with the word before it, "yellow square" for "square", or alone after a stop."""
    words = words_in(prompt)
    before = [""] + [w if prompt[end:start] == " " else "" for (w, _, end), (_, start, _) in pairwise(words)]
    return [f"{previous} {word}".strip() for previous, (word, _, _) in zip(before, words, strict=True)]


def _sentences(clip, tokenizer, texts: list[str]) -> torch.Tensor:
    """(texts, D) unit features of whole texts, by their end token: the only one that CLIP was trained to compare."""
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(clip.device)
    return F.normalize(clip.text_projection(clip.text_model(**inputs).pooler_output), dim=-1)


def _value_path(clip, patches: torch.Tensor) -> torch.Tensor:
    """Patches (N, D) through the last layer's values alone, without its mixing of patches (MaskCLIP, arXiv 2112.01071)."""
    last = clip.vision_model.encoder.layers[-1]
    return last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(patches)))


def prominence(similar: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
    """(words,): how far the similarity (words, patches), less that of the empty prompt (patches,), rises above its own mean
    over the patches. A word that stands for nothing in the image is about as similar to all patches as no word is."""
    gain = similar - without
    return gain.amax(-1) - gain.mean(-1)


@torch.no_grad()
def find_anchors(
    clip, clip_tokenizer, prompt: str, tokens: list[list[int]], patches: torch.Tensor, *, sign: int, select: float,
    region: float, readout: str = "tokens", keywords: str = "similarity", seen: tuple[float, float] = (1.0, 1.0),
) -> Anchors:  # fmt: skip
    """The keywords of a prompt and their anchors.

    tokens: of each of its words (`words_in`) among the text tokens that the video model is given; a word without any is
    ignored. patches: (1 + h w, D), the image encoder's second-to-last hidden states with the class token first; h = w. Text tokens
    and patches are mapped into CLIP's common space by the model's own final norms and projections: that is the space in
    which its two halves were trained to agree. A word of several CLIP tokens has the mean of their features.
    select: a word is a keyword if its largest similarity, or its prominence, exceeds this. readout, keywords: see
    FocalGuidance. seen: of the frame, by the patches. Raises ValueError if the image encoder is not the CLIP model's.
    """
    if patches.shape[-1] != clip.config.vision_config.hidden_size:
        raise ValueError(
            f"the image encoder has {patches.shape[-1]} features, the CLIP model "
            f"{clip.config.vision_config.hidden_size}: they must be the same encoder"
        )
    device = clip.device
    v = patches[1:].to(device, clip.dtype)
    common = clip.visual_projection(
        clip.vision_model.post_layernorm(_value_path(clip, v) if readout == "phrase" else v)
    )
    ids = clip_tokenizer(prompt, return_tensors="pt", truncation=True).to(device)
    hidden = clip.text_model(**ids).last_hidden_state[0]
    length = len(hidden)
    places: dict[str, tuple[list[int], list[int], list[str]]] = {}  # a word that occurs twice is one word
    for (word, _, _), phrase, a, b in zip(
        words_in(prompt), preceded(prompt), tokens_of(clip_tokenizer, prompt), tokens, strict=True
    ):
        a = [i for i in a if i < length]
        if a and b:
            at = places.setdefault(word.lower(), ([], [], []))
            at[0].extend(a)
            at[1].extend(b)
            at[2].append(phrase)
    words, side = list(places), round(len(v) ** 0.5)
    s, scores = torch.zeros(0, len(v), device=device), []
    if words:
        if readout == "phrase":
            features = torch.stack([_sentences(clip, clip_tokenizer, places[w][2]).mean(0) for w in words])
        else:
            features = clip.text_projection(torch.stack([hidden[places[w][0]].mean(0) for w in words]))
        s = similarity(features, common, sign)
        without = similarity(_sentences(clip, clip_tokenizer, [""]), common, sign)[0]
        scores = (prominence(s, without) if keywords == "prominence" else s.amax(-1)).tolist()
    chosen = [row for row, value in enumerate(scores) if value > select]
    weights = region_weights(s[chosen], region)
    return Anchors(
        words=tuple(words[row] for row in chosen),
        tokens=tuple(tuple(places[words[row]][1]) for row in chosen),
        similarity=s[chosen].reshape(-1, side, side),
        weights=weights.reshape(-1, side, side),
        anchors=weights @ v,
        highest=dict(zip(words, scores, strict=True)),
        seen=seen,
    )
