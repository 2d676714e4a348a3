"""The HunyuanVideo-type backbone: dual and single stream blocks, image tokens in the text stream, a clean reference frame.

The image-to-video model is conditioned by `token_replace`: the first latent frame is the reference's and stays clean, its
tokens are modulated as at time 0, and the others look at it in the joint attention. Besides, the reference's image tokens
stand before the words: a small LLaVA reads image and caption together, and every fourth of its 64 image tokens is kept, as
in the pipeline. The words' pooled CLIP embedding modulates all blocks. A 17 x 64 x 64 clip becomes 5 x 8 x 8 latents of 16
channels and, with patches of one latent pixel, as many video tokens, in front of the text stream. Training is flow matching.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import nn
from transformers import CLIPModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from testbed.cogvideox import encode_references, set_statistics, statistics
from testbed.train_clip import clip_pixels
from testbed.wan import diffuse

from .models import (
    HEAD_DIM,
    HEADS,
    IMAGE_DIM,
    LATENT_CHANNELS,
    SLOTS,
    TEXT_DIM,
    build_clip,
    build_clip_tokenizer,
    build_image_processor,
    build_llama_tokenizer,
    text_half,
)
from .pretrained import take_text_encoder
from .world import SIZE

__all__ = ["diffuse", "encode_references", "set_statistics", "statistics"]

DUAL, SINGLE = 4, 6  # blocks
IMAGE_TOKENS = 64  # of the reference, 8 x 8 patches
KEPT, KEPT_NEGATIVE = 4, 2  # the pipeline keeps every fourth image token, and every second of the negative prompt's
FLOW_SHIFT = 5.0
CLEAN_FRAMES = 1  # latent frames that the model is given clean, and need not predict
SYSTEM = "<|start_header_id|>system<|end_header_id|>"
USER = "<|eot_id|><|start_header_id|>user<|end_header_id|>{}<|eot_id|>"
# What the pipelines are called with. The counts are those of the special tokens in front of the caption.
PROMPT_TEMPLATE = {
    "template": SYSTEM + "<image>" + USER + "<|start_header_id|>assistant<|end_header_id|>",
    "crop_start": 9,
    "image_emb_start": 4,
    "image_emb_end": 4 + IMAGE_TOKENS,
    "image_emb_len": IMAGE_TOKENS,
}
TEXT_TEMPLATE = {"template": SYSTEM + USER, "crop_start": 8}


def build_vae() -> AutoencoderKLHunyuanVideo:
    """(B, 3, 1 + 4 n, 64, 64) in [-1, 1] -> (B, 16, 1 + n, 8, 8). 2.4 M parameters."""
    return AutoencoderKLHunyuanVideo(
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # groups of one channel, at full resolution, would lose each channel's mean: docs/training_log.md
        scaling_factor=1.0,
    )


def build_text_encoder() -> LlavaForConditionalGeneration:
    """A LLaVA of four Llama layers, of which the pipeline reads the second's output, and the vision half of the CLIP model."""
    tokenizer = build_llama_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=2 * TEXT_DIM,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|eot_id|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=build_clip().config.vision_config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaForConditionalGeneration(config)


def build_transformer(*, image_to_video: bool) -> HunyuanVideoTransformer3DModel:
    """Four dual and six single stream blocks; both variants have the same parameters."""
    return HunyuanVideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        num_layers=DUAL,
        num_single_layers=SINGLE,
        num_refiner_layers=1,
        mlp_ratio=2.67,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=False,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=IMAGE_DIM,
        rope_axes_dim=(8, 12, 12),
        image_condition_type="token_replace" if image_to_video else None,
    )


def image_to_video_from(text_to_video: HunyuanVideoTransformer3DModel) -> HunyuanVideoTransformer3DModel:
    """The image-to-video transformer with the weights of `text_to_video`."""
    model = build_transformer(image_to_video=True)
    model.load_state_dict(text_to_video.state_dict())
    return model


def tokenize(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids (N, SLOTS + CLIP's length), lengths (N,)): the caption's words for LLaVA, padded, then CLIP's tokens of it;
    lengths are the words'."""
    tokenizer, clip = build_llama_tokenizer(), build_clip_tokenizer()
    words = tokenizer(captions, padding="max_length", max_length=SLOTS, add_special_tokens=False, return_tensors="pt")
    pooled = clip(captions, padding="max_length", return_tensors="pt").input_ids
    return torch.cat([words.input_ids, pooled], 1), words.attention_mask.sum(1)


class Denoiser(nn.Module):
    """What is trained on latents: the transformer, behind the frozen LLaVA and CLIP text encoder."""

    def __init__(self, text_encoder: LlavaForConditionalGeneration, transformer, clip: CLIPModel):
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer
        self.pooled = text_half(clip).requires_grad_(False)
        self.register_buffer("black", black_image_tokens(clip), persistent=False)
        tokenizer = build_llama_tokenizer()
        for name, template in (("with_image", PROMPT_TEMPLATE), ("without_image", TEXT_TEMPLATE)):
            before = tokenizer(template["template"].split("{}")[0], return_tensors="pt").input_ids[0]
            self.register_buffer(name, before, persistent=False)
        self.end, self.pad = tokenizer.convert_tokens_to_ids("<|eot_id|>"), tokenizer.pad_token_id

    def read(self, ids, lengths, image_tokens=None, kept: int = KEPT):
        """(states (B, n, TEXT_DIM), mask (B, n)) as the pipeline's prompt embeddings: with image_tokens (B, 65, 64), the
        penultimate CLIP states, every `kept`-th image token comes first; without, the words are followed by an end."""
        words = ids[:, :SLOTS]
        position = torch.arange(SLOTS, device=ids.device)[None]
        if image_tokens is None:
            words = torch.where(position == lengths[:, None], self.end, words)
            lengths = lengths + 1
        before = self.without_image if image_tokens is None else self.with_image
        sequence = torch.cat([before.expand(len(ids), -1), words], 1)
        llama = self.text_encoder.model.language_model
        embedded = llama.embed_tokens(sequence)
        first = len(before)
        if image_tokens is not None:
            image = self.text_encoder.model.multi_modal_projector(image_tokens[:, 1:])
            start = PROMPT_TEMPLATE["image_emb_start"]
            embedded = torch.cat([embedded[:, :start], image, embedded[:, start + 1 :]], 1)
            first += IMAGE_TOKENS - 1
        states = llama(inputs_embeds=embedded, output_hidden_states=True, use_cache=False).hidden_states[-3]
        text, mask = states[:, first:], position < lengths[:, None]
        if image_tokens is None:
            return text, mask
        seen = states[:, start : start + IMAGE_TOKENS : kept]
        return torch.cat([seen, text], 1), torch.cat([torch.ones_like(mask[:, :1]).expand(-1, seen.shape[1]), mask], 1)

    def forward(self, latents, timestep, ids, lengths, image_tokens=None):
        """latents (B, C, F, 8, 8), timestep (B,) in 0..1000, ids and lengths of `tokenize`, image_tokens (B, 65, 64) ->
        velocity (B, 16, F, 8, 8). With the empty caption, the image that LLaVA reads is black, as the pipeline's for the
        negative prompt, and every second of its tokens is kept."""
        empty = lengths == 0
        if image_tokens is not None and empty.any():
            out = torch.empty_like(latents)
            for rows, tokens, kept in (
                (~empty, image_tokens, KEPT),
                (empty, self.black.expand_as(image_tokens), KEPT_NEGATIVE),
            ):
                if rows.any():
                    states, mask = self.read(ids[rows], lengths[rows], tokens[rows], kept)
                    out[rows] = self._denoise(latents[rows], timestep[rows], ids[rows], states, mask)
            return out
        return self._denoise(latents, timestep, ids, *self.read(ids, lengths, image_tokens))

    def _denoise(self, latents, timestep, ids, states, mask):
        with torch.no_grad():
            pooled = self.pooled(ids[:, SLOTS:]).pooler_output
        return self.transformer(latents, timestep, states, mask.to(states.dtype), pooled, return_dict=False)[0]


def black_image_tokens(clip: CLIPModel) -> torch.Tensor:
    """The penultimate CLIP states of a black image, (1, 65, 64)."""
    pixels = clip_pixels(np.zeros((SIZE, SIZE, 3), np.uint8))[None].to(clip.device)
    with torch.no_grad():
        return clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2]


def build_denoiser(folder: Path) -> Denoiser:
    """The text-to-video model to be trained, with the CLIP model in `<folder>/clip` and the LLaVA in
    `<folder>/text.safetensors`, both frozen."""
    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    model = Denoiser(build_text_encoder(), build_transformer(image_to_video=False), clip)
    return take_text_encoder(model, folder)


def model_input(noisy: torch.Tensor, condition: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """What the image-to-video transformer is given: the noisy latents behind the clean ones of the reference."""
    return torch.cat([condition, noisy[:, :, 1:]], dim=2)


def sample_timesteps(generator: torch.Generator, count: int, shift: float = 2.5) -> torch.Tensor:
    """Timesteps in (0, 1000): logit-normal, shifted towards noise as the sampler's flow shift does."""
    t = torch.sigmoid(torch.randn(count, generator=generator) * 1.1)
    return 1000 * (shift * t / (1 + (shift - 1) * t))


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """HunyuanVideo's flow-matching scheduler."""
    return FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT)


def call_arguments(scale: float, *, image_to_video: bool) -> dict:
    """What the pipelines are called with besides prompt, size and reference, for guidance of `scale`."""
    return {
        "true_cfg_scale": scale,
        "negative_prompt": "",
        "prompt_template": PROMPT_TEMPLATE if image_to_video else TEXT_TEMPLATE,
        "max_sequence_length": SLOTS + 4 if image_to_video else SLOTS,
    }


def text_to_video_pipeline(vae, text_encoder, transformer, clip: CLIPModel) -> HunyuanVideoPipeline:
    """Assemble the text-to-video pipeline from trained parts; its text encoder is the LLaVA's language model."""
    return HunyuanVideoPipeline(
        text_encoder.model.language_model, build_llama_tokenizer(), transformer, vae, build_scheduler(),
        text_half(clip), build_clip_tokenizer(),
    )  # fmt: skip


def image_to_video_pipeline(vae, text_encoder, transformer, clip: CLIPModel) -> HunyuanVideoImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts."""
    return HunyuanVideoImageToVideoPipeline(
        text_encoder, build_llama_tokenizer(), transformer, vae, build_scheduler(), text_half(clip),
        build_clip_tokenizer(), build_image_processor(),
    )  # fmt: skip
