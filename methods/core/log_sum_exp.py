"""Exact softmax attention with its log-sum-exp, and with biases on groups of keys, without an L x L tensor.

Logits are z = scale q k^T (+ mask). All functions take query (B, H, Lq, D), key (B, H, Lk, D), value (B, H, Lk, E).

The kernels hand out a log-sum-exp that carries no gradient. Where one is needed, biases are put into one more feature of
queries and keys instead of into the weights of a merge, which is as exact in float32 and differentiable.
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
    if _needs_gradient(query, key, value, bias):
        members = torch.zeros(1, key.shape[2], dtype=torch.bool, device=key.device)
        members[:, start:stop] = True
        return _attention_with_bias_features(query, key, value, [(members, bias)], mask, scale)

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


def group_biased_attention(query, key, value, groups, mask=None, scale: float | None = None):
    """Attention with a bias on each of several groups of keys, which may overlap.

    groups: (members (1 or B, Lk) bool, bias (Lq,)) pairs. Keys with the same biases are attended to together, and the
    parts are merged with softmax(lse_c + bias_c). Same dtype as the query.
    """
    if _needs_gradient(query, key, value, *(bias for _, bias in groups)):
        return _attention_with_bias_features(query, key, value, groups, mask, scale)
    batch = max(members.shape[0] for members, _ in groups)
    member = torch.stack([members.expand(batch, -1) for members, _ in groups], dim=-1)  # (1 or B, Lk, G)
    outs, lses = [], []
    for signature in member.flatten(0, 1).unique(dim=0):
        inside = (member == signature).all(-1)  # (1 or B, Lk)
        chosen = inside.any(0).nonzero().flatten()
        part = mask if mask is None or mask.shape[-1] == 1 else mask[..., chosen]
        if not bool(inside[:, chosen].all()):  # samples differ in length
            own = inside[:, chosen][:, None, None]
            part = own if part is None else _and(part, own)
        out, lse = attention_with_lse(query, key[:, :, chosen], value[:, :, chosen], part, scale)
        bias = sum(bias.to(lse) for (_, bias), on in zip(groups, signature.tolist(), strict=True) if on)
        outs.append(out)
        lses.append(lse + bias)
    weights = torch.stack(lses).softmax(0).nan_to_num(0.0)[..., None]  # a row without any key gets zeros
    return sum(w * out.to(w.dtype) for w, out in zip(weights, outs, strict=True)).to(query.dtype)


def _and(mask, own):
    """A bool or additive mask that also shuts out the keys that are not `own`."""
    if mask.dtype == torch.bool:
        return mask & own
    return mask.masked_fill(~own, float("-inf"))


def _needs_gradient(*tensors) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _attention_with_bias_features(query, key, value, groups, mask, scale):
    """The same, differentiable: one more feature per group, bias / scale on the query's side and 0 or 1 on the key's."""
    dtype = query.dtype
    exact = torch.promote_types(dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (x.to(exact) for x in (query, key, value))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(exact)
    more = [(bias.to(query) / scale)[None, None, :, None].expand(*query.shape[:3], 1) for _, bias in groups]
    own = [members.to(key)[:, None, :, None].expand(*key.shape[:3], 1) for members, _ in groups]
    query, key = torch.cat([query, *more], -1), torch.cat([key, *own], -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).to(dtype)
