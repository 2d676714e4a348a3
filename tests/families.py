"""Tiny random transformers of the five families, with inputs whose grid has three different sides."""

from __future__ import annotations

import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    WanTransformer3DModel,
)

GRID = (3, 2, 4)  # latent frames, rows and columns of tokens
WORDS = 5  # valid text tokens
IMAGE_TOKENS = 2  # in the text stream of HunyuanVideo, which its transformer is not told


def _wan(channels, image=None, time_per_token=False, batch=1, grid=GRID, words=WORDS):
    torch.manual_seed(0)
    model = WanTransformer3DModel(
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


def _hunyuan(kind, batch=1, grid=GRID, words=WORDS):
    torch.manual_seed(0)
    channels = {"token_replace": 4, "latent_concat": 9}[kind]
    model = HunyuanVideoTransformer3DModel(
        in_channels=channels, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=False,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6), image_condition_type=kind,
    )  # fmt: skip
    f, h, w = grid
    mask = torch.ones(batch, 11)
    mask[:, IMAGE_TOKENS + words :] = 0
    return model, dict(
        hidden_states=torch.randn(batch, channels, f, 2 * h, 2 * w), timestep=torch.full((batch,), 900.0),
        encoder_hidden_states=torch.randn(batch, 11, 16), encoder_attention_mask=mask, pooled_projections=torch.randn(batch, 8),
    )  # fmt: skip


def _hunyuan15(batch=1, grid=GRID, words=WORDS):
    torch.manual_seed(0)
    model = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=3, num_refiner_layers=1,
        patch_size=1, patch_size_t=1, text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=8, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    f, h, w = grid
    mask, mask_2 = torch.zeros(batch, 7), torch.zeros(batch, 5)
    mask[:, : words + 1], mask_2[:, :2] = 1, 1
    mask[-1, words:] = 0  # samples of a batch differ in length
    return model, dict(
        hidden_states=torch.randn(batch, 9, f, h, w), timestep=torch.full((batch,), 900.0),
        encoder_hidden_states=torch.randn(batch, 7, 16), encoder_attention_mask=mask,
        encoder_hidden_states_2=torch.randn(batch, 5, 8), encoder_attention_mask_2=mask_2,
        image_embeds=torch.randn(batch, 6, 8),
    )  # fmt: skip


def _framepack(batch=1, grid=GRID, words=WORDS):
    torch.manual_seed(0)
    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(4, 6, 6), image_condition_type=None, has_image_proj=True, image_proj_dim=8, has_clean_x_embedder=True,
    )  # fmt: skip
    f, h, w = grid
    mask = torch.ones(batch, 9)
    mask[:, words:] = 0
    latents = lambda frames: torch.randn(batch, 4, frames, 2 * h, 2 * w)  # noqa: E731
    return model, dict(
        hidden_states=latents(f), timestep=torch.full((batch,), 900.0), encoder_hidden_states=torch.randn(batch, 9, 16),
        encoder_attention_mask=mask, pooled_projections=torch.randn(batch, 8), image_embeds=torch.randn(batch, 3, 8),
        indices_latents=torch.arange(20, 20 + f), guidance=torch.full((batch,), 6000.0),
        latents_clean=latents(2), indices_latents_clean=torch.tensor([0, 19]),
        latents_history_2x=latents(2), indices_latents_history_2x=torch.tensor([17, 18]),
        latents_history_4x=latents(16), indices_latents_history_4x=torch.arange(1, 17),
    )  # fmt: skip


def _cogvideox(channels, time_patch=None, batch=1, grid=GRID, words=WORDS):
    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=4, time_embed_dim=8,
        text_embed_dim=8, num_layers=4, sample_width=8, sample_height=4, sample_frames=9, patch_size=2,
        patch_size_t=time_patch, temporal_compression_ratio=4, max_text_seq_length=6,
        use_rotary_positional_embeddings=time_patch is not None, patch_bias=time_patch is None,
    )  # fmt: skip
    f, h, w = grid
    return model, dict(
        hidden_states=torch.randn(batch, f * (time_patch or 1), channels, 2 * h, 2 * w),
        encoder_hidden_states=torch.randn(batch, 6, 8), timestep=torch.full((batch,), 900),
    )  # fmt: skip


FAMILIES = {
    "wan2.1-i2v": lambda **k: _wan(36, 257, **k),
    "wan2.1-flf2v": lambda **k: _wan(36, 514, **k),
    "wan2.2-a14b": lambda **k: _wan(36, **k),
    "wan2.2-5b": lambda **k: _wan(48, time_per_token=True, **k),
    "wan-t2v": lambda **k: _wan(16, **k),
    "hunyuan-token-replace": lambda **k: _hunyuan("token_replace", **k),
    "hunyuan-latent-concat": lambda **k: _hunyuan("latent_concat", **k),
    "hunyuan-1.5": lambda **k: _hunyuan15(**k),
    "framepack": lambda **k: _framepack(**k),
    "cogvideox-i2v": lambda **k: _cogvideox(8, **k),
    "cogvideox-t2v": lambda **k: _cogvideox(4, **k),
    "cogvideox-1.5": lambda **k: _cogvideox(8, 2, **k),
}
IMAGE_TO_VIDEO = [name for name in FAMILIES if not name.endswith("t2v")]


def make(name, dtype=torch.float32, batch=1, grid=GRID, words=WORDS):
    """(transformer in eval mode, inputs of one forward) of a family, seeded; weights spread so that attention is sharp."""
    model, inputs = FAMILIES[name](batch=batch, grid=grid, words=words)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if p.ndim >= 2:
            p.data = torch.randn(p.shape, generator=generator) * (2.0 / p.shape[1]) ** 0.5 * 0.7
    keep = {"encoder_attention_mask", "encoder_attention_mask_2"}
    if name != "hunyuan-1.5":  # whose pipeline rounds the time to the model's dtype
        keep.add("timestep")
    inputs = {k: v.to(dtype) if v.is_floating_point() and k not in keep else v for k, v in inputs.items()}
    return model.to(dtype).eval(), inputs


@torch.no_grad()
def forward(model, inputs):
    return model(**inputs, return_dict=False)[0]


def sites_of(name):
    if not name.startswith("wan"):
        return ["joint"]
    return ["self", "image", "text"] if "2.1" in name else ["self", "text"]


def options(name):
    """What `steer` must be told about a transformer without its pipeline."""
    return {"image_tokens": IMAGE_TOKENS} if name in ("hunyuan-token-replace", "hunyuan-latent-concat") else {}


def expected_keys(name, site, grid=GRID, words=WORDS, batch=1):
    """The group of every key of the last sample, one string per token, in the order in which the models lay them out."""
    frames, rows, columns = grid
    size = rows * columns
    video = ["video"] * size * frames
    if name in IMAGE_TO_VIDEO and name != "framepack":
        video[:size] = ["reference"] * size
    if site == "self":
        return video
    if site == "image":
        return ["image"] * (514 if "flf" in name else 257)
    if site == "text":
        return ["text"] * words + ["text_padding"] * (512 - words)
    if name.startswith("cogvideox"):
        return ["text"] * 6 + video
    if name == "hunyuan-1.5":
        return video + ["image"] * 6 + ["text"] * (2 + words) + ["text_padding"] * (10 - words)
    if name == "framepack":
        history = ["history"] * (4 * -(-rows // 4) * -(-columns // 4) + -(-rows // 2) * -(-columns // 2))
        text = ["image"] * 3 + ["text"] * words + ["text_padding"] * (0 if batch == 1 else 9 - words)
        return history + ["reference"] * size + ["history"] * size + video + text
    return video + ["image"] * IMAGE_TOKENS + ["text"] * words + ["text_padding"] * (9 - words)
