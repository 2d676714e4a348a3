"""Methods and families are found by themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import methods
from methods import AlignVid, DyMoS, FocalGuidance, LowPassGuidance
from methods.__main__ import read_arguments, read_methods
from methods.families import COGVIDEOX, FRAMEPACK, HUNYUAN, HUNYUAN15, WAN, family_of_pipeline
from methods.registry import find_methods, from_dict, to_dict

NEW = '''
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Nothing:
    """Changes nothing."""

    name: ClassVar[str] = "nothing"
    label: ClassVar[str] = "Nothing at all"

    strength: float = 1.0
'''


def test_a_new_method_is_one_new_file(tmp_path):
    """Put into a folder that the package also searches, so that the tree of the test stays as it is."""
    (tmp_path / "nothing.py").write_text(NEW)
    code = (
        f"import methods; methods.__path__.append({str(tmp_path)!r})\n"
        "from methods.registry import from_dict, to_dict\n"
        "found = from_dict({'method': 'nothing', 'strength': 2.0})\n"
        "assert to_dict(found) == {'method': 'nothing', 'strength': 2.0}, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(methods.__file__).parents[1])


def test_every_method_has_a_name_and_a_label():
    found = find_methods()
    shipped = {"alignvid": AlignVid, "dymos": DyMoS, "focal": FocalGuidance, "lowpass": LowPassGuidance}
    assert shipped.items() <= found.items()  # a further method needs no edit here
    assert len({kind.label for kind in found.values()}) == len(found)
    assert to_dict(from_dict({"method": "dymos", "gamma": 1.0}))["method"] == "dymos"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "dymo"}, "'dymo'; allowed are .*alignvid, .*dymos, .*focal, .*lowpass"),
        ({"method": "dymos"}, "dymos needs gamma"),
        ({"method": "focal", "weak": [1]}, "focal needs clip"),
        ({"method": "lowpass", "gamma": 1.0}, "lowpass has no setting 'gamma'"),
    ],
)
def test_wrong_dictionaries_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        from_dict(settings)


def test_gamma_goes_to_the_methods_that_have_one():
    assert read_methods(["dymos", "lowpass"], 0.5) == [DyMoS(0.5), LowPassGuidance()]
    with pytest.raises(ValueError, match="none of the methods given by name has a gamma"):
        read_methods(["lowpass"], 0.5)


def test_arguments_of_the_pipeline_are_read_as_json_or_text():
    assert read_arguments(["sampling_type=vanilla", "flow_shift=3.0"]) == {
        "sampling_type": "vanilla",
        "flow_shift": 3.0,
    }
    for wrong in ("sampling_type", "=vanilla", "sampling_type="):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            read_arguments([wrong])


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("WanImageToVideoPipeline", WAN), ("HunyuanVideoImageToVideoPipeline", HUNYUAN),
        ("HunyuanVideo15ImageToVideoPipeline", HUNYUAN15), ("HunyuanVideoFramepackPipeline", FRAMEPACK),
        ("CogVideoXImageToVideoPipeline", COGVIDEOX),
    ],
)  # fmt: skip
def test_the_family_of_a_pipeline(pipeline, family):
    assert family_of_pipeline(pipeline) == family


def test_an_unknown_pipeline_has_no_family():
    with pytest.raises(ValueError, match="MochiPipeline"):
        family_of_pipeline("MochiPipeline")
