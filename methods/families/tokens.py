"""Which token is what: token groups, sequences of tokens, and the layout of one forward pass.

Video tokens are ordered by frame, then row, then column. The layout is worked out anew in every forward pass, because the
two guidance branches of a step may differ in length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Codes of the token groups, in this order. `reference`: the latent frame that holds the reference image; `image`: tokens of
# an image encoder; `text_padding`: text slots without a word, which in Wan still take part in the softmax; `history`:
# frames that stand beside the video: those that FramePack has made before, LTX's images for later frames.
GROUPS = ("text", "text_padding", "image", "reference", "video", "history")
LATENT_GROUPS = ("reference", "video", "history")


@dataclass(frozen=True)
class Tokens:
    """A sequence of N tokens.

    groups: (1 or B, N) int8 codes into GROUPS. frames: (N,) int32 latent frame of each token, -1 outside the video.
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
    """The token sequences of one forward pass: `video`, `text` and `image` (cross-attention), or one `joint`;
    `text queries` where not all tokens of `video` attend to the text.

    grid: latent frames, rows and columns of tokens. reference: positions of the reference frame's tokens in the sequence
    `video` or `joint`, None if the model was given no reference. groups: names of the groups that are present.
    """

    sequences: dict[str, Tokens]
    grid: tuple[int, int, int]
    reference: slice | None
    groups: frozenset[str] = frozenset()


def make_layout(sequences: dict[str, Tokens], grid: tuple[int, int, int], reference: slice | None) -> Layout:
    """A Layout that knows which groups are present."""
    present = {GROUPS[c] for tokens in sequences.values() for c in tokens.groups.unique().tolist()}
    return Layout(sequences, grid, reference, frozenset(present))


def video_frames(frames: int, size: int, reference: bool) -> list[tuple[str, int, int]]:
    """Parts for `sequence`: `frames` latent frames of `size` tokens; with `reference`, frame 0 holds the image."""
    return [("reference" if reference and f == 0 else "video", size, f) for f in range(frames)]


def sequence(device: torch.device, *parts: tuple[str, int, int]) -> Tokens:
    """Tokens of (group, number of tokens, latent frame or -1) parts laid end to end."""
    codes = torch.cat([torch.full((n,), GROUPS.index(group), dtype=torch.int8) for group, n, _ in parts])
    frames = torch.cat([torch.full((n,), frame, dtype=torch.int32) for _, n, frame in parts])
    latent = sum(n for group, n, _ in parts if group in LATENT_GROUPS)
    start = sum(n for group, n, _ in parts if group not in LATENT_GROUPS)
    return Tokens(codes[None].to(device), frames.to(device), slice(start, start + latent))


def text_sequence(device: torch.device, valid: torch.Tensor, image: torch.Tensor | int = 0) -> Tokens:
    """A text stream from `valid` (B, N) bool: words and padding; its first `image` (int or (B,)) tokens come from an image
    encoder."""
    position = torch.arange(valid.shape[1], device=device)[None]
    image = torch.as_tensor(image, device=device).reshape(-1, 1)
    codes = torch.where(valid.to(device), GROUPS.index("text"), GROUPS.index("text_padding"))
    codes = torch.where(position < image, GROUPS.index("image"), codes).to(torch.int8)
    if (codes == codes[:1]).all():
        codes = codes[:1]
    return Tokens(codes, torch.full((valid.shape[1],), -1, dtype=torch.int32, device=device), slice(0, 0))


def video_then_text(video: Tokens, text: Tokens) -> Tokens:
    """The joint sequence of a video and a text stream that follows it."""
    batch = max(video.groups.shape[0], text.groups.shape[0])
    groups = [t.groups.expand(batch, -1) for t in (video, text)]
    return Tokens(torch.cat(groups, dim=1), torch.cat([video.frames, text.frames]), video.video)
