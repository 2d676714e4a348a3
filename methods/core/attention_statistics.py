"""Exact statistics of one attention call: mass per token group and per frame, entropy, largest weight, attention received.

They come from one more attention pass over the same queries and keys, whose values are the keys themselves and one-hot
columns, so that no L x L tensor is made. With p_ij the attention of query i to key j, the pass returns sum_j p_ij k_j and
the mass of p_i in each group; the entropy is H_i = lse_i - q_i . sum_j p_ij k_j / sqrt(d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..families import GROUPS
from .attention_call import AttentionCall
from .log_sum_exp import CHUNK, attention_with_lse


def statistics(
    call: AttentionCall,
    rows: torch.Tensor,
    *,
    entropy=True,
    groups=True,
    frames=True,
    received=False,
    largest=False,
    tokens: torch.Tensor | None = None,
) -> dict:
    """Exact statistics of the video queries `rows` (n,) of a call, in float32 (float64 for float64 inputs): to 1e-5, to
    3e-4 nats where hundreds of keys are equal, as Wan's text padding is.

    Returns "rows": {(statistic, key): (B, H, n)} with "mass" per token group (of the groups that are present),
    "frame_mass" per latent frame of keys, "entropy" over all keys, "conditioning_entropy" within the text and image keys
    (nats), "largest" weight and "token", the weight of the i-th of the key positions `tokens` (n,); "received": (B, H, Lk),
    the mean of p_ij over the rows.
    """
    exact = torch.promote_types(call.query.dtype, torch.float32)
    query, key, scale = call.scaled(rows, call.video_logits)
    query, key, batch = query.to(exact), key.to(exact), query.shape[0]
    # Subtracting one vector from all keys changes no weight, and what keys share would only cost digits of the entropy.
    key = key - key.mean(2, keepdim=True)
    for members, per_query in call.groups_with_bias():  # one more feature each: (bias / scale) * [j is in the group]
        bias = torch.zeros(batch, len(rows), device=key.device, dtype=exact)
        bias[call.conditional()] = per_query[rows].to(exact) / scale
        inside = members.to(exact)[:, None, :, None]
        query = torch.cat([query, bias[:, None, :, None].expand(*query.shape[:3], 1)], -1)
        key = torch.cat([key, inside.expand(*key.shape[:3], 1)], -1)
    mask = call.rows_of_mask(rows)
    columns = [("mass", g, call.keys.where(g)) for g in GROUPS if groups and g in call.layout.groups]
    frame_of_key = call.keys.frames
    columns += [
        ("frame_mass", f, (frame_of_key == f)[None])
        for f in frame_of_key[frame_of_key >= 0].unique().tolist()
        if frames
    ]
    columns = [c for c in columns if bool(c[2].any())]
    if tokens is not None:
        position = torch.arange(key.shape[2], device=key.device)
        columns += [("token", i, (position == token)[None]) for i, token in enumerate(tokens.tolist())]
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
            # Attend only to keys that are inside in some sample; samples differ in length, hence the mask.
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
    """`attention_with_lse` for values of another width than the keys.

    A column of ones measures the rounding of the kernel's normalisation, which is common to all columns and is divided
    out: it would cost entropies a digit or two.
    """
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
