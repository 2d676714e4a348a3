"""Post-training of Focal Guidance on CogVideoX: what the model is given, what is tuned, and how videos depend on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from random_testbed import CLIP, cogvideox_backbone, small_clips, untrained_guidance
from safetensors.torch import load_file, save_file

import analysis.tuning.training_loop as post_training
from analysis.study.cells import expand
from analysis.study.parameters import Sweep, load_parameters
from analysis.study.video_key import program_hash
from analysis.tuning.cogvideox import check_pipeline, draw_time, noised
from analysis.tuning.encode_clips import Shards, encode_clips
from analysis.tuning.training_loop import Tuning, tune, tuned_parameters
from analysis.tuning.tune_focal_guidance import guidances, new_projection, read_settings, section_of, tune_focal
from analysis.videos.generate import load_pipeline, sample_video
from methods import FocalGuidance
from methods.focal_anchors.pipeline_run import current_run
from methods.focal_anchors.projection import clip_hash, load_projection
from testbed import cogvideox
from testbed.models import SLOTS

WEAK = (1, 2)
SHORT = Tuning(steps=3, batch=2, lr=1e-2, warmup=0, text_dropout=0.0)
METHOD = {
    "method": "focal",
    "clip": CLIP,
    "weak": list(WEAK),
    "select": -0.25,
    "text": 1.0,
    "latent": 0.3,
    "cache": 1.0,
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A random checkpoint of four blocks, whose autoencoder scales its latents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cogvideox, "LAYERS", 4)
        build = cogvideox.build_vae
        patch.setattr(cogvideox, "build_vae", lambda: _scaled(build()))
        return cogvideox_backbone(tmp_path_factory.mktemp("cogvideox"))


def _scaled(vae):
    vae.register_to_config(scaling_factor=0.7)
    return vae


@pytest.fixture(scope="module")
def pipe(backbone):
    return load_pipeline(backbone)


@pytest.fixture(scope="module")
def full(pipe, tmp_path_factory):
    return untrained_guidance(tmp_path_factory.mktemp("start"), pipe.transformer, WEAK)


@pytest.fixture(scope="module")
def clips(pipe, full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    encode_clips(pipe, full, small_clips(), folder, slots=SLOTS, call={})
    return Shards(folder, 3, SLOTS)


def run(pipe, clips, folder, guidance, tuning=SHORT, name="run", **options):
    """(tuned tensors, losses, projection)"""
    projection = load_projection(guidance.projection, pipe.transformer, CLIP) if guidance else None
    file = folder / f"{name}.safetensors"
    tensors, losses, _ = tune(
        pipe, guidance, frozenset(WEAK), clips, tuning, file, projection=projection, **options
    )  # fmt: skip
    return tensors, losses, projection


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_the_model_is_given_what_its_pipeline_gives_it(pipe, clips):
    video, caption = small_clips().read(1)
    seen = {}
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        pipe(image=Image.fromarray(video[0]), prompt=caption, height=64, width=64, num_frames=9, num_inference_steps=1,
             guidance_scale=1.0, output_type="latent", max_sequence_length=SLOTS,
             generator=torch.Generator().manual_seed(1))  # fmt: skip
        pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        exact = 0.7 * pipe.vae.encode(pixels).latent_dist.mode().transpose(1, 2)
        empty = pipe.encode_prompt("", do_classifier_free_guidance=False, max_sequence_length=SLOTS)[0]
    handle.remove()
    clip, draw = clips[1], torch.Generator().manual_seed(0)
    time, noise = draw_time(pipe, draw), torch.randn(exact.shape)
    inputs, target = noised(pipe, clip, clip.text, time, noise)
    assert inputs.keys() | {"ofs", "attention_kwargs", "return_dict"} == seen.keys() and seen["ofs"] is None
    assert inputs["hidden_states"].shape == seen["hidden_states"].shape and 0 <= int(time) < 1000
    assert torch.equal(inputs["hidden_states"][:, :, 16:], seen["hidden_states"][:, :, 16:])
    assert (clip.condition[:, 1:] == 0).all() and (clip.condition[:, :1] != 0).any()
    assert torch.equal(inputs["encoder_hidden_states"], seen["encoder_hidden_states"])
    assert all(torch.equal(a, b) for a, b in zip(inputs["image_rotary_emb"], seen["image_rotary_emb"], strict=True))
    assert torch.equal(clips.empty.states, empty) and torch.allclose(clip.latent, exact, atol=1e-5)
    share = pipe.scheduler.alphas_cumprod[time].double()
    x, n = clip.latent.double(), noise.double()
    noisy = share.sqrt() * x + (1 - share).sqrt() * n
    assert torch.allclose(inputs["hidden_states"][:, :, :16].double(), noisy, atol=1e-5)
    assert torch.allclose(target.double(), share.sqrt() * n - (1 - share).sqrt() * x, atol=1e-5)
    assert clip.caption == caption and clip.found.words and clip.image is None


def test_only_the_joint_attention_of_weak_blocks_and_the_projection_are_tuned(pipe, clips, full, tmp_path, monkeypatch):
    chosen = tuned_parameters(pipe.transformer, frozenset(WEAK))
    assert {n.split(".attn1.")[0] for n in chosen} == {f"transformer_blocks.{i}" for i in WEAK} and len(chosen) == 24
    before = {n: p.detach().clone() for n, p in pipe.transformer.named_parameters()}
    inputs, seen = {}, []

    class Watched(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            given = [p for group in self.param_groups for p in group["params"]]
            seen.append({n for n, p in pipe.transformer.named_parameters() if p.grad is not None})
            assert len(given) in (24, 24 + 6) and all(p.grad is not None for p in given)
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    results = {}
    for name, guidance in (("control", None), ("full", full), ("off", replace(full, text=0, latent=0, cache=0))):
        notes = inputs[name] = []
        hook = lambda m, a, k, notes=notes: (  # noqa: E731
            notes.append([v.clone() for v in k.values() if torch.is_tensor(v)]) if torch.is_grad_enabled() else None
        )
        handle = pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True)
        if name == "off":
            monkeypatch.undo()  # its projection has no gradient
        results[name] = run(pipe, clips, tmp_path, guidance, name=name)
        handle.remove()
    assert seen == [set(chosen)] * 2 * SHORT.steps
    for other in ("full", "off"):
        pairs = zip(inputs["control"], inputs[other], strict=True)
        assert all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
    (control, losses, none), (tuned, guided, projection) = results["control"], results["full"]
    assert none is None and same(results["off"][0], control) and results["off"][1] == losses
    assert guided[0] == losses[0], "a projection of zero changes nothing"
    assert guided[1:] != losses[1:] and set(tuned) == set(chosen)
    assert all(not torch.equal(tuned[n], before[n]) for n in tuned)
    start = new_projection(pipe.transformer, CLIP, 0).state_dict()
    assert all(not torch.equal(v, start[n]) for n, v in projection.state_dict().items())
    after = dict(pipe.transformer.named_parameters())
    assert all(torch.equal(after[n], before[n]) and after[n].requires_grad and after[n].grad is None for n in before)


def test_the_first_pass_fills_the_cache(pipe, clips, full, tmp_path, monkeypatch):
    used, plain = [], FocalGuidance._cached

    def cached(self, context, block):
        out = plain(self, context, block)
        if torch.is_grad_enabled():
            maps = current_run(pipe).similarity_maps[self, context.step - 1]
            used.append((out is not None, set(maps), any(m.requires_grad for m in maps.values())))
        return out

    monkeypatch.setattr(FocalGuidance, "_cached", cached)
    run(pipe, clips, tmp_path, full, replace(SHORT, steps=1))
    assert used == [(True, {0, 3}, False)] * SHORT.batch * len(WEAK)


def test_dropped_captions_have_no_guidance(pipe, clips, full, tmp_path):
    tuning = replace(SHORT, text_dropout=1.0)
    guided, control = (run(pipe, clips, tmp_path, g, tuning, name=str(bool(g))) for g in (full, None))
    assert guided[1] == control[1] and same(guided[0], control[0])
    assert same(guided[2].state_dict(), new_projection(pipe.transformer, CLIP, 0).state_dict())


def test_checkpointing_changes_nothing(pipe, clips, full, tmp_path):
    plain = run(pipe, clips, tmp_path, full, name="plain")
    saved = run(pipe, clips, tmp_path, full, name="saved", checkpointing=True)
    assert plain[1] == pytest.approx(saved[1], abs=1e-5)
    saved = saved[2].state_dict()
    assert all(torch.allclose(v, saved[k], atol=1e-3) for k, v in plain[2].state_dict().items())


def test_mixed_precision_tunes_in_float32(pipe, clips, full, tmp_path):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    pipe.transformer.bfloat16()
    try:
        first = run(pipe, clips, tmp_path, full, name="first", precision="bf16")
        tuned, losses, projection = run(pipe, clips, tmp_path, full, precision="bf16")
        assert first[1] == losses, "the second variant must run in mixed precision too"
        assert all(v.dtype == torch.bfloat16 for v in tuned.values())
    finally:
        AcceleratorState._reset_state(True)
        pipe.transformer.float().load_state_dict(before)
    assert all(v.isfinite().all() for v in [*tuned.values(), *projection.parameters()])
    assert all(p.dtype == torch.float32 for p in projection.parameters())
    assert losses == pytest.approx(run(pipe, clips, tmp_path, full, name="exact")[1], rel=0.05)


def test_a_killed_run_ends_with_the_same_weights(pipe, clips, full, tmp_path, monkeypatch):
    whole = run(pipe, clips, tmp_path, full, name="whole")
    calls, plain = [], post_training.clip_loss

    def dies(*args):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second step
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(post_training, "clip_loss", dies)
        run(pipe, clips, tmp_path, full, name="killed", save_every=0)
    for name in ("killed", "whole"):
        again = run(pipe, clips, tmp_path, full, name=name)
        assert again[1] == whole[1] and same(again[0], whole[0])
        assert same(again[2].state_dict(), whole[2].state_dict())


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from safetensors.torch import save_file
sys.path.insert(0, "tests")
from test_tune_joint import CLIP, SHORT, SLOTS, WEAK, FocalGuidance, Shards, replace, run
from diffusers import CogVideoXImageToVideoPipeline
torch.set_num_threads(1)
here, checkpoint, clips, start, out = PartialState(cpu=True), *sys.argv[1:5]
pipe = CogVideoXImageToVideoPipeline.from_pretrained(checkpoint)
full = FocalGuidance(CLIP, weak=WEAK, select=-0.25, text=1.0, latent=0.3, cache=1.0, cache_threshold=-1.0, projection=start)
_, losses, projection = run(pipe, Shards(Path(clips), 3, SLOTS), Path(out), full, replace(SHORT, text_dropout=0.3))
save_file(projection.state_dict() | {"losses": torch.tensor(losses)}, Path(out) / f"process-{here.process_index}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_train_one_projection(pipe, backbone, clips, full, tmp_path):
    """Also where one of them has a dropped caption, with which the projection has no gradient."""
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    given = [backbone.checkpoint, clips.folder, full.projection, tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", tmp_path / "two.py", *given],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (load_file(tmp_path / f"process-{i}.safetensors") for i in range(2))
    assert same(first, second)
    tuning = replace(SHORT, text_dropout=0.3)
    _, losses, projection = run(pipe, clips, tmp_path, full, tuning, name="one")
    assert first.pop("losses").tolist() == pytest.approx(losses, rel=1e-4)
    assert all(torch.allclose(v, first[k], atol=1e-3) for k, v in projection.state_dict().items())
    draws = [torch.Generator().manual_seed(step * 1009 + i) for step in range(SHORT.steps) for i in range(SHORT.batch)]
    dropped = [(draw_time(pipe, d), float(torch.rand(1, generator=d)) < 0.3)[1] for d in draws]
    assert any(a != b for a, b in zip(dropped[::2], dropped[1::2], strict=True)), "choose a seed that drops one only"


# --- The command, and the videos -------------------------------------------------------------------------------------
def with_method(backbone, projection):
    parameters = load_parameters()
    sweep = Sweep(backbone="cogvideox-i2v", samples=1, seeds=[0], guidance_scale=[3.0], methods=["cog"])
    methods = {"none": [], "cog": [METHOD | {"projection": projection and str(projection)}]}
    return parameters.model_copy(
        update={"backbones": {"cogvideox-i2v": backbone}, "methods": methods, "sweeps": {"s": sweep}}
    )


def test_the_command_writes_what_a_sweep_uses(backbone, tmp_path):
    file, tuning = tmp_path / "out/full-projection.safetensors", replace(SHORT, steps=2, batch=1)
    parameters, variants = with_method(backbone, file), {"control": "none", "full": "cog"}
    with pytest.raises(ValueError, match=r"no projection at .*full-projection.*analysis tune-focal --backbone"):
        expand(parameters, "s")
    tune_focal(parameters, "cogvideox-i2v", small_clips(2), variants, tuning, tmp_path / "out", tmp_path / "work")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"control.safetensors", "full.safetensors", file.name, "losses.csv", "README.md"}
    text = (tmp_path / "out/README.md").read_text()
    assert "joint attention (`attn1`)" in text and "v-prediction" in text and "`projection`" in text
    tuned = backbone.model_copy(update={"delta": str(tmp_path / "out/full.safetensors")})
    plain, with_delta = (expand(with_method(b, file), "s")[0] for b in (backbone, tuned))
    assert plain.key != with_delta.key and plain.code == with_delta.code
    from analysis.study.benchmark_samples import load_samples

    image = parameters.benchmark.folder / load_samples(parameters.benchmark.folder)[0]["image-path"]
    video = sample_video(with_delta, tuned, image)[0]
    assert video.shape == (9, 64, 64, 3)
    tensors, notes = load_file(file), {"clip": clip_hash(CLIP)}
    save_file(tensors | {"leave.bias": tensors["leave.bias"] + 1}, file, metadata=notes | {"weights": "other"})
    with pytest.raises(ValueError, match=r"trained with other weights \(other\)"):
        expand(with_method(tuned, file), "s")
    settings = [{"method": "focal", "projection": str(file)}]
    changed = program_hash(settings, backbone.pipeline)
    save_file(tensors, file, metadata=notes)
    assert program_hash(settings, backbone.pipeline) != changed
    assert not np.array_equal(sample_video(plain, backbone, image)[0], video)


def test_what_cannot_be_tuned_is_refused(pipe, backbone, tmp_path):
    parameters = with_method(backbone, None)
    with pytest.raises(ValueError, match="needs a trained `projection`"):
        tune_focal(parameters, "cogvideox-i2v", small_clips(1), {"a": "cog"}, SHORT, tmp_path, tmp_path)
    scheduler = pipe.scheduler
    try:
        pipe.scheduler = type(scheduler).from_config(scheduler.config, prediction_type="epsilon")
        with pytest.raises(ValueError, match="prediction_type is 'epsilon'"):
            check_pipeline(pipe, 9)
    finally:
        pipe.scheduler = scheduler
    parameters = with_method(backbone, "a")
    other = METHOD | {"projection": "b", "cache": 0.0}
    parameters = parameters.model_copy(update={"methods": parameters.methods | {"other": [other]}})
    assert len(guidances(parameters, {"a": "cog", "b": "other"})) == 2  # each has a projection of its own


def test_a_backbone_can_have_settings_of_its_own():
    parameters = load_parameters()
    own = parameters.testbed["focal-wan"] | {"clips": 7}
    parameters = parameters.model_copy(update={"testbed": parameters.testbed | {"focal-cogvideox": own}})
    assert section_of(parameters, "wan-i2v") == "focal-wan" and read_settings(parameters)[0] == 1024
    assert section_of(parameters, "cogvideox-i2v") == "focal-cogvideox"
    assert read_settings(parameters, section="focal-cogvideox")[0] == 7
    with pytest.raises(ValueError, match=r"no settings testbed\.focal-ltx in params\.yaml for ltx-i2v"):
        section_of(parameters, "ltx-i2v")
