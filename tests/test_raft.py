"""Dynamic degree with RAFT: VBench's protocol with a flow that is known, and torchvision's network where it is installed."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_scorers import moving, video_of

from analysis.scorers import raft
from analysis.scorers.scorer import Sample, check_values
from analysis.scorers.video import NotScored


def constant_flow(pixels, seen=None):
    def flow(a, b):
        if seen is not None:
            seen.append((a, b))
        return torch.full((1, 2, *a.shape[-2:]), pixels / 2**0.5)

    return flow


def test_pairs_are_padded_and_the_fastest_twentieth_counts():
    frames, seen = moving(frames=3, height=50, width=61), []
    scores = raft.pair_scores(frames, constant_flow(7.0, seen))
    assert scores == pytest.approx([7.0, 7.0])
    a, b = seen[0]
    assert a.shape == (1, 3, 56, 64) and a.max() > 200
    assert torch.equal(a[0, :, 3:-3, 1:-2], torch.from_numpy(frames[0]).permute(2, 0, 1).float())  # InputPadder's sides
    assert torch.equal(a[0, :, 0], a[0, :, 3]) and torch.equal(a[0, :, :, -1], a[0, :, :, -3])

    def ramp(a, b):
        values = torch.zeros(1, 2, *a.shape[-2:])
        values[0, 0].flatten()[:] = torch.arange(a.shape[-2] * a.shape[-1]).float()
        return values

    top = int(56 * 64 * 0.05)
    expected = np.sort(np.arange(56 * 64))[-top:].mean()
    assert raft.pair_scores(frames[:2], ramp) == pytest.approx([expected])


def vbench_verdict(scores, height, width):
    """VBench's check_move, written out."""
    threshold, wanted, count = 6.0 * (min(height, width) / 256.0), round(4 * ((len(scores) + 1) / 16.0)), 0
    for score in scores:
        if score > threshold:
            count += 1
        if count >= wanted:
            return True
    return False


def test_the_verdict_is_vbenchs():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        n, height, width = int(rng.integers(4, 60)), *map(int, rng.integers(64, 720, 2))
        scores = rng.exponential(6 * min(height, width) / 256, n - 1)
        found = raft.dynamic(scores, height, width)
        assert found["degree"] == vbench_verdict(scores, height, width) == (found["margin"] > 1)
        seen.add(found["degree"])
    assert seen == {0.0, 1.0}


def test_the_time_base_decides_which_frames_are_compared(tmp_path, monkeypatch):
    scorer = raft.Raft()
    monkeypatch.setitem(scorer.__dict__, "flow", constant_flow(12.0))
    slow, fast = (
        video_of(tmp_path, moving(frames=33), fps=8),
        video_of(tmp_path, moving(frames=33), fps=24, name="fast.mkv"),
    )
    values = [scorer.score(v, Sample()) for v in (slow, fast)]
    for v in values:
        check_values(scorer, v)
    assert values[0]["speed_raft_torchvision"] == pytest.approx(12 / 48 * 8) == values[1]["speed_raft_torchvision"]
    assert values[0]["dynamic_degree_raft_torchvision"] == 1
    assert values[0]["dynamic_margin_raft_torchvision"] == pytest.approx(12 / (6 * 48 / 256))
    with pytest.raises(NotScored, match="4 are needed"):
        scorer.score(video_of(tmp_path, moving(frames=9), fps=24, name="short.mkv"), Sample())


def test_torchvisions_raft_is_driven_as_it_wants_to_be(tmp_path):
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", exc_type=ImportError)
    torch.manual_seed(0)
    model = optical_flow.raft_large(weights=None)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path / "raft.safetensors")
    scorer = raft.Raft(weights=str(tmp_path / "raft.safetensors"), updates=1, device="cpu")
    frames = moving(frames=4, height=128, width=136)
    assert scorer.available() is None
    values = scorer.score(video_of(tmp_path, frames), Sample())
    check_values(scorer, values)
    transforms = optical_flow.Raft_Large_Weights.C_T_V2.transforms()
    a, b = transforms(*(torch.from_numpy(f).permute(2, 0, 1)[None] for f in frames[:2]))
    with torch.no_grad():
        ours = scorer.flow(*(torch.from_numpy(f).permute(2, 0, 1)[None].float() for f in frames[:2]))
        assert torch.allclose(ours, model.eval()(a, b, num_flow_updates=1)[-1], atol=1e-3)
    assert values["dynamic_margin_raft_torchvision"] > 0
    with pytest.raises(NotScored, match="128 pixels"):
        scorer.score(video_of(tmp_path, moving(), name="small.mkv"), Sample())


def test_raft_says_which_weights_it_wants():
    flow = raft.Raft(weights="things.pth")
    assert "pip install" in flow.available() or "pickled" in flow.available()
    with pytest.raises(ValueError, match="updates is 0"):
        raft.Raft(updates=0)
