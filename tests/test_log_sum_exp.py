"""Attention with its log-sum-exp, and merges by it, against float64: every path, dtype and head size; on a GPU where there is one."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.core import log_sum_exp
from methods.core.log_sum_exp import attention_with_lse, biased_attention, group_biased_attention

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DEVICES = ["cpu", GPU]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Kernels work in blocks of 32 to 256 queries and keys: below, at, and beside such sizes.
LENGTHS = [(1, 1), (64, 128), (70, 133), (257, 129)]
OUTPUT = {
    torch.float32: 2e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}  # of the value; its own rounding in half precision
LSE = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}  # logits are summed in float32 by every kernel


def tensors(device, dtype, lengths, size, heads=3, batch=2):
    """Query, key and value; the same numbers on every device."""
    generator = torch.Generator().manual_seed(size + sum(lengths))
    lq, lk = lengths
    return [torch.randn(batch, heads, n, size, generator=generator).to(device, dtype) for n in (lq, lk, lk)]


def near(found, exact, tolerance):
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= tolerance * exact.abs().clamp(min=1)).all()


def explicit(q, k, v, bias=0.0, mask=None):
    """(output, log-sum-exp) in float64; a row without keys gives zeros and -inf."""
    z = q.shape[-1] ** -0.5 * q.double() @ k.double().transpose(-1, -2) + bias
    if mask is not None:
        z = z.masked_fill(~mask, -float("inf")) if mask.dtype == torch.bool else z + mask.double()
    return z.softmax(-1).nan_to_num(0.0) @ v.double(), z.logsumexp(-1)


def masks(kind, device, dtype, lengths):
    """A mask of that kind for a batch of 2; the first query of "rows" sees nothing."""
    generator = torch.Generator().manual_seed(0)
    lq, lk = lengths
    if kind == "none":
        return None
    seen = torch.rand(2, 1, 1 if kind == "keys" else lq, lk, generator=generator) > 0.3
    seen[..., 0] = True
    if kind == "rows":
        seen[:, :, 0] = False
    seen = seen.to(device)
    return torch.where(seen, 0.0, -float("inf")).to(dtype) if kind == "additive" else seen


@pytest.mark.parametrize("kind", ["none", "keys", "rows", "additive"])
@pytest.mark.parametrize("size", [64, 128, 12])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_the_log_sum_exp_is_exact(device, dtype, size, kind):
    for lengths in LENGTHS:
        q, k, v = tensors(device, dtype, lengths, size)
        mask = masks(kind, device, dtype, lengths)
        out, lse = attention_with_lse(q, k, v, mask)
        exact, exact_lse = explicit(q, k, v, mask=mask)
        assert out.dtype == dtype and lse.dtype == torch.float32
        assert torch.equal(lse.isinf(), exact_lse.isinf())
        near(out, exact, OUTPUT[dtype])
        near(lse.nan_to_num(0, 0, 0), exact_lse.nan_to_num(0, 0, 0), LSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_values_of_another_width_are_chunked(device, dtype, monkeypatch):
    monkeypatch.setattr(log_sum_exp, "CHUNK", 5000)  # several chunks, the last one shorter
    q, k, _ = tensors(device, dtype, (70, 133), 64)
    _, _, v = tensors(device, dtype, (70, 133), 24)
    out, lse = attention_with_lse(q, k, v)
    exact, exact_lse = explicit(q, k, v)
    near(out, exact, OUTPUT[dtype])
    near(lse, exact_lse, LSE[dtype])


@pytest.mark.parametrize("kind", ["none", "keys"])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_merged_biases_are_exact(device, dtype, size, kind):
    lengths = (257, 133)
    q, k, v = tensors(device, dtype, lengths, size)
    mask = masks(kind, device, dtype, lengths)
    bias = torch.linspace(-4, 4, 257, device=device)
    for keys in (slice(0, 7), slice(50, 114), slice(100, 133), slice(0, 133)):
        added = torch.zeros(257, 133, dtype=torch.float64, device=device)
        added[:, keys] = bias.double()[:, None]
        near(biased_attention(q, k, v, keys, bias, mask), explicit(q, k, v, added, mask)[0], OUTPUT[dtype])
    members = torch.rand(2, 2, 133, generator=torch.Generator().manual_seed(1)).to(device) > 0.5  # group, sample, key
    groups = [(members[0], bias), (members[1], -bias / 2)]
    added = sum(m[:, None, None].double() * b.double()[:, None] for m, b in groups)
    near(group_biased_attention(q, k, v, groups, mask), explicit(q, k, v, added, mask)[0], OUTPUT[dtype])


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize(("size", "dtype"), itertools.product([64, 128], DTYPES), ids=str)
def test_scaled_keys_are_exact_in_every_kernel_of_a_gpu(kernel, size, dtype):
    """Scaling logits goes through SDPA, in whichever kernel a card prefers or a user asks for."""
    q, k, v = tensors("cuda", dtype, (257, 133), size)
    try:
        with sdpa_kernel(kernel):
            found = F.scaled_dot_product_attention(q, k, v, scale=1.35 * size**-0.5)
    except RuntimeError as error:
        pytest.skip(f"{kernel} does not run here: {error}")
    near(found, explicit(1.35 * q.double(), k, v)[0], OUTPUT[dtype])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_is_asked_for_the_kernel_that_the_docstring_names(dtype):
    """Without a mask nothing falls back to chunks, which would be right and slow."""
    names = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.name())
            return function(*args, **(kwargs or {}))

    q, k, v = tensors("cuda", dtype, (70, 133), 64)
    with Names():
        attention_with_lse(q, k, v)
    wanted = "efficient" if dtype == torch.float32 else "flash"
    assert any(f"scaled_dot_product_{wanted}_attention" in n for n in names) and not any("bmm" in n for n in names)
