"""Wan 2.1 and 2.2 (A14B, 5B), image-to-video and text-to-video: self-attention, then cross-attention to image and text.

Token order: video; keys of the image encoder (Wan 2.1 only); text keys, 512 of them, padding included.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from .family import Family, Tiny, numbered
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames


def has_image_attention(transformer: nn.Module) -> bool:
    """Whether the cross-attention has a branch for the tokens of an image encoder (Wan 2.1 image-to-video)."""
    return transformer.config.added_kv_proj_dim is not None


def image_to_video(transformer: nn.Module) -> bool:
    """Whether a reference can be given. Wan 2.2 5B serves both tasks: only the call shows whether one is."""
    config = transformer.config
    return config.in_channels > config.out_channels or config.in_channels == 48


def sites(transformer: nn.Module) -> set[str]:
    """Attentions of a block."""
    return {"self", "text"} | ({"image"} if has_image_attention(transformer) else set())


def groups(transformer: nn.Module) -> set[str]:
    """Groups that keys can belong to, the reference's apart."""
    return {"text", "video", "text_padding"} | ({"image"} if has_image_attention(transformer) else set())


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """Raises ValueError for a text length that diffusers would split wrongly into image and text keys."""
    config, hidden, text = transformer.config, inputs["hidden_states"], inputs["encoder_hidden_states"]
    grid = tuple(n // p for n, p in zip(hidden.shape[2:], config.patch_size, strict=True))
    size, device, timestep = grid[1] * grid[2], hidden.device, inputs["timestep"]
    # Wan 2.2 5B has one time per token: the tokens of a reference, the first frame, have time 0.
    clean_first_frame = (
        timestep.ndim == 2 and bool((timestep[:, :size] == 0).all()) and bool((timestep[:, size:] > 0).any())
    )
    reference = clean_first_frame or config.in_channels > config.out_channels
    sequences = {"video": sequence(device, *video_frames(grid[0], size, reference))}
    if text.shape[1] != 512 and has_image_attention(transformer):
        raise ValueError(
            f"Wan 2.1 image-to-video takes 512 text tokens, not {text.shape[1]}: diffusers splits image and text keys "
            "at 512 (leave max_sequence_length at 512)"
        )
    sequences["text"] = text_sequence(device, text.abs().sum(-1) > 0)
    image = inputs.get("encoder_hidden_states_image")
    if image is not None:
        # First and last frame (FLF2V) come as two images of one sample.
        count = image.shape[0] * image.shape[1] // text.shape[0]
        sequences["image"] = sequence(device, ("image", count, -1))
    return make_layout(sequences, grid, slice(0, size) if reference else None)


def prompt_text(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """The prompt as Wan's pipelines clean it."""
    from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean

    return prompt_clean(prompt), 0, 0


def tiny_model(batch, grid, words, *, channels, image=None, time_per_token=False, transformer=None):
    """image: tokens of the image encoder, 257 for each image; transformer: a class of Wan's shape instead of Wan's own."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = (transformer or WanTransformer3DModel)(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels,
        out_channels=48 if time_per_token else 16, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=4, rope_max_seq_len=32,
        image_dim=16 if image else None, added_kv_proj_dim=24 if image else None,
        pos_embed_seq_len=514 if image == 514 else None,
    )  # fmt: skip
    f, h, w = grid
    text = torch.randn(batch, 512, 16)
    text[:, words:] = 0
    timestep = torch.full((batch,), 900.0)
    if time_per_token:
        timestep = torch.full((batch, f * h * w), 900.0)
        timestep[:, : h * w] = 0
    inputs = dict(
        hidden_states=torch.randn(batch, channels, f, 2 * h, 2 * w), timestep=timestep, encoder_hidden_states=text
    )
    if image:
        inputs["encoder_hidden_states_image"] = torch.randn(batch * image // 257, 257, 16)
    return model, inputs


def tiny_keys(site, grid, words, batch, *, image=None, reference=True):
    """Groups of the keys of a site."""
    if site == "self":
        size = grid[1] * grid[2]
        return ["reference" if reference else "video"] * size + ["video"] * (grid[0] - 1) * size
    return ["image"] * image if site == "image" else ["text"] * words + ["text_padding"] * (512 - words)


def tiny(channels, image=None, time_per_token=False, reference=True) -> Tiny:
    """A Tiny of Wan's shape."""
    return Tiny(
        functools.partial(tiny_model, channels=channels, image=image, time_per_token=time_per_token),
        ("self", "image", "text") if image else ("self", "text"),
        functools.partial(tiny_keys, image=image, reference=reference),
        image_to_video=reference,
    )


FAMILY = Family(
    class_name="WanTransformer3DModel",
    title="Wan 2.1, Wan 2.2",
    reference="channels beside the latents, in Wan 2.1 keys of an image encoder too; "
    "in Wan 2.2 5B the first latent frame, at time 0",
    pipelines=("WanImageToVideoPipeline", "WanPipeline", "WanVideoToVideoPipeline"),
    without_reference={"LucyEditPipeline": "a video to edit"},
    block_outputs=("hidden_states",),
    prompt_text=prompt_text,
    tiny={
        "wan2.1-i2v": tiny(36, 257),
        "wan2.1-flf2v": tiny(36, 514),
        "wan2.2-a14b": tiny(36),
        "wan2.2-5b": tiny(48, time_per_token=True),
        "wan-t2v": tiny(16, reference=False),
    },
    attention={"attn1": "self", "attn2": "cross"},
    blocks=lambda transformer: numbered(transformer.blocks),
    sites=sites,
    groups=groups,
    image_to_video=image_to_video,
    layout=layout,
)
