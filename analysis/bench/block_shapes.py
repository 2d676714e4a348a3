"""One transformer block of four image-to-video models, at the width and length of the real ones, with random weights.

Each is the family's own class of diffusers with one layer, so a forward runs the embedders and the output head too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

WORDS = 128  # tokens of a prompt that are no padding, where the model is told which are
CPU_HEADS = 4


@dataclass(frozen=True)
class Shape:
    """The block of a model.

    grid: latent frames, rows and columns of tokens. heads, size: of the attention over the video. beside: numbers of text
    and image tokens, each the keys of a cross-attention unless the attention is `joint`, where `first_video_token` says
    whether they come before the video. source: where the numbers stand. make(grid, heads): (transformer, inputs by name).
    exact: names of inputs that stay float32 in a model of half precision, as the pipeline gives them.
    """

    name: str
    title: str
    grid: tuple[int, int, int]
    heads: int
    size: int
    beside: tuple[int, ...]
    source: str
    make: Callable[[tuple[int, int, int], int], tuple[nn.Module, dict]]
    joint: bool = False
    first_video_token: int = 0
    exact: tuple[str, ...] = ("timestep", "audio_timestep", "sigma", "image_rotary_emb")

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return self.grid[0] * self.grid[1] * self.grid[2]


def smaller(grid: tuple[int, int, int], tokens: int) -> tuple[int, int, int]:
    """The grid with all sides shortened alike to at most that many tokens; the grid itself if it has no more.

    Raises ValueError for fewer than 8 tokens: two frames, rows and columns are needed.
    """
    if tokens < 8:
        raise ValueError(f"tokens must be 8 or more, two frames of two by two, not {tokens}")
    factor = min(1.0, (tokens / (grid[0] * grid[1] * grid[2])) ** (1 / 3))
    found = [max(2, int(n * factor + 1e-9)) for n in grid]
    while found[0] * found[1] * found[2] > tokens:
        found[found.index(max(found))] -= 1
    return tuple(found)


def wan(grid, heads):
    """Wan 2.1's image-to-video transformer: self-attention, then cross-attention to 257 image and 512 text tokens."""
    from diffusers import WanTransformer3DModel

    width = heads * 128
    model = WanTransformer3DModel(
        num_attention_heads=heads, in_channels=36, ffn_dim=width * 27 // 10, num_layers=1, image_dim=1280,
        added_kv_proj_dim=width,
    )  # fmt: skip
    f, h, w = grid
    return model, dict(
        hidden_states=torch.randn(1, 36, f, 2 * h, 2 * w), timestep=torch.tensor([900.0]),
        encoder_hidden_states=padded(512, 4096), encoder_hidden_states_image=torch.randn(1, 257, 1280),
    )  # fmt: skip


def cogvideox(grid, heads):
    """CogVideoX's image-to-video transformer: joint attention, the text first."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    f, h, w = grid
    model = CogVideoXTransformer3DModel(
        num_attention_heads=heads, in_channels=32, num_layers=1, sample_frames=4 * (f - 1) + 1, sample_height=2 * h,
        sample_width=2 * w, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True,
    )  # fmt: skip
    rotary = get_3d_rotary_pos_embed(64, ((0, 0), (h, w)), (h, w), f)
    return model, dict(
        hidden_states=torch.randn(1, f, 32, 2 * h, 2 * w), timestep=torch.tensor([900]),
        encoder_hidden_states=torch.randn(1, 226, 4096), image_rotary_emb=rotary,
    )  # fmt: skip


def hunyuan_video_15(grid, heads):
    """HunyuanVideo-1.5: joint attention, the video first; all its layers are of the dual-stream kind."""
    from diffusers import HunyuanVideo15Transformer3DModel

    model = HunyuanVideo15Transformer3DModel(num_attention_heads=heads, num_layers=1)
    return model, dict(
        hidden_states=torch.randn(1, 65, *grid), timestep=torch.tensor([900.0]),
        encoder_hidden_states=padded(1000, 3584), encoder_attention_mask=words(1000),
        encoder_hidden_states_2=torch.zeros(1, 256, 1472), encoder_attention_mask_2=words(256, 0),
        image_embeds=torch.randn(1, 729, 1152),
    )  # fmt: skip


def ltx2(grid, heads):
    """LTX-2: self-attention, cross-attention to 1024 text tokens, of which its connectors leave none empty, and the sound."""
    from diffusers import LTX2VideoTransformer3DModel

    model = LTX2VideoTransformer3DModel(
        num_attention_heads=heads, cross_attention_dim=128 * heads, audio_num_attention_heads=heads,
        audio_cross_attention_dim=64 * heads, num_layers=1,
    )  # fmt: skip
    f, h, w = grid
    sound = round(25 * (8 * (f - 1) + 1) / 24)  # 25 latents a second at 24 frames
    time, all_words = torch.full((1, f * h * w), 900.0), words(1024, 1024)
    time[:, : h * w] = 0  # the reference
    return model, dict(
        hidden_states=torch.randn(1, f * h * w, 128), audio_hidden_states=torch.randn(1, sound, 128),
        encoder_hidden_states=torch.randn(1, 1024, 3840), audio_encoder_hidden_states=torch.randn(1, 1024, 3840),
        timestep=time, audio_timestep=torch.tensor([900.0]), sigma=torch.tensor([900.0]),
        encoder_attention_mask=all_words, audio_encoder_attention_mask=all_words, num_frames=f, height=h, width=w,
        audio_num_frames=sound, use_cross_timestep=True,
    )  # fmt: skip


def padded(length: int, width: int) -> torch.Tensor:
    """(1, length, width): random words, then zeros."""
    text = torch.randn(1, length, width)
    text[:, WORDS:] = 0
    return text


def words(length: int, valid: int = WORDS) -> torch.Tensor:
    """(1, length): ones for the words, then zeros."""
    return (torch.arange(length) < valid).float()[None]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "wan-14b", "Wan 2.1 14B", (21, 30, 52), 40, 128, (257, 512),
            "defaults of WanTransformer3DModel and WanImageToVideoPipeline (832 x 480, 81 frames)", wan,
        ),
        Shape(
            "cogvideox-5b", "CogVideoX-5B-I2V", (13, 30, 45), 48, 64, (226,),
            "defaults of CogVideoXTransformer3DModel and CogVideoXImageToVideoPipeline (720 x 480, 49 frames); the 48 heads "
            "of 5B as in diffusers' conversion script", cogvideox, joint=True, first_video_token=226,
        ),
        Shape(
            "hunyuanvideo-1.5", "HunyuanVideo-1.5", (31, 30, 53), 16, 128, (729, 256, 1000),
            "defaults of HunyuanVideo15Transformer3DModel and HunyuanVideo15ImageToVideoPipeline (its bucket of a 16:9 image, "
            "848 x 480, 121 frames)", hunyuan_video_15, joint=True,
            exact=("encoder_attention_mask", "encoder_attention_mask_2"),
        ),
        Shape(
            "ltx-2", "LTX-2", (16, 16, 24), 32, 128, (1024,),
            "defaults of LTX2VideoTransformer3DModel and LTX2ImageToVideoPipeline (768 x 512, 121 frames)", ltx2,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class BuiltBlock:
    """A block with inputs. called: the transformer, or its compiled version, as a pipeline would hold it."""

    shape: Shape
    grid: tuple[int, int, int]
    heads: int
    called: nn.Module
    inputs: dict

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def keys(self) -> int:
        """Keys of the attention of the video to itself."""
        return self.tokens + (sum(self.shape.beside) if self.shape.joint else 0)

    def forward(self) -> torch.Tensor:
        """One conditional pass, as the pipelines run it: (1, ...) the prediction of the video."""
        with torch.no_grad(), self.called.cache_context("cond"):
            return self.called(**self.inputs, return_dict=False)[0]


def build_block(shape: Shape, device: str, dtype: torch.dtype, tokens: int | None = None, heads: int | None = None):
    """A BuiltBlock with the real numbers of heads and tokens, or with `heads` heads and at most `tokens` video tokens.

    Raises ValueError for as many video tokens as there are text or image tokens: attentions are told by their lengths.
    """
    grid, heads = shape.grid if tokens is None else smaller(shape.grid, tokens), heads or shape.heads
    if grid[0] * grid[1] * grid[2] in shape.beside:
        raise ValueError(f"{shape.title}: {tokens} tokens make a video as long as its text; take a few more or fewer")
    torch.manual_seed(0)
    model, inputs = shape.make(grid, heads)

    def placed(name, value):
        if isinstance(value, tuple):
            return tuple(placed(name, v) for v in value)
        if not torch.is_tensor(value):
            return value
        keep = name in shape.exact or not value.is_floating_point()
        return value.to(device) if keep else value.to(device, dtype)

    inputs = {name: placed(name, value) for name, value in inputs.items()}
    return BuiltBlock(shape, grid, heads, model.to(device, dtype).eval(), inputs)
