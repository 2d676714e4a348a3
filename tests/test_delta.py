"""Deltas: tuned tensors put over a checkpoint's, and what they do to the keys of videos."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from safetensors.torch import save_file

from analysis.study.cells import expand
from analysis.study.parameters import Sweep, load_parameters
from analysis.study.video_key import weights_hash
from analysis.videos.generate import load_pipeline, reference_files, sample_video
from analysis.videos.tuned_weights import load_delta


@pytest.fixture(scope="module")
def pipe():
    return WanImageToVideoPipeline.from_pretrained("testbed/checkpoints/wan-i2v")


def test_a_delta_is_put_on_and_taken_off(pipe, tmp_path):
    before = {n: p.detach().clone() for n, p in pipe.transformer.named_parameters()}
    name, other = "blocks.2.attn2.to_v.weight", "blocks.2.attn2.to_q.weight"
    good = {name: torch.randn_like(before[name])}
    cases = [
        ({name: torch.zeros(3, 3)}, r"to_v.weight is \(3, 3\)"),
        (good | {"blocks.99.attn2.to_v.weight": torch.zeros(1)}, "no tensor blocks.99"),
        ({}, "holds no tensors"),
    ]
    for tensors, words in cases:
        save_file(tensors, tmp_path / "d.safetensors")
        with pytest.raises(ValueError, match=words):
            load_delta(pipe.transformer, tmp_path / "d.safetensors")
        assert all(torch.equal(p, before[n]) for n, p in pipe.transformer.named_parameters())
    with pytest.raises(ValueError, match="no delta at"):
        load_delta(pipe.transformer, tmp_path / "none.safetensors")
    save_file(good, tmp_path / "d.safetensors")
    undo = load_delta(pipe.transformer, tmp_path / "d.safetensors")
    own = dict(pipe.transformer.named_parameters())
    assert torch.equal(own[name], good[name]) and torch.equal(own[other], before[other])
    undo()
    assert all(torch.equal(p, before[n]) for n, p in own.items())


def test_a_backbone_with_a_delta_has_other_keys_and_weights(tmp_path):
    parameters = load_parameters()
    plain = parameters.backbones["wan-i2v"]
    name, file = "blocks.2.attn2.to_v.weight", tmp_path / "d.safetensors"
    sweep = Sweep(backbone="wan-i2v", samples=2, seeds=[0], guidance_scale=[1.0])

    def keys(backbone):
        changed = {"backbones": {"wan-i2v": backbone}, "sweeps": {"s": sweep}}
        return [c.key for c in expand(parameters.model_copy(update=changed), "s")]

    def written(value, weights):
        save_file({name: torch.full((96, 96), value)}, file, {"weights": weights})
        return plain.model_copy(update={"delta": str(file)})

    weights = weights_hash("wan-i2v", plain)
    one, other = keys(written(0.5, weights)), keys(written(0.25, weights))
    assert not set(one) & set(other) and not set(one + other) & set(keys(plain))
    loaded = load_pipeline(written(0.25, weights)).transformer
    assert (dict(loaded.named_parameters())[name] == 0.25).all()
    load_pipeline.cache_clear()
    with pytest.raises(ValueError, match=r"backbone wan-i2v: the delta .* was tuned from other weights \(somewhere\)"):
        keys(written(0.5, "somewhere"))
    file.unlink()
    with pytest.raises(ValueError, match="backbone wan-i2v: no delta at"):
        keys(plain.model_copy(update={"delta": str(file)}))


@pytest.mark.parametrize("name", ["control", "fsg", "cache", "full"])
def test_the_shipped_deltas_belong_to_the_shipped_checkpoint(name):
    parameters = load_parameters()
    backbone = next(k for k, b in parameters.backbones.items() if b.delta and b.delta.endswith(f"/{name}.safetensors"))
    assert weights_hash(backbone, parameters.backbones[backbone]) != weights_hash(
        "wan-i2v", parameters.backbones["wan-i2v"]
    )


def test_a_delta_changes_the_video():
    parameters = load_parameters()
    videos = []
    for name in ("wan-i2v", "wan-i2v-control"):
        backbone = parameters.backbones[name].model_copy(update={"steps": 1})
        sweep = Sweep(backbone=name, samples=1, seeds=[0], guidance_scale=[1.0])
        alone = parameters.model_copy(
            update={"sweeps": {"s": sweep}, "backbones": parameters.backbones | {name: backbone}}
        )
        (cell,) = expand(alone, "s")
        videos.append(sample_video(cell, backbone, reference_files(alone, "s", [cell])[cell.key])[0])
    load_pipeline.cache_clear()
    assert videos[0].shape == videos[1].shape and (videos[0] != videos[1]).any()
