"""`with record(pipe) as rec`: exact attention statistics of every step, block and branch, without an L x L tensor.

The statistics come from one more attention pass over the same queries and keys, whose values are the keys themselves and
one-hot columns: with p_ij the attention of query i to key j, it returns sum_j p_ij k_j and the mass of p_i in each group.
Then H_i = lse_i - q_i . sum_j p_ij k_j / sqrt(d). The output of the model is never touched.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from .attention_call import AttentionCall, Moment
from .log_sum_exp import CHUNK, attention_with_lse
from .steer import attach
from .token_layout import GROUPS, Block
from .windows import choose_blocks

COLUMNS = ["step", "steps", "timestep", "block", "branch", "site", "statistic", "query_frame", "key", "value", "samples",
           "queries_per_frame"]  # fmt: skip


@dataclass
class Recording:
    """Means over heads, queries and samples, per (step, block, branch, site); see `record` for the statistics."""

    entropy: bool = True
    groups: bool = True
    frames: bool = False
    received: bool = False
    largest: bool = False
    norm: bool = False
    blocks: str | tuple = "all"
    queries: int | None = None
    _sums: dict = field(default_factory=dict, repr=False)  # row key -> [sums per frame, samples, timestep, frames]
    _received: dict = field(default_factory=dict, repr=False)  # (step, block, branch, site) -> [sum (Lk,), samples]
    _steps: int | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.queries is not None and (not isinstance(self.queries, int) or self.queries < 1):
            raise ValueError(f"record queries is a number of queries per latent frame, 1 or more, not {self.queries!r}")
        if isinstance(self.blocks, list):
            self.blocks = tuple(self.blocks)

    # The method's side (see methods.steer) -------------------------------------------------------------------------
    def check(self, model) -> None:
        """Raise ValueError for a block that does not exist."""
        choose_blocks(model.blocks, self.blocks, model.family)

    def active(self, model, moment: Moment, block: Block, site: str) -> bool:
        """At every step of the chosen blocks."""
        return block.index in choose_blocks(model.blocks, self.blocks, model.family)

    @torch.no_grad()
    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Add the statistics of one attention call, as the methods left it, with its output (B, H, Lq, D)."""
        self._steps = call.moment.steps
        batch, half = call.query.shape[0], call.query.shape[0] // 2
        branches = [(call.moment.branch, slice(0, batch))]
        if call.moment.branch == "both":
            branches = [("uncond", slice(0, half)), ("cond", slice(half, batch))]
        rows, frame_of_row, frames = self._rows(call)
        result = statistics(
            call, rows, entropy=self.entropy, groups=self.groups, frames=self.frames, received=self.received,
            largest=self.largest,
        )  # fmt: skip
        values = result["rows"]
        if self.norm:
            values["norm", ""] = out[:, :, rows].float().square().sum((1, 3)).sqrt()[:, None]
        for branch, chosen in branches:
            count, where = chosen.stop - chosen.start, (call.moment.step, call.block.name, branch, call.site)
            for name, value in values.items():  # (B, H or 1, n)
                per_row = value[chosen].double().mean(1).sum(0)
                total = torch.zeros(len(frames), dtype=torch.float64, device=value.device)
                total.index_add_(0, frame_of_row, per_row)
                entry = self._sums.setdefault((*where, *name), [0.0, 0, call.moment.timestep, frames])
                entry[0] = entry[0] + total / frame_of_row.bincount(minlength=len(frames))
                entry[1] += count
            if self.received:
                entry = self._received.setdefault(where, [0.0, 0])
                entry[0] = entry[0] + result["received"][chosen].mean(1).sum(0) * len(rows)
                entry[1] += count * len(rows)

    def _rows(self, call):
        """(indices of video queries (n,), position of each one's frame in `frames` (n,), frames): all queries, or
        `queries` evenly spaced ones per frame."""
        of_token, video = call.queries.frames, call.queries.where("reference", "video")[0]
        frames = of_token[video & (of_token >= 0)].unique().tolist()
        chosen = []
        for frame in frames:
            rows = ((of_token == frame) & video).nonzero().flatten()
            if self.queries is not None and self.queries < len(rows):
                rows = rows[torch.linspace(0, len(rows) - 1, self.queries, device=rows.device).round().long()]
            chosen.append(rows)
        position = [torch.full_like(rows, i) for i, rows in enumerate(chosen)]
        return torch.cat(chosen), torch.cat(position), frames

    # The reader's side ---------------------------------------------------------------------------------------------
    def to_frame(self):
        """A tidy pandas frame, one value per row; columns as in COLUMNS. `query_frame` is the latent frame of the
        queries that `value` is a mean over; `key` is a token group, a latent frame of keys, or "" for entropies (nats).
        """
        import pandas as pd

        thinned = "all" if self.queries is None else self.queries
        rows = [
            (step, self._steps, timestep, block, branch, site, name, frame, key, value / count, count, thinned)
            for (step, block, branch, site, name, key), (total, count, timestep, frames) in self._sums.items()
            for frame, value in zip(frames, total.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def attention_received(self, step: int, block: str, branch: str, site: str) -> torch.Tensor:
        """(Lk,) mean attention that each key receives from a video query; sums to 1 over the keys."""
        if (step, block, branch, site) not in self._received:
            raise KeyError(f"nothing recorded for step {step}, block {block!r}, branch {branch!r}, site {site!r}")
        total, count = self._received[step, block, branch, site]
        return (total / count).cpu()

    def save(self, path: str | Path) -> None:
        """Write the frame as CSV, under a temporary name first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.to_frame().to_csv(temporary, index=False, lineterminator="\n", compression=None)
        os.replace(temporary, path)


def statistics(
    call: AttentionCall, rows: torch.Tensor, *, entropy=True, groups=True, frames=True, received=False, largest=False
) -> dict:
    """Exact statistics of the video queries `rows` (n,) of a call, in float32 (float64 for float64 inputs): to 1e-5, to
    3e-4 nats where hundreds of keys are equal, as Wan's text padding is.

    Returns "rows": {(statistic, key): (B, H, n)} with "mass" per token group (of the groups that are present),
    "frame_mass" per latent frame of keys, "entropy" over all keys, "conditioning_entropy" within the text and image keys
    (nats) and "largest" weight; "received": (B, H, Lk), the mean of p_ij over the rows.
    """
    exact = torch.promote_types(call.query.dtype, torch.float32)
    query, key, scale = call.scaled(rows, call.video)
    query, key, batch = query.to(exact), key.to(exact), query.shape[0]
    # A vector taken off all keys changes no weight; what they have in common would only cost digits of the entropy.
    key = key - key.mean(2, keepdim=True)
    if call.bias is not None:  # one more feature carries the bias: (bias / scale) * [j is reference]
        on = torch.zeros(key.shape[2], device=key.device, dtype=exact)
        on[call.reference] = 1
        bias = torch.zeros(batch, len(rows), device=key.device, dtype=exact)
        bias[call.conditional()] = call.bias[rows].to(exact) / scale
        query = torch.cat([query, bias[:, None, :, None].expand(*query.shape[:3], 1)], -1)
        key = torch.cat([key, on[None, None, :, None].expand(*key.shape[:3], 1)], -1)
    mask = call.rows_of_mask(rows)
    columns = [("mass", g, call.keys.where(g)) for g in GROUPS if groups and g in call.layout.groups]
    of_key = call.keys.frames
    columns += [("frame_mass", f, (of_key == f)[None]) for f in of_key[of_key >= 0].unique().tolist() if frames]
    columns = [c for c in columns if bool(c[2].any())]
    one_hot = [c[2].to(exact).expand(batch, -1)[:, None, :, None].expand(*key.shape[:3], 1) for c in columns]
    size = query.shape[-1]
    out, lse = _attend(query, key, torch.cat([key, *one_hot], -1), mask, scale)
    found = {(name, k): out[..., size + i] for i, (name, k, _) in enumerate(columns)}
    if entropy:
        found["entropy", ""] = lse - scale * (query * out[..., :size]).sum(-1)
        inside = conditioning_keys(call)
        if bool(inside.all()):
            found["conditioning_entropy", ""] = found["entropy", ""]
        elif bool(inside.any()):
            # Only the keys that some sample has inside; samples may differ in length, so a mask over keys is left.
            some = inside.any(0).nonzero().flatten()
            within, block = inside[:, some][:, None, None], key[:, :, some]
            if mask is not None:
                part = mask[..., some] if mask.shape[-1] > 1 else mask
                within = within & (part if part.dtype == torch.bool else part > float("-inf"))
            mean, lse_within = _attend(query, block, block, None if bool(within.all()) else within, scale)
            found["conditioning_entropy", ""] = lse_within - scale * (query * mean).sum(-1)
    if largest:
        found["largest", ""] = torch.cat(
            [(z.amax(-1) - lse[:, :, s]).exp() for s, z in _logits(query, key, mask, scale)], dim=2
        )
    result = {"rows": found}
    if received:
        total = torch.zeros(*key.shape[:3], dtype=exact, device=key.device)
        for s, z in _logits(query, key, mask, scale):
            total += (z - lse[:, :, s, None]).exp().sum(2)
        result["received"] = total / len(rows)
    return result


def _attend(query, key, value, mask, scale):
    """attention_with_lse for values of another width than the keys, with weights that sum to 1 in one more column: the
    rounding of a kernel's normalisation is common to all columns, and entropies would lose a digit or two to it."""
    size = value.shape[-1]
    width = -(-(size + 1) // 8) * 8  # kernels are slower at other widths
    value = F.pad(torch.cat([value, torch.ones_like(value[..., :1])], -1), (0, width - size - 1))
    query, key = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key))
    out, lse = attention_with_lse(query, key, value, mask, scale)
    return out[..., :size] / out[..., size : size + 1].clamp(min=torch.finfo(out.dtype).tiny), lse


def conditioning_keys(call: AttentionCall) -> torch.Tensor:
    """(1 or B, Lk) bool: words and image tokens among the keys (AlignVid's S_cond); CogVideoX's image is its frame 0."""
    names = {"text", "image"}
    if call.site == "joint" and "image" not in call.layout.groups:
        names.add("reference")
    return call.keys.where(*names)


def _logits(query, key, mask, scale):
    """(query range, logits (B, H, rows, Lk)) in chunks of queries that bound the memory."""
    rows = max(1, CHUNK // (query.shape[0] * query.shape[1] * key.shape[2]))
    for start in range(0, query.shape[2], rows):
        s = slice(start, min(start + rows, query.shape[2]))
        z = scale * (query[:, :, s] @ key.transpose(-1, -2))
        if mask is not None:
            part = mask[..., s, :] if mask.shape[-2] > 1 else mask
            z = z.masked_fill(~part, float("-inf")) if part.dtype == torch.bool else z + part
        yield s, z


@contextmanager
def record(
    pipe_or_transformer,
    *,
    entropy: bool = True,
    groups: bool = True,
    frames: bool = False,
    received: bool = False,
    largest: bool = False,
    norm: bool = False,
    blocks: str | list = "all",
    queries: int | None = None,
    steps: int | None = None,
    image_tokens: int | None = None,
):
    """Record attention statistics of video queries inside a `with` block, after all methods of `steer`.

    groups: attention mass per token group. frames: mass per latent frame of keys (frame-to-frame matrix).
    entropy: of each row over all keys and within the text and image keys, nats. largest: largest weight of a row.
    received: mean attention per key. norm: length of the attention's output, before the output projection, over all heads;
    cross-attention adds up its image and text branch, so the two say how much of it is text. blocks: as in AlignVid. queries: evenly spaced queries per latent frame instead of
    all (stated in the output). steps, image_tokens: as in `steer`. Statistics are computed in float32.
    Yields a Recording. Several generations under one context are averaged.
    """
    recording = Recording(entropy, groups, frames, received, largest, norm, blocks, queries)
    with attach(pipe_or_transformer, [recording], steps=steps, image_tokens=image_tokens):
        yield recording
