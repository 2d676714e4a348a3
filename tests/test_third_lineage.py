"""The HunyuanVideo-type lineage: what it is trained on is what its pipelines compute."""

import numpy as np
import pytest
import torch
from PIL import Image

from testbed import hunyuan
from testbed.models import SLOTS, build_clip, text_half, vision_half
from testbed.train_clip import clip_pixels
from testbed.world import SIZE


@pytest.fixture(scope="module")
def third():
    torch.manual_seed(0)
    clip, llava = build_clip().eval(), hunyuan.build_text_encoder().eval()
    llava.model.vision_tower.load_state_dict(vision_half(clip).state_dict())
    plain = hunyuan.build_transformer(image_to_video=False).eval()
    return clip, llava, plain, hunyuan.image_to_video_from(plain).eval(), hunyuan.build_vae().eval()


CAPTION = "we see a red circle and a blue square. the red circle pushes the blue square."


def test_the_third_lineage_is_trained_on_what_its_pipelines_compute(third):
    clip, llava, plain, steered, vae = third
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    model = hunyuan.Denoiser(llava, steered, clip).eval()
    ids, lengths = hunyuan.tokenize([CAPTION])
    with torch.no_grad():
        seen = clip.vision_model(clip_pixels(np.array(image))[None], output_hidden_states=True).hidden_states[-2]
        pipe = hunyuan.image_to_video_pipeline(vae, llava, steered, clip)
        given = dict(prompt_template=hunyuan.PROMPT_TEMPLATE, max_sequence_length=SLOTS + 4)
        states, pooled, mask = pipe.encode_prompt(image=image, prompt=CAPTION, image_embed_interleave=4, **given)
        own, valid = model.read(ids, lengths, seen)
        n = int(valid.sum())
        assert n == int(mask.sum()) == 16 + int(lengths) and torch.equal(own[0, :n], states[0, :n])
        assert torch.equal(model.pooled(ids[:, SLOTS:]).pooler_output, pooled)
        # The negative prompt is the empty one with a black image, of which every second token is kept.
        black = Image.new("RGB", (SIZE, SIZE), 0)
        states, _, mask = pipe.encode_prompt(image=black, prompt="", **given)
        empty, none = hunyuan.tokenize([""])
        own, valid = model.read(empty, none, model.black, hunyuan.KEPT_NEGATIVE)
        assert int(valid.sum()) == int(mask.sum()) == 32
        assert torch.allclose(own[0, :32], states[0, :32], atol=1e-6)
        pipe = hunyuan.text_to_video_pipeline(vae, llava, plain, clip)
        states, _, mask = pipe.encode_prompt(
            prompt=CAPTION, prompt_template=hunyuan.TEXT_TEMPLATE, max_sequence_length=SLOTS
        )
        own, valid = model.read(ids, lengths)
        n = int(valid.sum())
        assert n == int(mask.sum()) and torch.equal(own[0, :n], states[0, :n])


def test_dropped_captions_read_a_black_image_beside_others(third):
    clip, llava, _, steered, _ = third
    model = hunyuan.Denoiser(llava, steered, clip).eval()
    ids, lengths = hunyuan.tokenize([CAPTION, ""])
    latents, times, seen = torch.randn(2, 16, 2, 8, 8), torch.tensor([300.0, 700.0]), torch.randn(2, 65, 64)
    with torch.no_grad():
        both = model(latents, times, ids, lengths, seen)
        alone = [model(latents[i : i + 1], times[i : i + 1], ids[i : i + 1], lengths[i : i + 1], seen[i : i + 1])
                 for i in (0, 1)]  # fmt: skip
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)
    assert text_half(clip).config.max_position_embeddings == 77  # as the pipeline pads to
