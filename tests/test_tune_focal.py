"""Post-training for Focal Guidance: what is tuned, that the control sees the same, and that a killed run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from random_testbed import small_clips
from safetensors.torch import load_file

import analysis.tuning.training_loop as post_training
from analysis.study.parameters import load_parameters
from analysis.study.video_files import write_video
from analysis.study.video_key import weights_hash
from analysis.tuning.encode_clips import Shards, encode_clips, from_folder, from_world
from analysis.tuning.training_loop import Tuning, order, tune, tuned_parameters, weak_blocks
from analysis.tuning.tune_focal_guidance import guidances, read_settings, tune_focal
from analysis.tuning.wan import SLOTS
from analysis.videos.generate import load_pipeline
from analysis.videos.tuned_weights import load_delta
from methods import FocalGuidance
from methods.focal_anchors.pipeline_run import current_run

CLIP, CHECKPOINT = "testbed/checkpoints/clip", "testbed/checkpoints/wan-i2v"
FULL = FocalGuidance(CLIP, weak=(2, 3), select=-0.25, text=1.0, latent=0.3, cache=1.0)
OFF = replace(FULL, text=0, latent=0, cache=0)
WEAK = frozenset(FULL.weak)
SHORT = Tuning(steps=2, batch=2, lr=1e-3, warmup=0, text_dropout=0.3)


@pytest.fixture(scope="module")
def pipe():
    pipe = WanImageToVideoPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def clips(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    encode_clips(pipe, FULL, small_clips(), folder, slots=SLOTS, call={})
    return Shards(folder, 3, SLOTS)


def run(pipe, clips, folder, guidance=FULL, tuning=SHORT, name="run", **options):
    return tune(pipe, guidance, WEAK, clips, tuning, folder / f"{name}.safetensors", **options)


# --- What the model is given -----------------------------------------------------------------------------------------
def test_encoded_clips_are_what_the_pipeline_gives_its_transformer(pipe, clips):
    video, caption = small_clips().read(1)
    seen = {}
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        pipe(image=Image.fromarray(video[0]), prompt=caption, height=64, width=64, num_frames=9, num_inference_steps=1,
             guidance_scale=1.0, output_type="latent")  # fmt: skip
        exact = pipe.vae.encode(
            torch.from_numpy(video).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        ).latent_dist.mode()
    handle.remove()
    clip, channels = clips[1], pipe.vae.config.z_dim
    assert torch.equal(clip.condition, seen["hidden_states"][:, channels:])
    assert torch.equal(clip.text.states, seen["encoder_hidden_states"]) and clip.text.states.shape[1] == SLOTS
    assert torch.equal(clip.image, seen["encoder_hidden_states_image"])
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    assert torch.allclose(clip.latent, (exact - mean) / std, atol=1e-5)
    assert clip.caption == caption and clip.found.words and len(clip.found.tokens) == len(clip.found.anchors)
    assert torch.equal(
        clips.empty.states, pipe.encode_prompt("", do_classifier_free_guidance=False, max_sequence_length=512)[0]
    )


def test_shards_that_exist_are_kept_and_processes_share_the_rest(pipe, clips, tmp_path, monkeypatch):
    whole = [clips[i] for i in range(3)]
    monkeypatch.setattr("analysis.tuning.encode_clips.SHARD", 1)
    encode_clips(pipe, FULL, small_clips(), tmp_path, slots=SLOTS, call={}, rank=1, world=2)
    assert [p.name for p in sorted(tmp_path.glob("clips-*"))] == ["clips-0001.safetensors"]
    when = (tmp_path / "clips-0001.safetensors").stat().st_mtime_ns
    encode_clips(pipe, FULL, small_clips(), tmp_path, slots=SLOTS, call={})
    assert (tmp_path / "clips-0001.safetensors").stat().st_mtime_ns == when
    again = Shards(tmp_path, 3, SLOTS)
    assert all(torch.equal(again[i].latent, clip.latent) for i, clip in enumerate(whole))
    assert all(again[i].found.tokens == clip.found.tokens for i, clip in enumerate(whole))


def test_every_epoch_shows_every_clip_once():
    tuning = replace(SHORT, batch=4, steps=9)
    seen = [i for step in range(9) for i in order(12, tuning, step)]
    assert all(sorted(seen[12 * e : 12 * e + 12]) == list(range(12)) for e in range(3))
    assert seen[:12] != seen[12:24]


# --- What is tuned ---------------------------------------------------------------------------------------------------
def test_only_the_cross_attention_of_weak_blocks_is_tuned(pipe, clips, tmp_path, monkeypatch):
    chosen = tuned_parameters(pipe.transformer, WEAK)
    assert {n.split(".attn2.")[0] for n in chosen} == {"blocks.2", "blocks.3"} and len(chosen) == 2 * 15
    before = {n: p.detach().clone() for n, p in pipe.transformer.named_parameters()}
    asked = {n: p.requires_grad for n, p in pipe.transformer.named_parameters()}
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            seen.append({n for n, p in pipe.transformer.named_parameters() if p.grad is not None})
            assert all(p.grad.abs().sum() > 0 for p in chosen.values())
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    tuned, losses, _ = run(pipe, clips, tmp_path)
    assert seen == [set(chosen)] * 2 and set(tuned) == set(chosen) and len(losses) == 2
    assert all(not torch.equal(tuned[n], before[n]) for n in tuned)
    after = dict(pipe.transformer.named_parameters())
    assert all(torch.equal(after[n], before[n]) and after[n].requires_grad == asked[n] for n in before)
    assert all(p.grad is None for p in after.values())


def test_control_and_guided_see_the_same(pipe, clips, tmp_path):
    inputs = {}

    def note(name):
        seen = inputs[name] = []

        def hook(module, args, given):
            if torch.is_grad_enabled():
                seen.append([v.clone() for v in given.values() if torch.is_tensor(v)])

        return pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True)

    results = {}
    for name, guidance in (("control", None), ("full", FULL), ("off", OFF)):
        handle = note(name)
        results[name] = run(pipe, clips, tmp_path, guidance, name=name)[:2]
        handle.remove()
    for other in ("full", "off"):
        pairs = zip(inputs["control"], inputs[other], strict=True)
        assert all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
    assert len(inputs["control"]) == SHORT.steps * SHORT.batch
    tensors, losses = results["control"]
    assert losses == results["off"][1] and all(torch.equal(v, results["off"][0][k]) for k, v in tensors.items())
    assert losses != results["full"][1]


def test_the_first_pass_fills_the_cache(pipe, clips, tmp_path, monkeypatch):
    """The maps that the weak blocks use are those of every other block at the same noise and time."""
    used, plain = [], FocalGuidance._cached

    def cached(self, context, block):
        out = plain(self, context, block)
        if torch.is_grad_enabled():
            maps = current_run(pipe).similarity_maps[self, context.step - 1]
            used.append((out, set(maps), any(m.requires_grad for m in maps.values())))
        return out

    monkeypatch.setattr(FocalGuidance, "_cached", cached)
    run(pipe, clips, tmp_path, tuning=replace(SHORT, steps=1, text_dropout=0.0))
    others = set(range(len(pipe.transformer.blocks))) - WEAK
    assert len(used) == SHORT.batch * len(WEAK)
    assert all(out is not None and (out != 0).any() and found == others and not grad for out, found, grad in used)


def test_dropped_captions_have_no_guidance(pipe, clips, tmp_path):
    tuning = replace(SHORT, steps=1, text_dropout=1.0)
    guided, control = (run(pipe, clips, tmp_path, g, tuning, name=str(bool(g))) for g in (FULL, None))
    assert guided[1] == control[1] and all(torch.equal(v, control[0][k]) for k, v in guided[0].items())


def test_checkpointing_changes_nothing(pipe, clips, tmp_path):
    plain = run(pipe, clips, tmp_path, name="plain")
    saved = run(pipe, clips, tmp_path, name="saved", checkpointing=True)
    assert plain[1] == pytest.approx(saved[1], abs=1e-7)
    assert all(torch.allclose(v, saved[0][k], atol=1e-6) for k, v in plain[0].items())
    assert not pipe.transformer.is_gradient_checkpointing


def test_mixed_precision_tunes_in_float32(pipe, clips, tmp_path):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    forward = type(pipe.transformer).forward
    try:
        tuned, losses, _ = run(pipe, clips, tmp_path, precision="bf16")
    finally:
        AcceleratorState._reset_state(True)
    assert np.isfinite(losses).all() and all(v.isfinite().all() for v in tuned.values())
    assert losses == pytest.approx(run(pipe, clips, tmp_path, name="exact")[1], rel=0.05)
    assert pipe.transformer.forward.__func__ is forward


def test_a_killed_run_ends_with_the_same_weights(pipe, clips, tmp_path, monkeypatch):
    tuning = replace(SHORT, steps=4)
    whole = run(pipe, clips, tmp_path, tuning=tuning, name="whole")
    calls, plain = [], post_training.clip_loss

    def dies(*args):
        calls.append(1)
        if len(calls) == 6:  # in the middle of the third step
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(post_training, "clip_loss", dies)
        run(pipe, clips, tmp_path, tuning=tuning, name="killed", save_every=0)
    resumed = run(pipe, clips, tmp_path, tuning=tuning, name="killed")
    assert resumed[1] == whole[1] and all(torch.equal(v, whole[0][k]) for k, v in resumed[0].items())
    assert all(
        torch.equal(v, whole[0][k]) for k, v in run(pipe, clips, tmp_path, tuning=tuning, name="whole")[0].items()
    )


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from safetensors.torch import save_file
sys.path.insert(0, "tests")
from test_tune_focal import CHECKPOINT, SHORT, FULL, WEAK, Shards, WanImageToVideoPipeline, tune
torch.set_num_threads(1)
here, clips, out = PartialState(cpu=True), Path(sys.argv[1]), Path(sys.argv[2])
pipe = WanImageToVideoPipeline.from_pretrained(CHECKPOINT)
tensors, losses, _ = tune(pipe, FULL, WEAK, Shards(clips, 3, 512), SHORT, out / "state.safetensors")
if here.is_main_process:
    save_file(tensors | {"losses": torch.tensor(losses)}, out / "two.safetensors")
"""


@pytest.mark.slow
def test_two_processes_tune_as_one_does(pipe, clips, tmp_path):
    """Also where one of them has a dropped caption, and so no first pass."""
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", tmp_path / "two.py", clips.folder, tmp_path],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    two, (one, losses, _) = load_file(tmp_path / "two.safetensors"), run(pipe, clips, tmp_path, name="one")
    assert two.pop("losses").tolist() == pytest.approx(losses, abs=1e-5)
    assert all(torch.allclose(v, two[k], atol=1e-4) for k, v in one.items())
    draws = [torch.Generator().manual_seed(step * 1009 + i) for step in range(SHORT.steps) for i in range(SHORT.batch)]
    dropped = [(torch.randn(1, generator=d), float(torch.rand(1, generator=d)) < SHORT.text_dropout)[1] for d in draws]
    assert dropped[0] != dropped[1] or dropped[2] != dropped[3], "choose a seed that drops the caption of one only"


# --- The command -----------------------------------------------------------------------------------------------------
def test_the_command_writes_deltas_that_load(tmp_path):
    parameters, variants = load_parameters(), {"control": "none", "full": "focal-full"}
    tuning = Tuning(steps=2, batch=1, lr=1e-3, warmup=0)
    table = tune_focal(parameters, "wan-i2v", from_world(2, 5), variants, tuning, tmp_path / "out", tmp_path / "work")
    assert list(table["variant"]) == ["control"] * 2 + ["full"] * 2
    backbone = parameters.backbones["wan-i2v"]
    for variant in variants:
        file = tmp_path / f"out/{variant}.safetensors"
        weights_hash("wan-i2v", backbone.model_copy(update={"delta": str(file)}))
        assert {n.split(".")[1] for n in load_file(file)} == {"0", "1", "7"}
        load_delta(load_pipeline(backbone).transformer, file)()
    text = (tmp_path / "out/README.md").read_text()
    assert "2 clips of the procedural world (seed 5)" in text and "`full.safetensors`" in text and "| minutes |" in text
    assert (tmp_path / "out/losses.csv").read_text().startswith("variant,step,loss\ncontrol,1,")


def test_variants_that_do_not_belong_together_are_named():
    parameters = load_parameters()
    assert guidances(parameters, {"a": "none", "b": "focal-full"})["a"] is None
    other = parameters.methods["focal-full"][0] | {"select": 0.1}
    parameters = parameters.model_copy(update={"methods": parameters.methods | {"other": [other]}})
    for variants, words in (
        ({"a": "gone"}, "'gone'"),
        ({"a": "dymos-1"}, "methods.dymos-1 must be one `focal`"),
        ({"a": "none"}, "found 0"),
        ({"a": "focal-full", "b": "other"}, "found 2"),
    ):
        with pytest.raises(ValueError, match=words):
            guidances(parameters, variants)
    for name, words in (("gone", "not a backbone"), ("wan-t2v", "is a WanPipeline")):
        with pytest.raises(ValueError, match=words):
            tune_focal(parameters, name, from_world(1, 0), {"b": "focal-full"}, SHORT, Path("x"), Path("x"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"steps": 0}, "steps"), ({"batch": 0}, "batch"), ({"lr": 0.0}, "lr"), ({"lr": float("nan")}, "lr"),
     ({"text_dropout": 1.5}, "text_dropout"), ({"warmup": -1}, "warmup")],
)  # fmt: skip
def test_bad_settings_are_named(changed, words):
    with pytest.raises(ValueError, match=f"{words} of the tuning"):
        replace(SHORT, **changed)


def test_a_weak_block_that_does_not_exist_is_named(pipe):
    with pytest.raises(ValueError, match="no block 40"):
        weak_blocks(pipe.transformer, replace(FULL, weak=(40,)))


def test_a_folder_of_videos_is_read_and_its_faults_are_named(tmp_path):
    backbone = load_parameters().backbones["wan-i2v"]
    video = np.random.default_rng(0).integers(0, 256, (19, 64, 64, 3)).astype(np.uint8)
    listed = tmp_path / "metadata.csv"

    def refused(text, words):
        if text is not None:
            listed.write_text(text)
        with pytest.raises(ValueError, match=words):
            from_folder(tmp_path, backbone).read(0)

    refused(None, "no .*metadata.csv: it must have the columns file_name and caption")
    refused("file_name,text\na.mkv,hello\n", "no column caption")
    refused("file_name,caption\n", "names no video")
    refused("file_name,caption\na.mkv,hello\n", "line 2: there is no file a.mkv")
    (tmp_path / "a.mkv").write_bytes(b"broken")
    refused('file_name,caption\na.mkv," "\n', "line 2: a.mkv has no caption")
    refused("file_name,caption\na.mkv,hello\n", "not a readable video")
    write_video(tmp_path / "a.mkv", video[:5], 8)
    refused(None, "a.mkv has 5 frames of 64x64 .*wanted: 17 of 64x64")
    write_video(tmp_path / "a.mkv", video[:, :32], 8)
    refused(None, "19 frames of 32x64")
    write_video(tmp_path / "a.mkv", video, 8)
    source = from_folder(tmp_path, backbone)
    got, caption = source.read(0)
    assert source.count == 1 and caption == "hello" and np.array_equal(got, video[:17])
    listed.write_text("file_name,caption\na.mkv,other\n")
    assert from_folder(tmp_path, backbone).identity != source.identity


def test_the_command_line_names_what_is_wrong(tmp_path, monkeypatch):
    from analysis.__main__ import app
    from testbed.command_line import run

    parameters = load_parameters()
    parameters.testbed["focal-wan"]["step"] = 3
    with pytest.raises(ValueError, match=r"testbed.focal-wan must have the keys .*; it has .*'step'"):
        read_settings(parameters)
    for arguments, words in (
        (["--data", str(tmp_path)], "metadata.csv"), (["--backbone", "gone"], "unknown backbone 'gone'"),
        (["--variant", "control"], "NAME=METHOD"), (["--lr", "2"], "lr of the tuning is 2.0"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["analysis", "tune-focal", *arguments])
        with pytest.raises(SystemExit) as stop:
            run(app)
        assert words in str(stop.value.code) and str(stop.value.code).startswith("error: "), stop.value.code
