"""Tiny random text encoders with their tokenizers, image encoders and autoencoders, from which tests build pipelines."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaTokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH, HEIGHT = 48, 32
LLAMA_TEMPLATE = "<|start_header_id|>system<|end_header_id|>describe<|eot_id|>{}"
LLAVA_TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|><image>describe<|eot_id|><|start_header_id|>user<|end_header_id|>{}"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
)
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}"


def t5(dim):
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
        + [(f"▁{w}", -3.0) for w in ("a", "cat", "dances", "blurry")],
        extra_ids=0,
    )
    config = T5Config(vocab_size=len(tokenizer), d_model=dim, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(config)


def clip_text(dim):
    vocab = ["<|startoftext|>", "<|endoftext|>"]
    vocab += [c + end for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(vocab)}, merges=[], model_max_length=77)
    return tokenizer, CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab), hidden_size=dim, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def clip_vision(dim, **size):
    config = CLIPVisionConfig(hidden_size=dim, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, **size)
    return CLIPVisionModel(config), CLIPImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size}, do_center_crop=False
    )


def siglip(dim):
    config = SiglipVisionConfig(
        hidden_size=dim, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=12, patch_size=4
    )
    return SiglipVisionModel(config), SiglipImageProcessorPil(size={"height": 12, "width": 12})


def llama_tokenizer():
    pieces = ["<unk>", "<s>", "</s>", "<pad>"]
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    words = [f"<0x{i:02X}>" for i in range(256)] + ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = {w: i for i, w in enumerate(pieces + special + words)}
    return LlamaTokenizer(
        vocab=vocab, merges=[], pad_token="<pad>", padding_side="right", additional_special_tokens=special
    )


def llama_config(tokenizer):
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def wan_vae(z):
    """Eight pixels and four frames a latent."""
    return AutoencoderKLWan(
        base_dim=3, z_dim=z, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * z, latents_std=[1.0] * z,
    )  # fmt: skip


def hunyuan_vae():
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2,
        mid_block_add_attention=False,
    )  # fmt: skip


def qwen():
    alphabet = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={w: i for i, w in enumerate(special + alphabet)}, merges=[], chat_template=CHAT_TEMPLATE,
        additional_special_tokens=special[1:],
    )  # fmt: skip
    return tokenizer, Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(
            vocab_size=len(tokenizer) + 8, hidden_size=16, intermediate_size=16, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=2, rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
        )
    )  # fmt: skip
