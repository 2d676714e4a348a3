"""The benchmark's other ways to add DyMoS's bias compute the same thing."""

import torch

from analysis.bench_attention import build, dense_mask, flex
from methods import DyMoS, steer


def test_the_compared_implementations_agree():
    grid = (3, 2, 4)
    model, inputs = build(grid, "cpu", torch.float32)
    with torch.inference_mode():
        plain = model(**inputs)[0]
        with steer(model, DyMoS(0.6, steps=1)):
            merged = model(**inputs)[0]
        for other in (dense_mask(24, 8, 0.6, "cpu", torch.float32), flex(24, 8, 0.6)):
            with other:
                assert torch.allclose(model(**inputs)[0], merged, atol=1e-5)
    assert not torch.allclose(plain, merged, atol=1e-3)
