"""HunyuanVideo-1.5: joint attention.

Token order: video; then image tokens, words and padding, with the valid tokens of each sample first.
"""

from __future__ import annotations

import torch
from torch import nn

from .family import Family, Tiny, double_and_single
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames, video_then_text


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """The video, then image and text tokens with the valid ones of each sample first."""
    config, hidden, image = transformer.config, inputs["hidden_states"], inputs["image_embeds"]
    grid = (
        hidden.shape[2] // config.patch_size_t,
        hidden.shape[3] // config.patch_size,
        hidden.shape[4] // config.patch_size,
    )
    size, device = grid[1] * grid[2], hidden.device
    reference = not bool((image == 0).all())  # text-to-video passes an image of zeros
    images = image.shape[1] if reference else 0
    words = inputs["encoder_attention_mask"].bool().sum(1) + inputs["encoder_attention_mask_2"].bool().sum(1)
    total = image.shape[1] + inputs["encoder_attention_mask"].shape[1] + inputs["encoder_attention_mask_2"].shape[1]
    valid = torch.arange(total, device=device)[None] < (images + words)[:, None]
    text = text_sequence(device, valid, images)
    joint = video_then_text(sequence(device, *video_frames(grid[0], size, reference)), text)
    return make_layout({"joint": joint}, grid, slice(0, size) if reference else None)


def prompt_text(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """The prompt in the chat template, whose front is cut off."""
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5_image2video import format_text_input

    messages = format_text_input([prompt], pipe.system_message)
    text = pipe.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)[0]
    return text, text.rindex(prompt), pipe.prompt_template_encode_start_idx


def text_before(inputs: dict) -> int:
    """The tokens of the second encoder, which reads what is to be written in the picture."""
    return int(inputs["encoder_attention_mask_2"][-1].bool().sum())


def tiny_model(batch, grid, words):
    """The last sample's text is one word shorter than the others'."""
    from diffusers import HunyuanVideo15Transformer3DModel

    torch.manual_seed(0)
    model = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=3, num_refiner_layers=1,
        patch_size=1, patch_size_t=1, text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=8, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    f, h, w = grid
    mask, mask_2 = torch.zeros(batch, 7), torch.zeros(batch, 5)
    mask[:, : words + 1], mask_2[:, :2] = 1, 1
    mask[-1, words:] = 0
    return model, dict(
        hidden_states=torch.randn(batch, 9, f, h, w), timestep=torch.full((batch,), 900.0),
        encoder_hidden_states=torch.randn(batch, 7, 16), encoder_attention_mask=mask,
        encoder_hidden_states_2=torch.randn(batch, 5, 8), encoder_attention_mask_2=mask_2,
        image_embeds=torch.randn(batch, 6, 8),
    )  # fmt: skip


def tiny_keys(site, grid, words, batch):
    """Groups of the keys."""
    size = grid[1] * grid[2]
    video = ["reference"] * size + ["video"] * (grid[0] - 1) * size
    return video + ["image"] * 6 + ["text"] * (2 + words) + ["text_padding"] * (10 - words)


FAMILY = Family(
    title="HunyuanVideo-1.5",
    reference="channels beside the latents; image tokens among the text",
    pipelines=("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline"),
    prompt_text=prompt_text,
    text_before=text_before,
    tiny={"hunyuan-1.5": Tiny(tiny_model, ("joint",), tiny_keys)},
    class_name="HunyuanVideo15Transformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=lambda transformer: {"text", "video", "text_padding", "image"},
    image_to_video=lambda transformer: True,
    layout=layout,
)
