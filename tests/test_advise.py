"""`python -m methods advise` and docs/which_method.md say what the committed data say."""

import re
from pathlib import Path

import pandas as pd
import pytest
from checkpoint_folders import TESTBED, without_weights

import methods
from analysis.report import advice
from analysis.study.parameters import load_parameters
from methods.__main__ import main
from methods.command_line import advise
from methods.core.step_windows import check_window

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {n: without_weights(TESTBED / n, folder / n) for n in ("wan-i2v", "wan-t2v", "cogvideox-i2v")}


@pytest.fixture
def told(models, capsys):
    def run(model, *options):
        main(["advise", models[model], *options])
        return capsys.readouterr().out

    return run


def test_the_committed_files_are_what_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    advice.write_advice(load_parameters(full=True, apart=True), tmp_path / "advice.yaml", tmp_path / "page.md")
    assert (tmp_path / "advice.yaml").read_text() == advice.ADVICE.read_text()
    assert (tmp_path / "page.md").read_text() == advice.PAGE.read_text()


def test_a_pipeline_is_told_what_it_takes_and_why_not(told):
    text = told("cogvideox-i2v", "--guidance", "6")
    assert "not here: NAG: " in text and "text cross-attention" in text and "not here: PainterI2V's amplitude" in text
    assert re.search(r"^\d+\. DyMoS: DyMoS\(1.0", text, re.M)
    unguided = told("wan-i2v", "--guidance", "1")
    assert "not here: APG: it needs guidance, which is off" in unguided and "(no unconditional pass)" in unguided
    assert "DyMoS needs a reference frame" in told("wan-t2v")
    with pytest.raises(SystemExit, match="--steps must be a whole number"):
        told("wan-i2v", "--steps", "0")


def test_windows_carry_over_to_other_numbers_of_steps(told):
    """AlignVid's first 30 % of ten steps are the same part of the noise path in fifty."""
    ten, fifty = (re.search(r"acts at noise 1 to ([\d.]+): steps 1 to (\d+) of \d+", told("wan-i2v", "--steps", n).split("AlignVid, calibrated")[1]) for n in ("10", "50"))  # fmt: skip
    assert ten[1] == fifty[1] and int(ten[2]) == 3 and 13 <= int(fifty[2]) <= 16


def test_code_can_be_run(models):
    from methods.command_line.checkpoint import open_checkpoint
    from methods.families import describe

    names = {n: getattr(methods, n) for n in methods.__all__} | {"CLIP_FOLDER": "clip"}
    checkpoint = open_checkpoint(models["wan-i2v"])
    model, (kind, noise) = describe(checkpoint.transformers["transformer"], None), advise.levels(checkpoint, 40)
    assert kind == "flow" and len(noise) == 41 and noise[0] > 0.99 and noise == sorted(noise, reverse=True)
    made = 0
    for remedy in advise.load_advice()["remedies"]:
        code = advise.code_for(remedy, kind, model)
        assert "{" not in code
        if not code.startswith("pipe("):
            built = eval(code, names)
            check_window(getattr(built, "window", "all"))
            made += 1
    assert made >= 12


def test_what_was_measured_is_told_and_ranks(told, monkeypatch):
    rows = [{"remedy": r, "guidance_scale": g, "gain": "adherence", "loss": 1.0, "reached": True, "change": c, "change low": c - 1,
             "change high": c + 1, "change p (Holm)": 0.01, "n": 200, "backbone": "wan-i2v"}
            for r, g, c in (("jpeg", 3.0, 9.0), ("noise", 3.0, 12.0), ("blur", 1.0, 30.0))]  # fmt: skip
    matched = pd.DataFrame(rows)
    content = {
        r.name: advice._found(matched, r, 1.0, load_parameters(ROOT / "params.yaml")) for r in advice.load_remedies()
    }
    data = advise.load_advice()
    new = data | {"measured": True, "remedies": [r | {"found": content[r["name"]]} for r in data["remedies"]]}
    monkeypatch.setattr(advise, "load_advice", lambda: new)
    lines = [line for line in told("wan-i2v", "--guidance", "5").splitlines() if re.match(r"\d+\. ", line)]
    assert lines[0].startswith("1. noise on the reference") and lines[1].startswith("2. JPEG")
    assert "+12.0 points of adherence (11.0 to 13.0, 200 prompts) where 1 dB" in told("wan-i2v")
    assert "**+12.0 points of adherence (11.0 to 13.0)**" in advice.page_of(new)


def test_published_numbers_are_those_of_the_table():
    published = pd.read_csv(ROOT / "papers/published.csv")
    said = advice._reported(
        published, "dymos", "table1", "Wan 2.1-14B | Baseline", "Wan 2.1-14B | Ours", "Dynamic Degree (VBench)"
    )
    assert said == "Wan 2.1-14B, Dynamic Degree (VBench): 48.7 to 54.5 in DyMoS's table 1"
    with pytest.raises(ValueError, match="has 0 cells"):
        advice._reported(published, "dymos", "table1", "Wan 2.1-14B | Baseline", "x", "Dynamic Degree (VBench)")
