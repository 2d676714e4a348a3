import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from analysis.videos.fast_convolution import convolve_directly
from testbed import cogvideox


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.booleans(),
    st.integers(1, 2), st.integers(0, 2**31),
)  # fmt: skip
def test_direct_convolution_equals_the_one_in_float64(inputs, outputs, kernel, stride, padding, bias, batch, seed):
    torch.manual_seed(seed)
    plain = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)
    x = torch.randn(batch, inputs, 5, 6, 7)
    expected = copy.deepcopy(plain).double()(x.double())
    fast = nn.Sequential(plain)
    convolve_directly(fast)
    assert torch.allclose(fast(x).double(), expected, atol=1e-5)
    half = nn.Sequential(copy.deepcopy(plain)).bfloat16()
    assert torch.allclose(half(x.bfloat16()).double(), expected, atol=0.1, rtol=0.05)


def test_a_decoded_clip_is_the_same_and_the_weights_too():
    torch.manual_seed(0)
    vae = cogvideox.build_vae().eval()
    names = list(vae.state_dict())
    with torch.inference_mode():
        latents = torch.randn(1, 16, 5, 8, 8)
        expected = vae.decode(latents).sample
        convolve_directly(vae)
        assert torch.allclose(vae.decode(latents).sample, expected, atol=1e-5)
    assert list(vae.state_dict()) == names


def test_padding_by_reflection_is_refused():
    with pytest.raises(ValueError, match="reflect"):
        convolve_directly(nn.Sequential(nn.Conv3d(1, 1, 3, padding=1, padding_mode="reflect")))
