"""Attention to the words of a prompt: which keys they are in every family, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import PIPELINES, build, video

from methods import record, save_overlay
from methods.overlay import latent_frame

PROMPT = "a cat dances with a cat"


@pytest.mark.parametrize("name", PIPELINES)
def test_the_keys_of_a_word_are_where_its_text_enters(name):
    """A T5 mixes all words, so there the tokens themselves are read; a language model looks back only, so its first feature
    that another word changes is that word's."""
    pipe, inputs = build(name)
    given = []

    def note(module, args, kwargs):
        given.append(kwargs["encoder_hidden_states"])

    handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    firsts = []
    for prompt in ("a cat dances with a fox", "a cat dances with a dog"):
        given.clear()
        with record(pipe, words=True, blocks=[0]) as recording:
            video(pipe, inputs | {"prompt": prompt}, 1)
        firsts.append(given[0][-1])
        assert recording._tokens.prompt == prompt
    tokens = recording._tokens.tokens_of("dog")
    handle.remove()
    if not name.startswith(("hunyuan", "framepack", "kandinsky")):
        words = pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(prompt)["input_ids"])
        assert [words[t] for t in recording._tokens.tokens_of("cat")] == ["▁cat"]
        assert [words[t] for t in recording._tokens.tokens_of("a cat dances")] == ["▁a", "▁cat", "▁dances"]
        return
    first = int((firsts[0] != firsts[1]).any(-1).nonzero()[0])
    images = {"hunyuan-token-replace": 9, "hunyuan-latent-concat": 18}.get(name, 0)
    assert tokens[0] == first - images and len(tokens) == len("dog")


@pytest.mark.parametrize("name", ["wan2.1-i2v", "cogvideox-i2v", "hunyuan-token-replace", "hunyuan-1.5", "framepack"])
def test_maps_are_the_weights_of_the_words_keys(name):
    pipe, inputs = build(name)
    with record(pipe, words=True, groups=True) as recording:
        video(pipe, inputs | {"prompt": PROMPT}, 2)
    maps = recording.words("cat")
    assert maps.ndim == 3 and bool((maps >= 0).all()) and 0 < float(maps.mean()) < 1
    whole = sum(recording.words(word) for word in ("cat", "dances", "with"))
    table = recording.to_frame().query("branch == 'cond' or branch == 'both'")
    text = table[(table.statistic == "mass") & table.key.isin(["text", "text_padding"])]
    mass = text.groupby(["step", "block", "site", "query_frame"]).value.sum()
    assert float(whole.mean()) < float(mass.mean())
    assert torch.equal(recording.words("CAT"), maps)
    with pytest.raises(KeyError, match="'dog' is not in the prompt"):
        recording.words("dog")
    with record(pipe, words=True, blocks=[0]) as other:
        video(pipe, inputs | {"prompt": "a dog"}, 1)
        with pytest.raises(KeyError, match="not in the prompt 'a dog'"):
            other.words("cat")


def test_words_need_a_pipeline_and_a_prompt():
    pipe, inputs = build("wan2.1-i2v")
    with pytest.raises(ValueError, match="give record a pipeline"), record(pipe.transformer, words=True):
        pass
    with record(pipe, blocks=[0]) as recording:
        video(pipe, inputs, 1)
    with pytest.raises(ValueError, match=r"record\(pipe, words=True\)"):
        recording.words("cat")
    with pytest.raises(ValueError, match="one prompt at a time"), record(pipe, words=True):
        video(pipe, inputs | {"prompt": ["a cat", "a dog"], "negative_prompt": ["", ""]}, 1)


def test_an_overlay_is_red_where_the_map_is_and_a_picture_elsewhere(tmp_path):
    frames = np.full((9, 32, 48, 3), 100, np.uint8)
    maps = np.zeros((3, 4, 6))
    maps[0, 0, 0], maps[2, 3, 5] = 1.0, 0.5
    save_overlay(tmp_path / "deep" / "a.png", frames, maps, strip=3)
    strip = np.asarray(Image.open(tmp_path / "deep" / "a.png"))
    assert strip.shape == (32, 144, 3)
    assert strip[0, 0].tolist() == [224, 20, 20] and strip[-1, 47].tolist() == [100, 100, 100]
    assert strip[-1, -1].tolist() == [162, 60, 60] and strip[0, 96].tolist() == [100, 100, 100]
    save_overlay(tmp_path / "a.gif", [Image.fromarray(f) for f in frames], maps)
    assert Image.open(tmp_path / "a.gif").n_frames >= 3
    assert [latent_frame(i, 9, 3) for i in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    for bad, words in (((tmp_path / "a.bmp", frames, maps), "saved as"), ((tmp_path / "a.gif", frames, maps[0]), "rows"),
                       ((tmp_path / "a.gif", frames, -maps), "at least 0"), ((tmp_path / "a.gif", frames[..., :2], maps), "F, H, W")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            save_overlay(*bad)
