"""Files that are scored: every kind is read as others read it, broken ones are rows with a reason, manifests are checked."""

import re
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from commands import finish, start
from videos_of_others import CODECS, damaged, manifest, panned, table, texture, write

from analysis.scorers.evaluate import FIELDS
from analysis.scorers.manifest import read_manifest
from analysis.scorers.scorer import Sample
from analysis.scorers.video import NotScored, Video, load_image


@pytest.mark.parametrize("suffix", CODECS)
def test_files_of_every_kind_are_read(tmp_path, suffix):
    made = panned(17, 64, 96)
    video = Video(write(tmp_path / f"a{suffix}", made, fps=16))
    assert video.frames.shape == made.shape and video.fps == 16
    assert np.abs(video.frames.astype(int) - made).mean() < (1e-9 if suffix == ".mkv" else 20)
    assert video.times == pytest.approx(np.arange(17) / 16, abs=0.011)
    assert video.every(8).tolist() == list(range(0, 17, 2))
    if suffix in (".mp4", ".webm", ".mkv"):  # as OpenCV and so VBench reads it
        capture = cv2.VideoCapture(str(video.path))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(16)
        assert np.array_equal(video.frames[0], capture.read()[1][..., ::-1])


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1)])
def test_a_film_of_a_turned_phone_is_upright(tmp_path, matrix):
    """As OpenCV turns it; the matrix of the track's header says how, in 16.16 fixed point."""
    path = write(tmp_path / "a.mp4", panned(3, 32, 64))
    a, b, c, d = (65536 * x for x in matrix)
    before, after = (
        struct.pack(">9i", *m) for m in ((65536, 0, 0, 0, 65536, 0, 0, 0, 2**30), (a, b, 0, c, d, 0, 0, 0, 2**30))
    )
    data = path.read_bytes()
    track = data.index(before, data.index(b"tkhd"))
    path.write_bytes(data[:track] + after + data[track + len(before) :])
    assert np.array_equal(Video(path).frames[0], cv2.VideoCapture(str(path)).read()[1][..., ::-1])
    assert Video(path).frames.shape[1:3] == ((32, 64) if b == 0 else (64, 32))


def test_a_folder_of_images_is_a_video_without_a_time(tmp_path):
    made = panned(11, 24, 32)
    for t, frame in enumerate(made):
        cv2.imwrite(str(tmp_path / f"frame{t}.png"), frame[..., ::-1])  # 10 comes after 9
    (tmp_path / "notes.txt").write_text("no image")
    video = Video(tmp_path)
    assert np.array_equal(video.frames, made) and video.fps is None
    with pytest.raises(NotScored, match="state them in the manifest or with --fps"):
        video.every(8)
    assert Video(tmp_path, stated=24).every(8).tolist() == [0, 3, 6, 9]
    before = video.sha256
    (tmp_path / "frame3.png").rename(tmp_path / "frame99.png")
    assert Video(tmp_path).sha256 != before


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["0.png", "1.png", "2.png", "5.png", "6.png"], "after frame 2 comes 5: 3 is not there"),
        (["a1_000.png", "a1_008.png", "a1_024.png", "a1_032.png"], "after frame 8 comes 24: 16 is not there"),
        (["0.png", "1.jpg", "1.png"], "1.jpg and 1.png: which of them is the frame?"),
        (["00.png", "08.png", "16.png", "24.png", "31.png"], ""),  # the last of 32 frames
        (["first.png", "middle.png", "last.png"], ""),
        (["a.1.png", "a.2.png", "b.1.png", "b.7.png"], ""),
        (["5.png"], ""),
    ],
)
def test_a_folder_that_lacks_a_frame_or_has_one_twice_is_no_video(tmp_path, names, reason):
    for name in names:
        cv2.imwrite(str(tmp_path / name), texture(16, 16))
    video = Video(tmp_path)
    if not reason:
        assert len(video.frames) == len(names)
        return
    with pytest.raises(NotScored, match=re.escape(reason)) as raised:
        _ = video.frames
    assert raised.value.status == "corrupt" and video.sha256


def test_pixels_of_more_than_eight_bits_are_not_cut(tmp_path):
    picture = texture(20, 24)[..., 0]
    for name, pixels in (("a.png", picture.astype(np.uint16) * 257), ("b.png", picture)):
        cv2.imwrite(str(tmp_path / name), pixels)
        assert np.array_equal(load_image(tmp_path / name)[..., 1], picture)
    cv2.imwrite(str(tmp_path / "c.tiff"), picture / np.float32(255))
    with pytest.raises(NotScored, match="mode F, whose range is not known"):
        load_image(tmp_path / "c.tiff")


def test_a_clip_that_was_cut_without_encoding_it_anew_is_whole(tmp_path):
    """Its first five frames are in the file, before its start, as `ffmpeg -ss ... -c copy` leaves them."""
    made = write(tmp_path / "a.mp4", panned(17, 64, 96), g=17)
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(made)) as old, av.open(str(tmp_path / "cut.mp4"), "w", options=options) as new:
        stream = old.streams.video[0]
        copy, early = new.add_stream_from_template(stream), round(5 / (16 * stream.time_base))
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - early, packet.dts - early, copy
                new.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as cut:
        assert cut.streams.video[0].frames == 17
    assert np.array_equal(Video(tmp_path / "cut.mp4").frames, Video(made).frames[5:])


def test_the_stated_rate_counts_and_time_stamps_are_used(tmp_path):
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for stamp in (0, 1, 2, 8, 9):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), stamp, np.uint8), format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = Video(path)
    assert video.times == pytest.approx([0, 0.1, 0.2, 0.8, 0.9])
    assert video.resampled(5).tolist() == [0, 2, 2, 2, 3]  # what is shown at 0, 0.2, 0.4, 0.6, 0.8 s
    assert Video(path, stated=5).times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def changing_size(path):
    """An H.264 stream whose frames become larger midway."""
    with open(path, "wb") as file:
        for size in (32, 64):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width = encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 10)
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(texture(size, size), format="rgb24").reformat(format="yuv420p")
                for packet in encoder.encode(frame):
                    file.write(bytes(packet))
            for packet in encoder.encode():
                file.write(bytes(packet))
    return path.rename(path.with_suffix(".mp4"))  # the container is found by its contents


def broken(folder):
    """name -> (status, part of the reason) of files that cannot be scored."""
    good = write(folder / "good.mkv", panned(9, 48, 64))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "nothing").mkdir()
    (folder / "sizes").mkdir()
    for t, size in enumerate((20, 20, 24)):
        cv2.imwrite(str(folder / f"sizes/{t}.png"), texture(size, size))
    (folder / "image").mkdir()
    (folder / "image/0.png").write_bytes(b"\x89PNG no more")
    write(folder / "one.mp4", panned(1, 48, 64))
    damaged(folder / "bits.mkv", good)
    damaged(folder / "bits2.mkv", good)  # the same message of the decoder a second time
    (folder / "cut.mkv").write_bytes(good.read_bytes()[:-2000])
    whole = write(folder / "whole.mp4", panned(9, 48, 64)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    gif = write(folder / "whole.gif", panned(9, 48, 64)).read_bytes()
    (folder / "cut.gif").write_bytes(gif[: len(gif) // 2])
    changing_size(folder / "stream.h264")
    return {
        "empty.mp4": ("corrupt", "the file is empty"), "text.mp4": ("corrupt", "not a readable video"),
        "nothing": ("corrupt", "no image"), "sizes": ("varying_size", "frame 2 is 24x24, the first is 20x20"),
        "image": ("corrupt", "0.png is not a readable image"), "one.mp4": ("too_short", "1 frames, 2 are needed"),
        "bits.mkv": ("corrupt", "damaged: slice CRC mismatch"), "bits2.mkv": ("corrupt", "damaged: slice CRC mismatch"),
        "cut.mkv": ("corrupt", "ended prematurely"), "cut.mp4": ("corrupt", "moov atom not found"),
        "cut.gif": ("corrupt", "before its trailer"), "stream.mp4": ("varying_size", "frame 3 is 64x64"),
        "gone.mp4": ("missing", "no file gone.mp4"),
    }  # fmt: skip


def test_broken_files_are_rows_with_a_reason(tmp_path):
    """Through the command: the run goes on, its status is 1, and the second run says the same."""
    expected = broken(tmp_path)
    path = manifest(tmp_path, [{"video": name} for name in ["good.mkv", *expected]])
    arguments = ["-m", "analysis", "evaluate", str(path), "--scorers", "temporal_flickering", "sharpness", "-o",
                 "scores.csv", "--workers", "1"]  # fmt: skip
    for _ in range(2):
        status, out, err = finish(start(tmp_path, *arguments))
        assert status == 1 and "Traceback" not in err, err
        rows = table(tmp_path / "scores.csv")
        assert list(rows[0]) == list(FIELDS)
        assert [r["video"] for r in rows] == [name for name in ["good.mkv", *expected] for _ in range(3)]
        assert {r["status"] for r in rows[:3]} == {"ok"} and all(float(r["value"]) >= 0 for r in rows[:3])
        for row in rows[3:]:
            status, reason = expected[row["video"]]
            if (row["video"], row["scorer"]) == ("one.mp4", "sharpness"):  # a frame is enough for it
                assert row["status"] == "ok"
                continue
            assert row["status"] == status and reason in row["reason"] and row["value"] == "", row
        assert f"{len(expected) + 1} videos" in out and "rows corrupt" in err


def test_a_video_that_is_too_large_is_said_to_be(tmp_path):
    path = write(tmp_path / "a.mkv", panned(9, 48, 64))
    with pytest.raises(NotScored, match=r"its first \d frames take more than 5e-05 GiB"):
        _ = Video(path, limit=5e-5).frames


# The manifest


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,prompt\na.mp4,x\n", "no column 'video'; it has path, prompt"),
        ("video\n", "has no rows"),
        ("video,fps\na.mp4,fast\n", "line 2: fps is fast; a positive number"),
        ("video,fps\na.mp4,0\n", "fps is 0; a positive number"),
        ("video,questions\na.mp4,[1]\n", "a JSON list of objects"),
        ("video,questions\na.mp4,yes\n", "questions are no JSON"),
        ("video,prompt\na.mp4,x\na.mp4,y\n", "a.mp4 is in line 2 already"),
        ("video,prompt\na.mp4\n", "not as many fields"),
        ("video,prompt\n,x\n", "no video is named"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_line(tmp_path, text, what):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=what):
        read_manifest(tmp_path / "m.csv")


def test_a_manifest_is_read(tmp_path):
    (tmp_path / "m.csv").write_text(
        '\ufeffvideo,method,prompt,fps,questions,image\na.mp4,x,"A cat, running",24,"[{""question"": ""q""}]",r.png\n'
        "sub/b.mp4,y,,,,\n", encoding="utf-8",
    )  # fmt: skip
    rows, unread = read_manifest(tmp_path / "m.csv", fps=16)
    assert unread == ["method"] and [r.fps for r in rows] == [24, 16]
    assert rows[0].sample == Sample(tmp_path / "r.png", "A cat, running", None, [{"question": "q"}])
    assert rows[1].path == tmp_path / "sub/b.mp4" and rows[1].sample == Sample()
