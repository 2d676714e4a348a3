"""Where results lie: one folder per lineage and study, and nothing in git that the layout does not know."""

import subprocess
import zlib
from pathlib import Path

import pandas as pd
import pytest

from analysis.report.score_tables import NoTables, autoencoder_table, gather, study_table, sweep_table
from analysis.study.parameters import load_parameters, sweeps_by_backbone
from analysis.study.results_layout import (
    ATTENTION_STUDIES,
    FULL,
    SCORES,
    STRIPS,
    attention_study_folder,
    claims_folder,
    lineage_of,
    notebook_folder,
    other_runs_folder,
    runs_folder,
    study_of,
    sweep_folder,
)

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")


def test_one_study_has_one_name_on_every_lineage():
    assert sweep_folder(PARAMETERS, "cogvideox-blur") == Path("results/sweeps/cogvideox/blur")
    assert sweep_folder(PARAMETERS, "blur", FULL) == Path("results/full/sweeps/wan/blur")
    assert sweep_folder(PARAMETERS, "focal-ablation-full") == Path("results/sweeps/wan/focal-ablation-full")
    assert lineage_of("cogvideox-i2v-tuned-fsg") == "cogvideox" and study_of("wan-blur", "wan") == "blur"
    assert sweeps_by_backbone(PARAMETERS, "blur") == {"wan-i2v": "blur", "cogvideox-i2v": "cogvideox-blur"}


def test_videos_of_both_sizes_have_folders_of_their_own():
    full = load_parameters(ROOT / "params.yaml", full=True)
    assert runs_folder(PARAMETERS, "blur") == Path("runs/wan/blur") == other_runs_folder(full, "blur")
    assert runs_folder(full, "blur") == Path("runs/full/wan/blur") == other_runs_folder(PARAMETERS, "blur")


def test_two_sweeps_may_not_share_a_folder():
    sweeps = PARAMETERS.sweeps | {"wan-blur": PARAMETERS.sweeps["blur"]}
    with pytest.raises(ValueError, match=r"sweeps\.wan-blur and sweeps\.blur would share the folder wan/blur"):
        type(PARAMETERS).model_validate(
            PARAMETERS.model_dump() | {"sweeps": {k: s.model_dump() for k, s in sweeps.items()}}
        )


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown sweep 'no-such'"):
        sweep_folder(PARAMETERS, "no-such")
    with pytest.raises(ValueError, match="unknown study 'no-such'; there are"):
        attention_study_folder("no-such", "wan-i2v")


def test_missing_tables_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(NoTables, match=r"sweeps/wan/blur/scores\.csv.*python -m analysis score blur"):
        sweep_table(PARAMETERS, "blur", results=tmp_path)
    with pytest.raises(NoTables, match="python -m analysis score attention-blur"):
        sweep_table(PARAMETERS, "attention-blur", "attention-cells.csv", tmp_path)
    with pytest.raises(NoTables, match="python -m analysis foreground --backbone wan-i2v"):
        study_table("foreground", "wan-i2v", "ratios", tmp_path)
    with pytest.raises(NoTables, match=r"no sweep has a scores\.csv"):
        gather(PARAMETERS, tmp_path)


def test_committed_tables_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(gather(PARAMETERS)["sweep"]) == {name for name, sweep in PARAMETERS.sweeps.items() if not sweep.apart}
    assert len(gather(PARAMETERS, FULL)) > 20 * len(gather(PARAMETERS))
    for backbone in ("wan-i2v", "cogvideox-i2v"):
        assert len(autoencoder_table(backbone)) and len(study_table("semantic-layers", backbone, "layers"))


def test_every_tracked_result_has_a_place():
    """What stands under results/ is a sweep's, a notebook's, a study's or the claims': nothing is left of an older layout."""
    notebooks = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    known = {sweep_folder(PARAMETERS, name, r) for name in PARAMETERS.sweeps for r in ("results", FULL)}
    known |= {notebook_folder(name, r) for name in notebooks for r in ("results", FULL)}
    known |= {claims_folder(r) for r in ("results", FULL)} | {Path("results/autoencoder"), Path("results/bench")}
    known |= {Path("results/instruments"), Path("results/passes")}
    known |= {attention_study_folder(s, b) for s in ATTENTION_STUDIES for b in PARAMETERS.backbones}
    alone = {FULL / "README.md", FULL / "verified.csv", Path("results/readme.png")}
    found = {p.relative_to(ROOT) for p in (ROOT / "results").rglob("*") if p.is_file()}
    assert {p.parent for p in found - alone} <= known


def test_small_sweeps_have_film_strips_of_their_videos():
    for name in PARAMETERS.sweeps:
        folder = ROOT / sweep_folder(PARAMETERS, name)
        assert (folder / STRIPS).is_file() and len(pd.read_csv(folder / SCORES)), name


BUDGET = 15e6  # bytes that a complete remake of all results adds to a clone


def test_a_remake_of_all_results_adds_little_to_a_clone():
    """Git stores every changed file anew, compressed: this is what a clone grows by if all of them change."""
    names = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True).stdout
    sizes = {name: len(zlib.compress((ROOT / name).read_bytes())) for name in names.split("\0") if name}
    largest = sorted(sizes, key=sizes.get)[-5:]
    assert sizes and sum(sizes.values()) <= BUDGET, f"{sum(sizes.values()) / 1e6:.1f} MB; the largest are {largest}"
