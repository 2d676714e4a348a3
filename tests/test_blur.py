import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from methods import blur_image


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 12.0), st.integers(0, 1000))
def test_equals_scipy(height, width, sigma, seed):
    image = np.random.default_rng(seed).uniform(0, 255, (3, height, width))
    expected = gaussian_filter(image, sigma, axes=(1, 2), mode="reflect", truncate=4.0)
    assert np.allclose(blur_image(torch.tensor(image), sigma).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_is_identity_and_large_is_flat(dtype):
    image = torch.rand(2, 3, 12, 20).to(dtype)
    assert blur_image(image, 0) is image
    flat = blur_image(image, 500.0)
    assert flat.dtype == dtype and flat.shape == image.shape
    mean = image.float().mean((-1, -2), keepdim=True)
    assert torch.allclose(flat.float(), mean.expand_as(flat), atol=0.02)
    assert not torch.allclose(blur_image(image, 1.0).float(), mean.expand_as(flat), atol=0.05)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_bad_sigma_is_named(sigma):
    with pytest.raises(ValueError, match=str(sigma)):
        blur_image(torch.rand(3, 8, 8), sigma)


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        blur_image(torch.zeros(3, 8, 8, dtype=torch.uint8), 1.0)
