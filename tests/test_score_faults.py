"""Scores of a sweep in which videos are missing, damaged, of another length or of another size: rows that count as wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_study import Here

from analysis.scoring.score import film_sheet, score
from analysis.study.cells import expand
from analysis.study.parameters import Sweep, load_parameters
from analysis.study.results_layout import runs_folder, sweep_folder
from analysis.study.video_files import load_reference, write_video
from analysis.videos.generate import reference_files
from analysis.videos.records import state_of, write_tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Six cells of the testbed's benchmark whose videos are still copies of their references, and where they lie."""
    monkeypatch.chdir(tmp_path)
    Path("testbed").mkdir()
    for name in ("benchmark", "checkpoints"):
        Path("testbed", name).symlink_to(ROOT / "testbed" / name)
    parameters = load_parameters(ROOT / "params.yaml")
    sweep = Sweep(backbone="wan-i2v", samples=6, seeds=[0], guidance_scale=[1.0])
    parameters = parameters.model_copy(update={"sweeps": {"few": sweep}})
    cells, folder = expand(parameters, "few"), runs_folder(parameters, "few")
    images = reference_files(parameters, "few", cells)
    for cell in cells:
        still = np.repeat(np.asarray(load_reference(images[cell.key]))[None], 17, axis=0)
        write_video(folder / f"{cell.key}.mkv", still, 8)
    write_tables(folder, [state_of(cell, folder) for cell in cells], images)
    return parameters, [folder / f"{cell.key}.mkv" for cell in cells]


def scored(parameters):
    score(parameters, "few", Here())
    return pd.read_csv(sweep_folder(parameters, "few") / "scores.csv", keep_default_na=False)


def test_a_video_that_cannot_be_scored_is_a_row_that_is_wrong(study, capsys):
    parameters, files = study
    files[0].unlink()
    files[1].write_bytes(b"no video")
    write_video(files[2], np.zeros((9, 64, 64, 3), np.uint8), 8)
    write_video(files[3], np.zeros((17, 32, 48, 3), np.uint8), 8)
    table = scored(parameters)
    assert list(table["status"]) == ["missing", "corrupt", "corrupt", "unscored", "ok", "ok"]
    assert list(table["adherence"][:4]) == [0] * 4 and list(table["macro"][:4]) == [0] * 4
    assert all(file.name in reason for file, reason in zip(files[:4], table["reason"], strict=False))
    assert "9 frames, 17 were expected" in table["reason"][2] and "64 x 64" in table["reason"][3]
    said = capsys.readouterr().err
    assert "few: 1 missing, counted as wrong: no file" in said and "few: 1 unscored, counted as wrong" in said
    sheet = np.asarray(Image.open(sweep_folder(parameters, "few") / "strips.webp"))
    assert sheet.shape == (6 * 64, 5 * 64, 3) and np.ptp(sheet[: 4 * 64].astype(int)) <= 4 < np.ptp(sheet[4 * 64 :])


def test_a_sweep_without_any_video_has_scores_too(study):
    parameters, files = study
    for file in files:
        file.unlink()
    table = scored(parameters)
    assert list(table["status"]) == ["missing"] * 6 and table["adherence"].sum() == 0
    assert (sweep_folder(parameters, "few") / "strips.webp").exists()


def test_a_folder_of_results_that_cannot_be_written_to_is_noticed_before_the_work(study, monkeypatch):
    parameters, _ = study
    monkeypatch.setattr("analysis.scoring.score.score_video", lambda *_, **__: pytest.fail("a video was scored"))
    Path("results/sweeps/wan").mkdir(parents=True)
    Path("results/sweeps/wan/few").write_text("no folder")
    with pytest.raises(ValueError, match="results/sweeps/wan/few cannot be written to"):
        score(parameters, "few", Here())


def test_film_strips_of_sound_videos_are_their_frames(study):
    parameters, files = study
    rows = [{"key": file.stem, "status": "ok"} for file in files]
    sheet = film_sheet(rows, files[0].parent, 17, (64, 64))
    assert sheet.shape == (6 * 64, 5 * 64, 3)
    first = np.asarray(load_reference(files[0]))
    assert np.array_equal(sheet[:64], np.concatenate([first] * 5, axis=1))
