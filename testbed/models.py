"""What the testbed's two backbones share: sizes, tokenizers and the small CLIP model."""

from __future__ import annotations

from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, T5Tokenizer

from .world import SIZE, vocabulary

LATENT_CHANNELS = 16
SLOTS = 24  # token slots of a caption in training; the longest caption has 23 tokens
TEXT_DIM = 96
IMAGE_DIM = 64
LAYERS, HEADS, HEAD_DIM = 10, 3, 32


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


def text_encoder_settings() -> dict:
    """What the T5 encoder of one backbone and the UMT5 encoder of the other have in common: two layers."""
    return dict(
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


def build_image_processor() -> CLIPImageProcessorPil:
    """Resize to 64 x 64 and normalise; PIL only, so that torchvision is not needed."""
    side = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size=side, crop_size=side, resample=3, do_center_crop=False)
