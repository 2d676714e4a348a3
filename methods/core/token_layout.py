"""Which token is what: the blocks and the token order of the five families of video transformers in diffusers.

| family | attention | order of the tokens |
|---|---|---|
| Wan 2.1, 2.2 (A14B, 5B), T2V | self, then image and text cross-attention | video; image keys; text keys |
| HunyuanVideo, token_replace and latent_concat | joint | video, [image, text, padding] |
| HunyuanVideo-1.5 | joint | video, [image, text, padding] with the valid tokens of each sample first |
| FramePack, FramePack-F1 | joint | history 4x, 2x, clean frames, video, [image, text, padding] |
| CogVideoX, CogVideoX-1.5 | joint | text, video |

Video tokens are ordered by frame, then row, then column. The layout is worked out again in every forward: the two
guidance branches of one step may differ in length.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import torch
from torch import nn

# Codes of the token groups, in this order. `reference` is the latent frame that holds the reference image, `image` the
# tokens of an image encoder, `text_padding` text slots without a word (in Wan they still take part in the softmax).
GROUPS = ("text", "text_padding", "image", "reference", "video", "history")
WAN, HUNYUAN, HUNYUAN15, FRAMEPACK, COGVIDEOX = (
    "WanTransformer3DModel",
    "HunyuanVideoTransformer3DModel",
    "HunyuanVideo15Transformer3DModel",
    "HunyuanVideoFramepackTransformer3DModel",
    "CogVideoXTransformer3DModel",
)
FAMILIES = (WAN, HUNYUAN, HUNYUAN15, FRAMEPACK, COGVIDEOX)


@dataclass(frozen=True)
class Block:
    """A transformer block: its position among all blocks and its name (`0`.. for one kind, else `single.3`)."""

    index: int
    name: str


@dataclass(frozen=True)
class Tokens:
    """A sequence of N tokens: `groups` (1 or B, N) int8 codes into GROUPS, `frames` (N,) latent frame or -1.

    video: positions of the latent tokens (reference, video and history), which are contiguous.
    """

    groups: torch.Tensor
    frames: torch.Tensor
    video: slice

    def where(self, *names: str) -> torch.Tensor:
        """(1 or B, N) bool: tokens that belong to one of the named groups."""
        codes = torch.tensor([GROUPS.index(n) for n in names], device=self.groups.device, dtype=torch.int8)
        return torch.isin(self.groups, codes)


@dataclass(frozen=True)
class Layout:
    """The token sequences of one forward: `video` and `text`, `image` (cross-attention), or one `joint`.

    grid: latent frames, rows and columns of tokens; reference: positions of the reference frame's tokens in the
    sequence `video` or `joint`, None if the model was given no reference.
    """

    sequences: dict[str, Tokens]
    grid: tuple[int, int, int]
    reference: slice | None
    groups: frozenset[str] = field(default=frozenset())


def blocks_of(transformer: nn.Module) -> list[tuple[Block, str, nn.Module]]:
    """(block, kind of attention, attention module) of every attention module in order of execution.

    kind: "self", "cross" or "joint". Raises TypeError for a class that is not one of FAMILIES.
    """
    name = type(transformer).__name__
    if name == WAN:
        found = [(Block(i, str(i)), b) for i, b in enumerate(transformer.blocks)]
        return [s for b, m in found for s in ((b, "self", m.attn1), (b, "cross", m.attn2))]
    if name == COGVIDEOX:
        return [(Block(i, str(i)), "joint", b.attn1) for i, b in enumerate(transformer.transformer_blocks)]
    if name in (HUNYUAN, HUNYUAN15, FRAMEPACK):
        double = list(transformer.transformer_blocks)
        single = list(getattr(transformer, "single_transformer_blocks", []))
        prefix = "double." if single else ""
        names = [f"{prefix}{i}" for i in range(len(double))] + [f"single.{i}" for i in range(len(single))]
        return [(Block(i, n), "joint", b.attn) for i, (n, b) in enumerate(zip(names, [*double, *single], strict=True))]
    raise TypeError(f"cannot steer a {name}; the families are {', '.join(FAMILIES)}")


def family_of(pipeline: str) -> str:
    """The family of the transformers that a pipeline has, such as WanTransformer3DModel of WanImageToVideoPipeline."""
    return next(f for f in FAMILIES if pipeline.startswith(f.split("Transformer")[0]))


def bind(transformer: nn.Module, args: tuple, kwargs: dict) -> dict:
    """The arguments of a forward call by name, positional ones included."""
    names = list(inspect.signature(type(transformer).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs


def layout_of(transformer: nn.Module, inputs: dict, image_tokens: int | None = None) -> Layout:
    """The layout of the forward call with the arguments `inputs` (by name).

    image_tokens: how many of HunyuanVideo's text tokens are image tokens, which its transformer does not know.
    Raises ValueError for a text length that Wan 2.1 I2V would split wrongly.
    """
    make = {WAN: _wan, HUNYUAN: _hunyuan, HUNYUAN15: _hunyuan15, FRAMEPACK: _framepack, COGVIDEOX: _cogvideox}
    return make[type(transformer).__name__](transformer, inputs, image_tokens)


def _tokens(device, *parts: tuple[str, int, int]) -> Tokens:
    """Tokens from (group, count, first frame or -1) parts laid end to end; `count` tokens per frame, one frame each."""
    codes = torch.cat([torch.full((n,), GROUPS.index(g), dtype=torch.int8) for g, n, _ in parts])
    frames = torch.cat([torch.full((n,), f, dtype=torch.int32) for _, n, f in parts])
    return Tokens(codes[None].to(device), frames.to(device), slice(*_video_range(parts)))


def _video_range(parts):
    sizes = [n if g in ("reference", "video", "history") else 0 for g, n, _ in parts]
    start = sum(n for (_, n, _), size in zip(parts, sizes, strict=True) if size == 0)
    return start, start + sum(sizes)


def _video(frames: int, size: int, reference: bool) -> list[tuple[str, int, int]]:
    return [("reference" if reference and f == 0 else "video", size, f) for f in range(frames)]


def _text(device, valid: torch.Tensor, image: torch.Tensor | int = 0) -> Tokens:
    """Text stream from `valid` (B, N) bool; the first `image` (int or (B,)) tokens come from an image encoder."""
    position = torch.arange(valid.shape[1], device=device)[None]
    image = torch.as_tensor(image, device=device).reshape(-1, 1)
    codes = torch.where(valid.to(device), GROUPS.index("text"), GROUPS.index("text_padding"))
    codes = torch.where(position < image, GROUPS.index("image"), codes).to(torch.int8)
    if (codes == codes[:1]).all():
        codes = codes[:1]
    return Tokens(codes, torch.full((valid.shape[1],), -1, dtype=torch.int32, device=device), slice(0, 0))


def _join(video: Tokens, text: Tokens) -> Tokens:
    batch = max(video.groups.shape[0], text.groups.shape[0])
    groups = [t.groups.expand(batch, -1) for t in (video, text)]
    return Tokens(torch.cat(groups, dim=1), torch.cat([video.frames, text.frames]), video.video)


def _layout(sequences, grid, reference) -> Layout:
    present = {GROUPS[c] for tokens in sequences.values() for c in tokens.groups.unique().tolist()}
    return Layout(sequences, grid, reference, frozenset(present))


def _wan(transformer, inputs, _):
    config, hidden, text = transformer.config, inputs["hidden_states"], inputs["encoder_hidden_states"]
    grid = tuple(n // p for n, p in zip(hidden.shape[2:], config.patch_size, strict=True))
    size, device, timestep = grid[1] * grid[2], hidden.device, inputs["timestep"]
    # 2.2-5B is one model for both tasks: a reference is a first frame whose tokens have time 0.
    given = timestep.ndim == 2 and bool((timestep[:, :size] == 0).all()) and bool((timestep[:, size:] > 0).any())
    reference = given or config.in_channels > config.out_channels
    sequences = {"video": _tokens(device, *_video(grid[0], size, reference))}
    if text.shape[1] != 512 and config.added_kv_proj_dim is not None:
        raise ValueError(
            f"Wan 2.1 image-to-video takes 512 text tokens, not {text.shape[1]}: diffusers splits image and text keys "
            "at 512 (leave max_sequence_length at 512)"
        )
    sequences["text"] = _text(device, text.abs().sum(-1) > 0)
    image = inputs.get("encoder_hidden_states_image")
    if image is not None:
        # First and last frame (FLF2V) come as two images of one sample.
        count = image.shape[0] * image.shape[1] // text.shape[0]
        sequences["image"] = _tokens(device, ("image", count, -1))
    return _layout(sequences, grid, slice(0, size) if reference else None)


def _hunyuan(transformer, inputs, image_tokens):
    config, hidden = transformer.config, inputs["hidden_states"]
    grid = (
        hidden.shape[2] // config.patch_size_t,
        hidden.shape[3] // config.patch_size,
        hidden.shape[4] // config.patch_size,
    )
    size, device, mask = grid[1] * grid[2], hidden.device, inputs["encoder_attention_mask"]
    reference = config.image_condition_type is not None
    # The model takes the first sum(mask) text tokens for valid, wherever the ones of the mask are.
    valid = torch.arange(mask.shape[1], device=device)[None] < mask.sum(1, keepdim=True)
    text = _text(device, valid, (image_tokens or 0) if reference else 0)
    joint = _join(_tokens(device, *_video(grid[0], size, reference)), text)
    return _layout({"joint": joint}, grid, slice(0, size) if reference else None)


def _hunyuan15(transformer, inputs, _):
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
    joint = _join(_tokens(device, *_video(grid[0], size, reference)), _text(device, valid, images))
    return _layout({"joint": joint}, grid, slice(0, size) if reference else None)


def _framepack(transformer, inputs, _):
    config, hidden = transformer.config, inputs["hidden_states"]
    p, pt = config.patch_size, config.patch_size_t
    grid = (hidden.shape[2] // pt, hidden.shape[3] // p, hidden.shape[4] // p)
    size, device = grid[1] * grid[2], hidden.device
    parts = []
    for latents, indices, k in (
        (inputs.get("latents_history_4x"), inputs.get("indices_latents_history_4x"), 4),
        (inputs.get("latents_history_2x"), inputs.get("indices_latents_history_2x"), 2),
    ):
        if latents is not None and indices is not None:
            f, h, w = (-(-n // (s * k)) for n, s in zip(latents.shape[2:], (pt, p, p), strict=True))
            parts.append(("history", f * h * w, -1))
    clean, reference = inputs.get("latents_clean"), None
    if clean is not None and inputs.get("indices_latents_clean") is not None:
        start = sum(n for _, n, _ in parts)
        reference = slice(start, start + size)  # the start image comes first among the clean frames
        parts += [("reference", size, -1), ("history", (clean.shape[2] // pt - 1) * size, -1)]
    mask, images = inputs["encoder_attention_mask"], inputs["image_embeds"].shape[1]
    batch, length = mask.shape[0], images + mask.shape[1]
    count = images + mask.bool().sum(1)
    if batch == 1:  # one sample: diffusers cuts the text to its valid tokens
        length = int(count[0])
    valid = torch.arange(length, device=device)[None] < count[:, None]
    joint = _join(_tokens(device, *parts, *_video(grid[0], size, False)), _text(device, valid, images))
    return _layout({"joint": joint}, grid, reference)


def _cogvideox(transformer, inputs, _):
    config, hidden, text = transformer.config, inputs["hidden_states"], inputs["encoder_hidden_states"]
    p, pt = config.patch_size, config.patch_size_t or 1
    grid = (-(-hidden.shape[1] // pt), hidden.shape[3] // p, hidden.shape[4] // p)
    size, device, words = grid[1] * grid[2], hidden.device, text.shape[1]
    reference = config.in_channels > config.out_channels
    joint = _tokens(device, ("text", words, -1), *_video(grid[0], size, reference))
    return _layout({"joint": joint}, grid, slice(words, words + size) if reference else None)
