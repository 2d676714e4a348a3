"""The few-step student and the model whose reference was noised: what they are trained towards."""

import numpy as np
import torch

from testbed.train_few_steps import euler_sampler, guided_jump, sampler_levels
from testbed.train_transformer import noised


def test_a_students_step_leads_where_the_guided_teachers_smaller_steps_do():
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    sigmas = sampler_levels(4, 3.0)[0].double()
    high, low = sigmas[[0, 1, 3]], sigmas[[1, 2, 4]]

    def velocity(z, sigma):  # with the caption, without it
        return z * sigma.view(-1, 1, 1), z.sin()

    expected = x.clone()
    for b in range(3):
        width = (high[b] - low[b]) / 4
        for i in range(4):
            sigma, z = high[b] - i * width, expected[b].clone()
            expected[b] = z - width * (z.sin() + 3 * (z * sigma - z.sin()))
    jump = guided_jump(velocity, x, high, low, scale=3.0, substeps=4)
    assert torch.allclose(x - (high - low).view(-1, 1, 1) * jump, expected, atol=1e-12)


def test_the_students_sampler_takes_eulers_steps_at_the_flows_own_noise_levels():
    sigmas, times = sampler_levels(4, 3.0)
    assert sigmas[-1] == 0 and np.allclose(sigmas[:-1], [3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25)], atol=1e-3)
    assert torch.allclose(times, 1000 * sigmas[:-1], atol=1)
    scheduler = euler_sampler(3.0)
    scheduler.set_timesteps(4)
    x = torch.randn(2, 3, 4)
    for i, t in enumerate(scheduler.timesteps):
        velocity = x.sin()
        expected = x - (sigmas[i] - sigmas[i + 1]) * velocity
        x = scheduler.step(velocity, t, x).prev_sample
        assert torch.allclose(x, expected, atol=1e-5)


def test_noise_on_the_reference_stays_on_its_first_frame_and_keeps_to_the_most():
    clean = torch.zeros(400, 4, 3, 8, 8)
    out = noised(clean, 0.6, torch.Generator().manual_seed(0))
    share = out[:, :, 0].flatten(1).std(1)
    assert torch.equal(out[:, :, 1:], clean[:, :, 1:]) and torch.equal(clean, torch.zeros_like(clean))
    assert share.max() < 0.7 and abs(float(share.mean()) - 0.3) < 0.03
    whole = noised(torch.ones(400, 4, 3, 8, 8), 0.6, torch.Generator().manual_seed(0))
    assert torch.allclose(whole[:, :, 0].flatten(1).mean(1), 1 - share, atol=0.25)
