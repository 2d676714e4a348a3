"""What AlignVid proves about scaled logits (section 4, appendix C), checked numerically on the library's own attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.core.log_sum_exp import attention_with_lse

seeds, counts = st.integers(0, 2**31), st.integers(2, 12)
alphas = st.floats(0.5, 3.0)


def draw(seed, count, queries=3, size=5):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 1, n, size, generator=g, dtype=torch.float64) for n in (queries, count, count))
    return q, k, v, size**-0.5 * q @ k.transpose(-1, -2)


def entropy(q, k, alpha):
    """H(alpha) of each row as the recorder computes it: lse - E[z]."""
    mean, lse = attention_with_lse(q, alpha * k, alpha * k)
    return lse - q.shape[-1] ** -0.5 * (q * mean).sum(-1)


@given(seeds, counts, alphas)
def test_scaling_keys_or_queries_is_a_temperature(seed, count, alpha):
    """Lemma 4.1."""
    q, k, v, z = draw(seed, count)
    exact = (alpha * z).softmax(-1) @ v
    for query, key in ((alpha * q, k), (q, alpha * k)):
        assert torch.allclose(attention_with_lse(query, key, v)[0], exact, atol=1e-12)


@given(seeds, counts, alphas)
def test_entropy_falls_with_slope_minus_alpha_times_the_variance(seed, count, alpha):
    """Lemma 4.2, Eq. 6."""
    q, k, _, z = draw(seed, count)
    p = (alpha * z).softmax(-1)
    variance = (p * z.square()).sum(-1) - (p * z).sum(-1).square()
    h = 1e-5
    slope = (entropy(q, k, alpha + h) - entropy(q, k, alpha - h)) / (2 * h)
    assert torch.allclose(slope, -alpha * variance, atol=1e-6)


@given(seeds, counts)
def test_the_hessian_vanishes_for_large_alpha(seed, count):
    """Eq. 7: the spectral norm of alpha^2 (Diag(p) - p p^T) tends to 0 where the largest logit is unique."""
    z = draw(seed, count)[3][0, 0, 0]
    gap = z.sort().values.diff()[-1]

    def norm(alpha):
        p = (alpha * z).softmax(-1)
        return alpha**2 * torch.linalg.matrix_norm(torch.diag(p) - torch.outer(p, p), 2)

    far = 100 / gap  # all other weights are below exp(-100) of the largest
    assert norm(2 * far) <= norm(far) <= 1e-12 * max(1.0, float(far) ** 2)


@given(seeds, counts, alphas, alphas)
def test_the_output_is_lipschitz_in_alpha(seed, count, first, second):
    """Theorem C.1, Eq. 42: |y(a) - y(b)| <= 1/2 |V| |z| |a - b|."""
    q, k, v, z = draw(seed, count)
    a, b = (attention_with_lse(q, alpha * k, v)[0][0, 0] for alpha in (first, second))
    bound = 0.5 * torch.linalg.matrix_norm(v[0, 0], 2) * z[0, 0].norm(dim=-1) * abs(first - second)
    assert ((a - b).norm(dim=-1) <= bound + 1e-12).all()


# --- Energy-based scaling (Eq. 10) ------------------------------------------------------------------------------------
def energy_factors(energy, mask=None, shift=2.0):
    """Factors per head of logits whose means over the keys are shift - 1, shift and shift + 1; the last key is far off."""
    from types import SimpleNamespace

    from methods import AlignVid

    query = torch.ones(1, 3, 4, 1)
    key = torch.tensor([shift - 1, shift, shift + 1]).view(1, 3, 1, 1).repeat(1, 1, 6, 1)
    key[:, :, 5] = 40.0 if mask is not None else key[:, :, 5]
    call = SimpleNamespace(query=query, key=key, mask=mask, scale=1.0)
    return AlignVid(1.35, energy=energy)._factor(call, slice(None))[0, :, 0, 0]


def test_the_energy_based_factor_is_gamma_at_the_blocks_typical_logit():
    """And stronger where logits are diffuse. Without the centring it is weaker than gamma wherever mean logits are above 0."""
    for shift in (-2.0, 0.0, 2.0, 10.0):
        low, middle, high = energy_factors("centred", shift=shift).tolist()
        assert low > middle > high and middle == pytest.approx(1.35) and low * high == pytest.approx(1.35**2)
    assert (energy_factors("absolute") < 1.35).all()


def test_masked_keys_have_no_part_in_the_energy():
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    mask[..., 5] = False
    for energy in ("centred", "absolute"):
        assert torch.allclose(energy_factors(energy, mask), energy_factors(energy))
        additive = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
        assert torch.allclose(energy_factors(energy, additive), energy_factors(energy))
