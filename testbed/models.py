"""The testbed's models: the classes of Wan 2.1 image-to-video, each small enough to be trained on two cores.

Token counts follow the real pipeline: 512 text tokens (padded with zeros, not masked), the CLIP tokens of the reference
image in front of them, 16 latent channels, 36 input channels (noise, 4 mask, 16 condition). A 17 x 64 x 64 clip becomes
5 x 8 x 8 latents and, with patches of one latent pixel, as many video tokens.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from .world import SIZE, vocabulary

LATENT_CHANNELS = 16
TEXT_DIM = 96
IMAGE_DIM = 64
LAYERS, HEADS, HEAD_DIM, FFN_DIM = 10, 3, 32, 256
FLOW_SHIFT = 3.0


def build_vae() -> AutoencoderKLWan:
    """(B, 3, 1 + 4 n, 64, 64) in [-1, 1] -> (B, 16, 1 + n, 8, 8). 1.9 M parameters."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
    )


def build_clip() -> CLIPModel:
    """A CLIP model of 64 x 64 images (8 x 8 patches, 65 tokens); the pipeline uses its vision half."""
    size = dict(hidden_size=IMAGE_DIM, intermediate_size=2 * IMAGE_DIM, num_attention_heads=4)
    tokenizer = build_clip_tokenizer()
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    vision = dict(image_size=SIZE, patch_size=8, num_hidden_layers=4, **size)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=IMAGE_DIM))


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer with the merges of the grammar's words; as in CLIP's own, some words are two or more tokens."""
    words = vocabulary()
    vocab: dict[str, int] = {}
    for piece in ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz.,"]:
        vocab.setdefault(piece, len(vocab))
        if not piece.startswith("<"):
            vocab.setdefault(piece + "</w>", len(vocab))
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left, so that earlier words' prefixes are shared
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.setdefault(pieces[0], len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=32)


def build_tokenizer() -> T5Tokenizer:
    """A T5 unigram tokenizer with one token per word of the grammar, the full stop, and single letters as a fallback."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -6.0), (".", -2.0), ("▁.", -2.5), (",", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in vocabulary()]
    pieces += [(letter, -12.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def build_text_encoder() -> UMT5EncoderModel:
    """A two-layer UMT5 encoder, trained along with the text-to-video transformer and then frozen."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(build_tokenizer()),
            d_model=TEXT_DIM,
            d_kv=TEXT_DIM // 4,
            d_ff=2 * TEXT_DIM,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_transformer(*, image_to_video: bool) -> WanTransformer3DModel:
    """Ten blocks; the image-to-video variant has 36 input channels and the image half of the cross-attention."""
    width = HEADS * HEAD_DIM
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS + (4 + LATENT_CHANNELS if image_to_video else 0),
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=FFN_DIM,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=IMAGE_DIM if image_to_video else None,
        added_kv_proj_dim=width if image_to_video else None,
        rope_max_seq_len=32,
    )


def image_to_video_from(text_to_video: WanTransformer3DModel) -> WanTransformer3DModel:
    """The image-to-video transformer that computes what `text_to_video` does until it is tuned.

    New input channels start at zero, and so do the values of the image keys, so that the reference has no say at first.
    """
    model = build_transformer(image_to_video=True)
    old, new = text_to_video.state_dict(), model.state_dict()
    for name, value in old.items():
        if name == "patch_embedding.weight":
            new[name] = torch.zeros_like(new[name])
            new[name][:, :LATENT_CHANNELS] = value
        else:
            new[name] = value
    for name in new:
        if ".add_v_proj." in name:
            new[name] = torch.zeros_like(new[name])
    model.load_state_dict(new)
    return model


def build_image_processor() -> CLIPImageProcessorPil:
    """Resize to 64 x 64 and normalise; PIL only, so that torchvision is not needed."""
    side = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size=side, crop_size=side, resample=3, do_center_crop=False)


def build_scheduler() -> UniPCMultistepScheduler:
    """Wan's flow-matching scheduler."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )


def text_to_video_pipeline(vae, text_encoder, transformer) -> WanPipeline:
    """Assemble the text-to-video pipeline from trained parts."""
    return WanPipeline(build_tokenizer(), text_encoder, vae, build_scheduler(), transformer)


def image_to_video_pipeline(vae, text_encoder, transformer, vision: CLIPVisionModel) -> WanImageToVideoPipeline:
    """Assemble the image-to-video pipeline from trained parts."""
    return WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=build_scheduler(),
        image_processor=build_image_processor(),
        image_encoder=vision,
        transformer=transformer,
    )
