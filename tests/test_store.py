import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.scoring.score_video import load_video
from analysis.study.files import content_key, write_atomically
from analysis.study.video_files import read_video, write_video


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.integers(0, 100))
def test_videos_come_back_exactly(tmp_path_factory, frames, height, width, seed):
    video = np.random.default_rng(seed).integers(0, 256, (frames, 2 * height, 2 * width, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("v") / "a.mkv"
    write_video(path, video, 8)
    assert np.array_equal(read_video(path), video)
    first = path.read_bytes()
    write_video(path, video, 8)
    assert path.read_bytes() == first


def test_a_corrupt_video_is_named(tmp_path):
    path = tmp_path / "bad.mkv"
    path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"bad\.mkv is not a readable video"):
        read_video(path)
    good = np.zeros((5, 16, 16, 3), np.uint8)
    write_video(tmp_path / "short.mkv", good, 8)
    with pytest.raises(ValueError, match="5 frames, 17"):
        read_video(tmp_path / "short.mkv", 17)
    path.write_bytes((tmp_path / "short.mkv").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad\.mkv"):
        read_video(path, 5)


def test_a_flipped_bit_makes_a_video_corrupt(tmp_path):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "a.mkv", rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), 8)
    sound, bits = (tmp_path / "a.mkv").read_bytes(), rng.integers(0, 8, 60)
    for place, bit in zip(rng.integers(len(sound) // 10, len(sound) * 9 // 10, 60), bits, strict=True):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << bit
        (tmp_path / "a.mkv").write_bytes(damaged)
        video, problem = load_video({"key": "a", "status": "ok"}, tmp_path, 5)
        assert video is None and problem["status"] == "corrupt" and problem["reason"].startswith("a.mkv is "), problem
    (tmp_path / "a.mkv").write_bytes(sound)
    assert load_video({"key": "a", "status": "ok"}, tmp_path, 5)[1] == {}


@pytest.mark.parametrize(
    "video", [np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, video):
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mkv", video, 8)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_keys_do_not_depend_on_order():
    assert content_key({"a": 1, "b": [2.0]}) == content_key({"b": [2.0], "a": 1}) != content_key({"a": 2, "b": [2.0]})
