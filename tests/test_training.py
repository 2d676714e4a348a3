from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import kstest, uniform
from torch import nn
from transformers import T5EncoderModel

from testbed import cogvideox, wan
from testbed.folding import folded_padding, padding_bias
from testbed.latents import tokenize
from testbed.lineages import module_of
from testbed.models import SLOTS, build_clip_tokenizer, build_tokenizer
from testbed.muon import Muon, muon_and_adamw, orthogonalise
from testbed.train_text import IGNORED, QUESTIONS, Reader, answers
from testbed.train_vae import with_noise
from testbed.trainer import fit, replace_folder
from testbed.world import EVENTS, caption, generator, sample_scene, training_clip

ROOT = Path(__file__).parents[1]


def randomised(model, seed=0):
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.05)
    return model.eval()


@pytest.mark.parametrize("image_to_video", [False, True])
def test_folded_padding_equals_512_tokens(image_to_video):
    model = randomised(wan.build_transformer(image_to_video=image_to_video))
    lengths = torch.tensor([5, 23])
    text = torch.randn(2, SLOTS, model.config.text_dim)
    text[0, 5:], text[1, 23:] = 0, 0
    full = torch.cat([text, torch.zeros(2, 512 - SLOTS, model.config.text_dim)], dim=1)
    x, t = torch.randn(2, model.config.in_channels, 2, 4, 6), torch.tensor([500.0, 20.0])
    image = torch.randn(2, 65, 64) if image_to_video else None
    processors = [block.attn2.processor for block in model.blocks]
    with torch.no_grad():
        expected = model(x, t, full, encoder_hidden_states_image=image, return_dict=False)[0]
        with folded_padding(model, lengths, SLOTS):
            folded = model(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0]
    assert (folded - expected).abs().max() < 1e-5 * expected.abs().max()
    assert [block.attn2.processor for block in model.blocks] == processors


@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 10_000))
def test_padding_bias_against_an_explicit_softmax(length, padding, seed):
    rng = np.random.default_rng(seed)
    words, pad = rng.normal(size=length) * 3, rng.normal() * 3
    logits = np.concatenate([words, np.full(padding, pad)])
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    bias = padding_bias(torch.tensor([length]), 21, length + padding)[0, 0, 0].double().numpy()
    folded = np.concatenate([words, np.full(21 - length, pad)]) + bias
    weights = np.exp(folded - folded.max()) / np.exp(folded - folded.max()).sum()
    assert np.allclose(weights[:length], expected[:length], rtol=1e-5)
    assert weights[length] == pytest.approx(expected[length:].sum(), rel=1e-5)


def test_a_caption_without_room_for_padding_is_refused():
    with pytest.raises(ValueError, match="24"):
        padding_bias(torch.tensor([24]), 24)


def test_wan_image_to_video_starts_as_its_text_to_video_model():
    source = randomised(wan.build_transformer(image_to_video=False))
    tuned = wan.image_to_video_from(source).eval()
    x, t, text = torch.randn(1, 36, 2, 4, 4), torch.tensor([300.0]), torch.randn(1, 512, 96)
    with torch.no_grad():
        a = source(x[:, :16], t, text, return_dict=False)[0]
        b = tuned(x, t, text, encoder_hidden_states_image=torch.randn(1, 65, 64), return_dict=False)[0]
    # The image values' biases are zero too, so the image branch adds nothing.
    assert torch.allclose(a, b, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_orthogonalise_brings_singular_values_near_one(rows, columns, seed):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    v, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    k = min(rows, columns)
    matrix = (u[:, :k] * rng.uniform(0.5, 1, k)) @ v[:, :k].T
    values = np.linalg.svd(orthogonalise(torch.tensor(matrix)).numpy(), compute_uv=False)
    assert values.min() > 0.3 and values.max() < 1.4


def test_muon_takes_kernels_and_lowers_a_loss():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3)
    x, y = torch.randn(16, 4, 6, 6), torch.randn(16, 8, 4, 4)
    optimizer = Muon([layer.weight], lr=0.02)
    losses = []
    for _ in range(30):
        loss = (layer(x) - y).square().mean()
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def run_fit(folder, steps, stop_at=None):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("blocks", nn.Linear(12, 12))
    model.add_module("head", nn.Linear(12, 3))

    def loss(step):
        if step == stop_at:
            raise KeyboardInterrupt
        g = torch.Generator().manual_seed(step)
        return (model(torch.randn(8, 12, generator=g)) - torch.randn(8, 3, generator=g)).square().mean()

    return fit(
        "s",
        folder,
        model,
        loss,
        muon_and_adamw(model, 0.01, 0.01),
        steps,
        ema_decay=0.9,
        snapshots=2,
        checkpoint_every=0.0,
    )


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = run_fit(tmp_path / "a", 12)
    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "b", 12, stop_at=7)
    resumed = run_fit(tmp_path / "b", 12)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    kept = sorted(p.name for p in (tmp_path / "b" / "snapshots").iterdir())
    assert kept == ["s-0000006.safetensors", "s-0000012.safetensors"]
    assert all(torch.equal(v, whole[k]) for k, v in load_file(tmp_path / "b" / "snapshots" / kept[1]).items())


def test_cogvideox_image_to_video_starts_as_its_text_to_video_model():
    source = randomised(cogvideox.build_transformer(image_to_video=False))
    tuned = cogvideox.image_to_video_from(source).eval()
    encoder, ids = randomised(cogvideox.build_text_encoder()), tokenize(["a red circle."])[0]
    x, t = torch.randn(1, 32, 2, 8, 8), torch.tensor([300])
    with torch.no_grad():
        a = cogvideox.Denoiser(encoder, source)(x[:, :16], t, ids)
        b = cogvideox.Denoiser(encoder, tuned)(x, t, ids)
    assert torch.equal(a, b)


def test_condition_channels_mark_the_reference_as_the_pipelines_do():
    condition = torch.randn(2, 16, 5, 8, 8)
    out = wan.condition_channels(condition, [0, 4])
    assert out.shape == (2, 20, 2, 8, 8) and torch.equal(out[:, 4:], condition[:, :, [0, 4]])
    assert (out[:, :4, 0] == 1).all() and (out[:, :4, 1:] == 0).all()
    out = cogvideox.condition_channels(condition[:, :, :1], [0, 1, 2])
    assert out.shape == (2, 16, 3, 8, 8) and torch.equal(out[:, :, :1], condition[:, :, :1])
    assert (out[:, :, 1:] == 0).all()


@pytest.mark.parametrize(("lineage", "error"), [(wan, 2e-2), (cogvideox, 1e-4)])  # UniPC starts just below pure noise
def test_a_perfect_model_brings_the_sampler_back_to_the_clean_latents(lineage, error):
    """The noise, the target and the timesteps of training are those of the pipeline's scheduler: stepping with the true
    target from any timestep on ends at the clean latents."""
    torch.manual_seed(0)
    clean, noise = torch.randn(1, 16, 5, 8, 8), torch.randn(1, 16, 5, 8, 8)
    scheduler = lineage.build_scheduler()
    scheduler.set_timesteps(10)  # divides the 1000 timesteps, else CogVideoX rounds them
    x = lineage.diffuse(clean, noise, scheduler.timesteps[:1])[0]
    for t in scheduler.timesteps:
        target = lineage.diffuse(clean, noise, t[None])[1]
        x = scheduler.step(target, t, x, return_dict=False)[0]
    assert (x - clean).abs().max() < error


@pytest.mark.parametrize("lineage", [wan, cogvideox])
def test_timesteps_lie_in_the_schedule_and_lean_towards_noise(lineage):
    t = lineage.sample_timesteps(torch.Generator().manual_seed(0), 10_000)
    assert t.min() >= 0 and t.max() < 1000
    clean, noise = torch.ones(10_000, 1, 1, 1, 1), torch.zeros(10_000, 1, 1, 1, 1)
    assert 0.2 < lineage.diffuse(clean, noise, t)[0].median() < 0.5  # the signal's share


def test_cogvideox_trains_on_what_its_pipeline_calls():
    """The denoiser of the training computes what the pipeline asks of the transformer at the same step."""
    torch.manual_seed(0)
    vae = cogvideox.build_vae().eval()
    encoder = randomised(cogvideox.build_text_encoder())
    transformer = randomised(cogvideox.build_transformer(image_to_video=True))
    pipe = cogvideox.image_to_video_pipeline(vae, encoder, transformer)
    pipe.set_progress_bar_config(disable=True)
    seen = []
    transformer.register_forward_hook(lambda _, args, kwargs, out: seen.append((kwargs, out[0])), with_kwargs=True)
    prompt = "a red circle. nothing happens."
    with torch.no_grad():
        image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
        pipe(image, prompt, height=64, width=64, num_frames=17, num_inference_steps=1, guidance_scale=1.0,
             max_sequence_length=SLOTS, output_type="latent")  # fmt: skip
        kwargs, out = seen[0]
        ids, _ = tokenize([prompt])
        mine = cogvideox.Denoiser(encoder, transformer)(
            kwargs["hidden_states"].transpose(1, 2), kwargs["timestep"], ids
        )
    assert torch.allclose(mine.transpose(1, 2), out, atol=1e-6)


def test_noise_on_latents_has_a_strength_of_its_own_in_each_clip():
    latents = torch.zeros(400, 16, 2, 4, 4)
    noise = with_noise(latents, torch.tensor(0.6), torch.Generator().manual_seed(0))
    strengths = noise.std((1, 2, 3, 4))
    assert kstest(strengths.numpy(), uniform(0, 0.6).cdf).pvalue > 0.01
    assert torch.equal(noise, with_noise(latents, torch.tensor(0.6), torch.Generator().manual_seed(0)))


@given(st.integers(0, 100_000))
def test_what_the_text_encoder_is_asked_is_what_the_caption_says(index):
    clip = training_clip(index, seed=3)
    kind, colour, shape, direction = (
        None if i == IGNORED else options[i] for i, options in zip(answers(clip), QUESTIONS.values(), strict=True)
    )
    happens = clip.caption.split(". ")[1]
    assert kind == clip.event.kind
    assert (direction is not None) == (kind == "move")
    for word in (colour, shape, direction):
        assert word is None or word in happens
    assert (colour is None) == (kind == "nothing")


def test_a_reader_is_asked_about_words_with_a_word_on_either_side():
    reader = Reader(cogvideox.build_text_encoder())
    ids, lengths = tokenize(["a red square. nothing happens"])
    labels = torch.full((1, 4), IGNORED)
    labels[0, 0] = EVENTS.index("nothing")
    for head in (reader.before, reader.behind, *reader.happens.values()):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    with torch.no_grad():  # uniform answers: the logarithm of the number of choices, twice of words and once of events
        loss = reader.loss(ids, lengths, labels)
        padded = reader.loss(ids, torch.full_like(lengths, ids.shape[1]), labels)
    words = len(build_tokenizer())
    assert loss == pytest.approx(2 * np.log(words) + np.log(len(EVENTS)), rel=1e-5) and padded == pytest.approx(loss)
    reader.before.bias.data[0] = 20.0  # a reader that always says padding is right only where it is not asked
    assert reader.loss(ids, lengths, labels) > reader.loss(ids, torch.full_like(lengths, ids.shape[1]), labels)


def test_the_text_encoder_tells_which_shape_the_event_is_about():
    encoder = T5EncoderModel.from_pretrained(ROOT / "testbed/checkpoints/cogvideox-i2v/text_encoder").eval()
    clips = [c for c in (training_clip(i, seed=77) for i in range(700)) if c.event.kind != "nothing"][:600]
    with torch.no_grad():
        states = encoder(tokenize([c.caption for c in clips])[0]).last_hidden_state.mean(1)
    inputs = torch.cat([states, torch.ones(len(states), 1)], dim=1).double()
    asked = torch.tensor([answers(c)[2] for c in clips])
    weights = torch.linalg.lstsq(inputs[:400], nn.functional.one_hot(asked[:400], 3).double()).solution
    assert ((inputs[400:] @ weights).argmax(1) == asked[400:]).double().mean() > 0.95


def test_frozen_parameters_are_not_optimised():
    model = cogvideox.Denoiser(cogvideox.build_text_encoder(), cogvideox.build_transformer(image_to_video=False))
    model.text_encoder.requires_grad_(False)
    taken = {id(p) for o in muon_and_adamw(model, 1e-3, 1e-3) for g in o.param_groups for p in g["params"]}
    assert taken == {id(p) for p in model.transformer.parameters()}


def test_an_unknown_lineage_is_named():
    with pytest.raises(ValueError, match=r"'sora'.*wan.*cogvideox"):
        module_of("sora")


def test_tokenizers_know_every_word():
    tokenizer, clip = build_tokenizer(), build_clip_tokenizer()
    for i in range(60):
        scene, event = sample_scene(generator("tokens", i), EVENTS[i % 5])
        text = caption(scene, event, generator("t", i))
        words = text.replace(".", " .").split()
        assert [p.lstrip("▁") for p in tokenizer.tokenize(text)] == words
        assert "".join(clip.tokenize(text)).split("</w>")[:-1] == words
        assert len(clip(text).input_ids) <= clip.model_max_length
        ids, lengths = tokenize([text])
        assert lengths[0] == len(words) + 1 < SLOTS


def test_text_encoder_ignores_padding():
    encoder = randomised(wan.build_text_encoder())
    ids, lengths = tokenize(["a red circle. nothing happens."])
    n = int(lengths[0])
    with torch.no_grad():
        short = encoder(ids[:, :n], torch.ones(1, n).long()).last_hidden_state
        padded = encoder(ids, (torch.arange(SLOTS) < n)[None].long()).last_hidden_state[:, :n]
    assert torch.allclose(short, padded, atol=1e-5)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"

    def save(folder, content):
        folder.mkdir()
        (folder / "a").write_text(content)
        if content == "half":
            raise OSError

    replace_folder(target, lambda folder: save(folder, "old"))
    with pytest.raises(OSError):
        replace_folder(target, lambda folder: save(folder, "half"))
    assert (target / "a").read_text() == "old"
    replace_folder(target, lambda folder: save(folder, "new"))
    assert (target / "a").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["model"]
