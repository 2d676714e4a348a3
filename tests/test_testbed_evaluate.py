"""`python -m testbed evaluate`: adherence of a trained model before any study."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from testbed.benchmark import draw_benchmark
from testbed.evaluate import sample_all
from testbed.lineages import module_of
from testbed.models import build_clip
from testbed.world import render


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("lineage", ["wan", "cogvideox", "hunyuan"])
def test_a_model_of_every_lineage_is_evaluated(lineage, kind, tmp_path):
    """With random weights and few steps: its pipeline takes what it is called with."""
    torch.manual_seed(0)
    own, clip = module_of(lineage), build_clip().eval()
    text, plain = own.build_text_encoder().eval(), own.build_transformer(image_to_video=False)
    steered = kind == "i2v"
    build = own.image_to_video_pipeline if steered else own.text_to_video_pipeline
    transformer = own.image_to_video_from(plain) if steered else plain
    build(own.build_vae().eval(), text, transformer.eval(), clip).save_pretrained(tmp_path / f"{lineage}-{kind}")
    (tmp_path / "images").mkdir()
    samples = draw_benchmark(0, {"push": 1})
    (tmp_path / "meta.json").write_text(json.dumps([record for record, _, _ in samples]))
    for record, scene, event in samples:
        Image.fromarray(render(scene, event, executed=False, frames=1)[0]).save(tmp_path / record["image-path"])
    given = dict(samples=1, scales=[3.0], steps=2)
    sample_all(tmp_path / f"{lineage}-{kind}", tmp_path, tmp_path, **given)
    rows = pd.read_csv(tmp_path / "0.csv")
    assert list(rows["event"]) == ["push"] and list(rows["guidance"]) == [3]
