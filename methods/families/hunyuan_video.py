"""HunyuanVideo image-to-video, token_replace and latent_concat: joint attention, two kinds of block.

Token order: video; then the text stream, which holds image tokens, words and padding.
"""

from __future__ import annotations

import functools
import inspect
import weakref

import torch
from torch import nn

from .family import Family, Tiny, double_and_single
from .tokens import Layout, make_layout, sequence, text_sequence, video_frames, video_then_text


def image_to_video(transformer: nn.Module) -> bool:
    """Whether the model was made for a reference image; SkyReels-V1 takes it by extra channels alone."""
    config = transformer.config
    return has_image_tokens(transformer) or config.in_channels > config.out_channels


def has_image_tokens(transformer: nn.Module) -> bool:
    """Whether the text stream holds tokens of an image encoder."""
    return transformer.config.image_condition_type is not None


def groups(transformer: nn.Module) -> set[str]:
    """Groups that keys can belong to, the reference's apart."""
    return {"text", "video", "text_padding"} | ({"image"} if has_image_tokens(transformer) else set())


def layout(transformer: nn.Module, inputs: dict, image_tokens: int | None) -> Layout:
    """image_tokens: how many text tokens are image tokens, which the transformer itself does not know."""
    config, hidden = transformer.config, inputs["hidden_states"]
    grid = (
        hidden.shape[2] // config.patch_size_t,
        hidden.shape[3] // config.patch_size,
        hidden.shape[4] // config.patch_size,
    )
    size, device, mask = grid[1] * grid[2], hidden.device, inputs["encoder_attention_mask"]
    reference = image_to_video(transformer)
    # The model takes the first sum(mask) text tokens for valid, wherever the ones of the mask are.
    valid = torch.arange(mask.shape[1], device=device)[None] < mask.sum(1, keepdim=True)
    text = text_sequence(device, valid, (image_tokens or 0) if has_image_tokens(transformer) else 0)
    joint = video_then_text(sequence(device, *video_frames(grid[0], size, reference)), text)
    return make_layout({"joint": joint}, grid, slice(0, size) if reference else None)


def image_tokens(transformer: nn.Module, pipe, branch: str) -> int | None:
    """Image tokens in the text stream by the rule of the pipeline; None without its text encoder."""
    vision = getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "vision_config", None)
    if vision is None:
        return None
    # The pipeline keeps every second token, every fourth for token_replace, or what its caller says; of the negative prompt
    # always every second.
    every = INTERLEAVE.get(pipe) if branch != "uncond" else None
    if every is None:
        every = 4 if transformer.config.image_condition_type == "token_replace" and branch != "uncond" else 2
    every = every if 0 < every < 6 else 1  # the pipeline ignores other values
    return -(-((vision.image_size // vision.patch_size) ** 2) // every)


INTERLEAVE = weakref.WeakKeyDictionary()  # pipeline -> its argument image_embed_interleave in the current or last video


def watch(pipe):
    """Note the pipeline's argument `image_embed_interleave`, which it hands to `encode_prompt` with the prompt only."""
    from ..core.interception import replace_attribute

    encode = getattr(pipe, "encode_prompt", None)
    if encode is None or "image_embed_interleave" not in inspect.signature(encode).parameters:
        return lambda: None

    def noting(*args, **kwargs):
        if kwargs.get("image_embed_interleave") is not None:
            INTERLEAVE[pipe] = kwargs["image_embed_interleave"]
        return encode(*args, **kwargs)

    undo = replace_attribute(pipe, "encode_prompt", noting)

    def forget():
        undo()
        INTERLEAVE.pop(pipe, None)

    return forget


def prompt_text(pipe, prompt: str, arguments: dict) -> tuple[str, int, int]:
    """The prompt in the template of the pipeline, whose front is cut off."""
    template = arguments.get("prompt_template")
    if template is None or template.get("crop_start") is None:
        raise ValueError(
            "words are found only with a prompt template that says how many tokens it puts first (crop_start)"
        )
    text = template["template"]
    # The end of the template's own tokens is where the prompt starts, less what the image token makes of itself.
    return text.format(prompt), text.index("{}"), template["crop_start"]


IMAGE_TOKENS = 2  # of the tiny models


def tiny_model(batch, grid, words, *, kind):
    """kind: "token_replace", "latent_concat", or None for the shape of SkyReels-V1."""
    from diffusers import HunyuanVideoTransformer3DModel

    torch.manual_seed(0)
    channels = {"token_replace": 4, "latent_concat": 9, None: 8}[kind]
    model = HunyuanVideoTransformer3DModel(
        in_channels=channels, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=False,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6), image_condition_type=kind,
    )  # fmt: skip
    f, h, w = grid
    mask = torch.ones(batch, 11)
    mask[:, (IMAGE_TOKENS if kind else 0) + words :] = 0
    return model, dict(
        hidden_states=torch.randn(batch, channels, f, 2 * h, 2 * w), timestep=torch.full((batch,), 900.0),
        encoder_hidden_states=torch.randn(batch, 11, 16), encoder_attention_mask=mask, pooled_projections=torch.randn(batch, 8),
    )  # fmt: skip


def tiny(kind) -> Tiny:
    """A Tiny of HunyuanVideo's shape."""
    images = IMAGE_TOKENS if kind else 0

    def keys(site, grid, words, batch):
        size = grid[1] * grid[2]
        video = ["reference"] * size + ["video"] * (grid[0] - 1) * size
        return video + ["image"] * images + ["text"] * words + ["text_padding"] * (11 - images - words)

    make = functools.partial(tiny_model, kind=kind)
    return Tiny(make, ("joint",), keys, options={"image_tokens": IMAGE_TOKENS} if kind else {})


FAMILY = Family(
    title="HunyuanVideo, SkyReels-V1",
    reference="the first latent frame, clean, or channels beside the latents; image tokens among the text",
    pipelines=("HunyuanVideoImageToVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideoPipeline"),
    watch=watch,
    prompt_text=prompt_text,
    tiny={
        "hunyuan-token-replace": tiny("token_replace"),
        "hunyuan-latent-concat": tiny("latent_concat"),
        "skyreels-v1": tiny(None),
    },
    class_name="HunyuanVideoTransformer3DModel",
    attention={"attn": "joint"},
    blocks=double_and_single,
    sites=lambda transformer: {"joint"},
    groups=groups,
    image_to_video=image_to_video,
    layout=layout,
    distilled_guidance=True,
    image_tokens=image_tokens,
)
