"""Focal Guidance in joint attention: every equation against a few lines of float64, in a small random CogVideoX pipeline."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from families import make
from random_testbed import CLIP, picture, projections, spread_biases_too
from safetensors.torch import load_file, save_file
from tiny_pipelines import build
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from methods import AlignVid, DyMoS, FocalGuidance, LowPassGuidance, record, steer
from methods.focal_anchors.keywords import find_anchors, load_clip, tokens_of
from methods.focal_anchors.pipeline_run import current_run
from methods.focal_anchors.projection import AnchorProjection, clip_hash, encode_reference, sizes
from methods.registry import from_dict, to_dict
from testbed import cogvideox
from testbed.models import SLOTS

WAN = "testbed/checkpoints/wan-i2v"
PROMPT = "a yellow square and a purple circle. then the yellow square changes to cyan."
BLOCKS, WEAK, FRAME = 4, (1, 3), 64


@pytest.fixture(scope="module")
def pipe():
    """The testbed's image-to-video pipeline with random weights and four blocks, spread so that attention is not uniform."""
    torch.manual_seed(0)
    transformer = cogvideox.build_transformer(image_to_video=True)
    transformer.transformer_blocks = transformer.transformer_blocks[:BLOCKS]
    parts = cogvideox.build_vae(), cogvideox.build_text_encoder(), spread_biases_too(transformer)
    pipe = cogvideox.image_to_video_pipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def files(pipe, tmp_path_factory):
    """Files of a random projection and of one that was not trained."""
    return projections(tmp_path_factory.mktemp("projection"), pipe.transformer)[0]


def video(pipe, guidance=1.0, steps=2, prompt=PROMPT, image=None):
    with torch.no_grad():
        return pipe(
            image=image or picture(), prompt=prompt, negative_prompt="", height=64, width=64, num_frames=5,
            num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(3),
            output_type="latent", max_sequence_length=SLOTS,
        ).frames  # fmt: skip


def guidance(files, **changed):
    settings = {"weak": WEAK, "sign": 1, "select": -1.0, "projection": files["trained"]} | changed
    return FocalGuidance(CLIP, **settings)


def explicit_visual(pipe, files, found, index):
    """V_k^vis (K, C) in float64: the projection written out, then the value projection's weight alone."""
    t = {k: v.double() for k, v in load_file(files["trained"]).items()}
    x = found.anchors.double()
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = (x * t["norm.weight"] + t["norm.bias"]) @ t["enter.weight"].T + t["enter.bias"]
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    tokens = x @ t["leave.weight"].T + t["leave.bias"]
    return tokens @ pipe.transformer.transformer_blocks[index].attn1.to_v.weight.double().T


class Notes:
    """What enters each block before the guidance, the tokens that its layers see, and its attention's text tokens."""

    def __init__(self, pipe):
        self.given, self.entered, self.text = ([[] for _ in range(BLOCKS)] for _ in range(3))
        self.handles = []
        for i, block in enumerate(pipe.transformer.transformer_blocks):
            for module, notes, read in (
                (block, self.given, lambda a, k: k["hidden_states"]),
                (block.norm1, self.entered, lambda a, k: a[0]),
                (block.attn1, self.text, lambda a, k: k["encoder_hidden_states"]),
            ):
                hook = lambda m, a, k, n=notes[i], read=read: n.append(read(a, k).clone())  # noqa: E731
                self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def text_values(pipe, notes, step, index, found):
    """V_k^text (B, K, C) in float64: the value projection of the keywords' tokens that enter the attention."""
    to_v = pipe.transformer.transformer_blocks[index].attn1.to_v
    text = notes.text[index][step].double()
    features = torch.stack([text[:, list(at)].mean(1) for at in found.tokens], 1)
    return features @ to_v.weight.double().T + to_v.bias.double()


# --- The equations ---------------------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_text_values_take_up_the_anchors(pipe, files, calls, scale):
    """Eqs. 7 and 8: joint attention over the changed values, in the conditional sample only."""
    method = guidance(files, text=0.7, latent=0, cache=0)
    with Notes(pipe) as notes, steer(pipe, method):
        video(pipe, scale, steps=1)
    found = method.anchors(pipe)
    assert [c.block.index for c, _ in calls] == list(WEAK) and found.words
    for call, out in calls:
        index = call.block.index
        attention = pipe.transformer.transformer_blocks[index].attn1
        text = notes.text[index][0].double()
        plain = text @ attention.to_v.weight.double().T + attention.to_v.bias.double()
        plain = plain.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        value, visual = call.value.double(), explicit_visual(pipe, files, found, index)
        for k, at in enumerate(found.tokens):
            plain[-1, :, list(at)] += 0.7 * visual[k].unflatten(0, (attention.heads, -1))[:, None]
        assert len(value) == (2 if scale > 1 else 1) and (value[:, :, :SLOTS] - plain).abs().max() < 1e-4
        p = (call.scale * call.query.double() @ call.key.double().transpose(-1, -2)).softmax(-1)
        assert (out.double() - p @ value).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("source", "scale", "dtype"),
    [("previous", 3.0, torch.float32), ("earlier", 1.0, torch.float32), ("previous", 1.0, torch.bfloat16)],
)
def test_latents_and_cache_change_what_enters_weak_blocks(pipe, files, source, scale, dtype):
    """Eqs. 9 to 13, in the conditional sample only."""
    threshold = 0.02
    method = guidance(files, text=0, latent=0.3, cache=0.2, cache_threshold=threshold, cache_from=source)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        part.to(dtype)
    try:
        with Notes(pipe) as notes, steer(pipe, method):
            video(pipe, scale)
        found, batch = method.anchors(pipe), 2 if scale > 1 else 1
        used, weights = [], found.weights.flatten(1).double()
        weights = weights / weights.amax(1, keepdim=True)
        for step in range(2):
            for index in range(BLOCKS):
                given, entered = notes.given[index][step].double(), notes.entered[index][step].double()
                if index not in WEAK:
                    assert torch.equal(given, entered)
                    continue
                assert len(given) == batch and torch.equal(given[:-1], entered[:-1])
                visual = explicit_visual(pipe, files, found, index)
                expected = given[-1].clone()
                expected[:FRAME] += 0.3 * weights.T @ visual
                at = step - 1 if source == "previous" else step
                blocks = range(BLOCKS) if source == "previous" else range(index)
                maps = []
                for i in [i for i in blocks if i not in WEAK and at >= 0]:
                    words = text_values(pipe, notes, at, i, found)[-1]
                    maps.append(F.cosine_similarity(words[:, None], notes.entered[i][at].double()[-1][None], dim=-1))
                if maps:
                    cached = torch.stack(maps).mean(0)
                    edge = (cached - threshold).abs().amin(0) < (1e-6 if dtype == torch.float32 else 5e-3)
                    cached = torch.where(cached > threshold, cached, 0.0)
                    expected += 0.2 * cached.T @ visual
                    used.append(float((cached > 0).float().mean()))
                    expected[edge] = entered[-1][edge]  # rounding decides
                    assert edge.float().mean() < 0.6
                error = (entered[-1] - expected).abs().max() / expected.abs().max()
                assert error < (1e-5 if dtype == torch.float32 else 1e-2)
        assert used and 0 < max(used) < 1
        assert len({key[1] for key in current_run(pipe).similarity_maps}) <= 2
    finally:
        for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
            part.float()


@torch.no_grad()
def test_another_grid_and_learned_positions(tmp_path):
    """Patches of two latent pixels, 2 x 3 tokens a frame: the injection is Eq. 9's on the weights' area means."""
    pipe, inputs = build("cogvideox-i2v")
    projection = AnchorProjection(*sizes(pipe.transformer, CLIP))
    torch.nn.init.normal_(projection.leave.weight)
    file = tmp_path / "projection.safetensors"
    save_file(projection.state_dict(), file, metadata={"clip": clip_hash(CLIP)})
    method = FocalGuidance(CLIP, weak=(2,), select=-1.0, text=0, latent=0.5, cache=0, projection=str(file))
    seen, block = {}, pipe.transformer.transformer_blocks[2]
    handles = [
        block.register_forward_pre_hook(lambda m, a, k: seen.update(given=k["hidden_states"]), with_kwargs=True),
        block.norm1.register_forward_pre_hook(lambda m, a: seen.update(entered=a[0])),
    ]
    with steer(pipe, method):
        pipe(**inputs, num_inference_steps=1, output_type="latent")
    for handle in handles:
        handle.remove()
    found, change = method.anchors(pipe), (seen["entered"] - seen["given"]).double()
    assert found.words == ("a", "cat", "dances") and (change[0] == 0).all() and (change[1, 6:] == 0).all()
    thirds = found.weights.double().repeat_interleave(3, -1)  # a column of tokens covers 8 / 3 columns of patches
    weights = F.avg_pool2d(thirds[None], (4, 8))[0].flatten(1)
    visual = block.attn1.to_v.weight.double() @ projection(found.anchors).double().T
    exact = 0.5 * (visual @ (weights / weights.amax(1, keepdim=True))).T
    assert (change[1, :6] - exact).abs().max() < 1e-4 * exact.abs().max()


# --- Keywords and anchors --------------------------------------------------------------------------------------------
@torch.no_grad()
def test_anchors_are_those_of_clips_own_vision_half(pipe, files):
    """Found in the reference as the pipeline is given it, as Wan's image encoder would have them."""
    encoder = CLIPVisionModel.from_pretrained(f"{WAN}/image_encoder")
    processor = CLIPImageProcessorPil.from_pretrained(f"{WAN}/image_processor")
    pixels = processor(images=picture(), return_tensors="pt")
    patches = encoder(**pixels, output_hidden_states=True).hidden_states[-2][0]
    exact = find_anchors(
        *load_clip(CLIP), PROMPT, tokens_of(pipe.tokenizer, PROMPT), patches, sign=1, select=-1.0, region=0.5
    )
    image = pipe.video_processor.preprocess(picture(), 64, 64)
    assert torch.allclose(encode_reference(CLIP, image), patches, atol=1e-5)
    assert torch.equal(encode_reference(CLIP, image), encode_reference(CLIP, image.bfloat16()))
    for size in (64, 128):  # a larger reference is first resized to the video
        method = guidance(files, text=1.0, latent=0, cache=0)
        with steer(pipe, method):
            video(pipe, steps=1, image=picture(size))
        found = method.anchors(pipe)
        assert found.words == exact.words and found.tokens == exact.tokens
        assert torch.allclose(found.anchors, exact.anchors, atol=1e-4 if size == 64 else 0.5)


def test_clips_own_processor_is_used_without_its_crop(tmp_path, pipe):
    processor = CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_center_crop=True)
    shutil.copytree(CLIP, tmp_path, dirs_exist_ok=True)
    processor.save_pretrained(tmp_path)
    image, (clip, _) = torch.rand(1, 3, 64, 64) * 2 - 1, load_clip(CLIP)
    image = ((image + 1) * 127.5).round() / 127.5 - 1
    with torch.no_grad():
        exact = clip.vision_model(image, output_hidden_states=True).hidden_states[-2][0]
    assert torch.allclose(encode_reference(str(tmp_path), image), exact, atol=1e-4)


def test_words_behind_the_last_text_token_are_ignored(pipe, files):
    method = guidance(files)
    long = "a yellow square. " * 8 + "a purple circle."
    with steer(pipe, method):
        assert video(pipe, 3.0, prompt=long).isfinite().all()
    found = method.anchors(pipe)
    assert set(found.words) == {"a", "yellow", "square"}
    assert max(i for at in found.tokens for i in at) < SLOTS - 1  # the last one ends the text


# --- The whole method ------------------------------------------------------------------------------------------------
def test_what_is_neutral_changes_no_bit_and_nothing_stays_behind(pipe, files):
    names = {n: set(m.__dict__) for n, m in pipe.transformer.named_modules()}
    plain, guided = video(pipe), video(pipe, 3.0)
    for neutral in ({"text": 0, "latent": 0, "cache": 0}, {"projection": files["zero"], "cache": 1.0}):
        with steer(pipe, guidance(files, **neutral)):
            assert torch.equal(video(pipe), plain) and torch.equal(video(pipe, 3.0), guided)
    for part in ({"text": 0.5}, {"latent": 0.2}, {"cache": 0.2}):
        with steer(pipe, guidance(files, **({"text": 0, "latent": 0, "cache": 0} | part))):
            changed = video(pipe, 3.0)
            assert changed.isfinite().all() and not torch.equal(changed, guided)
    assert torch.equal(video(pipe), plain)
    assert {n: set(m.__dict__) for n, m in pipe.transformer.named_modules()} == names
    assert not {"encode_prompt", "prepare_latents"} & set(vars(pipe))


@pytest.mark.parametrize("first", [True, False])
def test_it_composes_and_is_recorded(pipe, files, first):
    focal = guidance(files)
    others = [AlignVid(1.35, window="all", blocks="all"), DyMoS(0.6, window=(0, 0.5))]
    others.append(LowPassGuidance(window="all", space="image"))
    methods = [focal, *others] if first else [*others, focal]
    with steer(pipe, *methods), record(pipe, queries=2) as recording:
        together = video(pipe, 3.0)
    sharp = focal.anchors(pipe)
    with steer(pipe, *others):
        assert not torch.equal(video(pipe, 3.0), together)
    assert together.isfinite().all() and len(recording.to_frame())
    with steer(pipe, focal):
        video(pipe, 3.0)
    assert torch.equal(focal.anchors(pipe).anchors, sharp.anchors)  # not those of a filtered image


def test_an_offloaded_transformer_is_guided_alike(pipe, files):
    """Weights that are there only while their module runs, as with enable_sequential_cpu_offload."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    method, before = guidance(files), {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    with steer(pipe, method):
        plain = video(pipe, 3.0)
    cpu_offload(pipe.transformer, "cpu")
    try:
        with steer(pipe, method):
            assert torch.equal(video(pipe, 3.0), plain)
    finally:
        remove_hook_from_submodules(pipe.transformer)
        pipe.transformer.load_state_dict(before, assign=True)


def test_a_prompt_without_keywords_warns_and_changes_nothing(pipe, files):
    plain = video(pipe)
    with steer(pipe, guidance(files, select=0.999)), pytest.warns(UserWarning, match=r"above 0\.999"):
        assert torch.equal(video(pipe), plain)


# --- Refusals --------------------------------------------------------------------------------------------------------
def test_what_it_cannot_work_with_is_refused(pipe, files, tmp_path):
    def saved(tensors, clip=None):
        save_file(tensors, tmp_path / "p.safetensors", metadata={"clip": clip or clip_hash(CLIP)})
        return str(tmp_path / "p.safetensors")

    def refused(method, words, target=pipe):
        with pytest.raises(ValueError, match=words), steer(target, method):
            pass

    good = load_file(files["trained"])
    refused(guidance(files, projection=None), "needs a trained `projection`.*analysis tune-focal")
    refused(guidance(files, projection="gone.safetensors"), "no projection at gone.safetensors; train one with")
    refused(guidance(files, projection=saved({"x": torch.zeros(1)})), "holds no projection")
    refused(guidance(files, projection=saved(AnchorProjection(64, 32).state_dict())), "tokens of 96 features")
    refused(guidance(files, projection=saved(good, "other")), "another CLIP model than testbed/checkpoints/clip")
    refused(guidance(files, weak=(40,)), "no block 40")
    refused(guidance(files), "steer a pipeline", pipe.transformer)
    refused(guidance(files), "Wan 2.1 projects the anchors itself", make("wan2.1-i2v")[0])
    refused(guidance(files), "not this CogVideoX", make("cogvideox-t2v")[0])
    with steer(pipe, guidance(files)), pytest.raises(ValueError, match="one video at a time"):
        video(pipe, prompt=[PROMPT, PROMPT])
    method = replace(guidance(files), projection=files["zero"])
    assert from_dict(to_dict(method)) == method
