import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from analysis.study.resolved_settings import write_settings

# Sweeps with the published AlignVid.
USERS = ("methods-alignvid", "methods-guided", "alignvid-guided", "attention-alignvid", "motion", "motion-guided")


def written(folder, change=None):
    """{file: text} of what the repository's params.yaml comes to after `change(content)`."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(Path("params.yaml").read_text())
    if change is not None:
        change(content)
    folder.mkdir()
    with open(folder / "params.yaml", "w") as file:
        yaml.dump(content, file)
    write_settings(folder / "params.yaml", folder / "settings")
    made = folder / "settings"
    return {p.relative_to(made).as_posix(): p.read_text() for p in made.rglob("*.json")}


def test_a_change_shows_in_the_lineages_that_it_touches_and_in_no_other(tmp_path):
    before = written(tmp_path / "before")

    def changed(name, change):
        after = written(tmp_path / name, change)
        return {file for file in before if after[file] != before[file]}

    assert changed("new", lambda c: c["methods"].update(mine=[{"method": "alg"}])) == {"small.json", "full.json"}
    assert changed("grid", lambda c: c["sweeps"]["dymos"]["methods"].append("alg")) == {
        "wan.json", "small.json", "full.json", "sweeps/wan/dymos.json",
    }  # fmt: skip
    assert changed("more", lambda c: c["sweeps"]["dymos"]["full"].update(samples=60)) == {"full.json"}
    assert changed("steps", lambda c: c["backbones"]["cogvideox-t2v"].update(steps=12)) == {
        "cogvideox.json", "small.json", "full.json", "sweeps/cogvideox/text-to-video.json",
        "sweeps/cogvideox/twin-t2v.json",
    }  # fmt: skip
    everywhere = changed("setting", lambda c: c["methods"]["alignvid"][0].update(gamma=1.7))
    sweeps = {f"sweeps/{x}/{name}.json" for x in ("wan", "cogvideox") for name in USERS}
    assert everywhere == {"wan.json", "cogvideox.json", "small.json", "full.json"} | sweeps


def test_sizes_are_those_of_the_run(tmp_path):
    files = {name: json.loads(text) for name, text in written(tmp_path / "one").items()}
    small, full = files["small.json"]["sweeps"], files["full.json"]["sweeps"]
    assert small["baseline"] | {"samples": 467} == full["baseline"] and small["baseline"]["samples"] < 467
    blur = files["wan.json"]["blur"]
    assert blur["grid"] == small["blur"] and set(blur["methods"]) == {"none"} and "blur" not in files["cogvideox.json"]


def test_a_lineage_cannot_take_the_name_of_a_size(tmp_path):
    def rename(content):
        content["backbones"]["full-i2v"] = content["backbones"]["wan-i2v"]
        content["sweeps"]["blur"]["backbone"] = "full-i2v"

    with pytest.raises(ValueError, match="'full'"):
        written(tmp_path / "one", rename)
