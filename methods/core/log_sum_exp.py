"""Exact softmax attention with its log-sum-exp, and with a bias on one key group, without an L x L tensor.

Logits are z = scale q k^T (+ mask). All functions take query (B, H, Lq, D), key (B, H, Lk, D), value (B, H, Lk, E).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHUNK = 1 << 24  # elements of a chunk of logits in the fall-back


def attention_with_lse(query, key, value, mask=None, scale: float | None = None):
    """(output (B, H, Lq, E), lse (B, H, Lq) float32 or float64): attention and the log-sum-exp of its logits.

    mask: bool (True takes part) or additive, broadcastable to (B, H, Lq, Lk). A row without any allowed key gives output
    0 and lse -inf. Uses SDPA's kernels where they hand out their log-sum-exp (CPU; CUDA without a mask: flash in half
    precision, the memory-efficient one in float32), else chunks of queries.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    same_size = query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and same_size and key.shape[2] > 0:
        if mask is not None:
            mask = mask.to(query.dtype).expand(*(query.shape[0], mask.shape[1] if mask.ndim == 4 else 1), -1, -1)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=mask, scale=scale
        )
        if mask is not None:  # the kernel gives a row without keys the log-sum-exp 0
            empty = (mask == float("-inf")).all(-1).expand(lse.shape)
            lse = lse.masked_fill(empty, float("-inf"))
        return out, lse
    if query.is_cuda and same_size and mask is None and query.dtype != torch.float32 and query.shape[-1] <= 256:
        # The kernel wants head sizes that are multiples of 8; padding with zeros changes neither the logits nor the
        # output columns that are returned.
        size = value.shape[-1]
        pad = -size % 8
        q, k, v = (F.pad(x, (0, pad)) if pad else x for x in (query, key, value))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
        return out[..., :size], lse
    if query.is_cuda and mask is None and query.dtype == torch.float32:  # the recorder's case
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, scale=scale
        )
        return out, lse[..., : query.shape[2]]  # padded to a multiple of 32 queries
    return _chunked(query, key, value, mask, scale)


def _chunked(query, key, value, mask, scale):
    exact = torch.promote_types(query.dtype, torch.float32)
    rows = max(1, CHUNK // max(1, query.shape[0] * query.shape[1] * key.shape[2]))
    outs, lses = [], []
    for start in range(0, query.shape[2], rows):
        logits = scale * (query[:, :, start : start + rows].to(exact) @ key.to(exact).transpose(-1, -2))
        if mask is not None:
            logits = logits + (mask[..., start : start + rows, :] if mask.shape[-2] > 1 else mask).to(exact)
        lse = logits.logsumexp(-1)
        weights = (logits - lse.masked_fill(lse == float("-inf"), 0)[..., None]).exp()
        outs.append((weights @ value.to(exact)).to(query.dtype))
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def biased_attention(query, key, value, keys: slice, bias, mask=None, scale: float | None = None):
    """Attention with `bias` added to the logits of the contiguous keys `keys`; bias: (Lq,), one value per query.

    The two key groups are attended to separately and merged with weight sigmoid(lse_a + bias - lse_b): as many
    multiplications as plain attention, no L x L bias. Same dtype as the query.
    """
    start, stop = keys.start, keys.stop

    def rest(x, axis):
        if x is None or x.shape[axis] == 1:
            return x
        before, after = x.narrow(axis, 0, start), x.narrow(axis, stop, x.shape[axis] - stop)
        return after if start == 0 else before if stop == x.shape[axis] else torch.cat([before, after], axis)

    inside = None if mask is None else mask if mask.shape[-1] == 1 else mask[..., keys]
    out_a, lse_a = attention_with_lse(query, key[:, :, keys], value[:, :, keys], inside, scale)
    if stop - start == key.shape[2]:
        return out_a  # a constant on all keys changes nothing
    out_b, lse_b = attention_with_lse(query, rest(key, 2), rest(value, 2), rest(mask, -1), scale)
    weight = torch.sigmoid(torch.nan_to_num(lse_a + bias.to(lse_a) - lse_b, nan=0.0))[..., None]
    # Written as one interpolation: exact where one side has no weight.
    return torch.lerp(out_b.to(weight.dtype), out_a.to(weight.dtype), weight).to(query.dtype)
