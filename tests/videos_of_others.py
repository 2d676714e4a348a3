"""Video files as others make them: moving textures in the usual containers, ways to break them, and manifests of them."""

import csv

import av
import cv2
import numpy as np

CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9", ".mkv": "ffv1", ".avi": "mjpeg", ".gif": "gif"}
PIXELS = {"libx264": "yuv420p", "libvpx-vp9": "yuv420p", "ffv1": "bgr0", "mjpeg": "yuvj420p", "gif": "rgb8"}


def texture(height, width, seed=0, cell=8):
    """A smooth colourful picture, uint8 (H, W, 3), with detail of about `cell` px."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // cell + 2, width // cell + 2, 3))
    return (
        cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        .clip(0, 255)
        .astype(np.uint8)
    )


def panned(frames, height, width, dx=2, dy=1, seed=0):
    """A camera that moves over a texture by (dx, dy) px a frame, uint8 (T, H, W, 3)."""
    picture = texture(height + abs(dy) * frames, width + abs(dx) * frames, seed)
    return np.stack([picture[dy * t : dy * t + height, dx * t : dx * t + width] for t in range(frames)])


def noisy(video, sigma, seed=1):
    """With Gaussian noise of `sigma` grey levels, of its own in every frame."""
    return (video + np.random.default_rng(seed).normal(0, sigma, video.shape)).clip(0, 255).astype(np.uint8)


def write(path, video, fps=16, **options):
    """Encode a video as its suffix says."""
    codec = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], PIXELS[codec]
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def damaged(path, source, at=0.5, count=40):
    """A copy of `source` with bytes around a place flipped, its length unchanged."""
    data = bytearray(source.read_bytes())
    start = int(len(data) * at)
    data[start : start + count] = bytes(b ^ 0xFF for b in data[start : start + count])
    path.write_bytes(data)
    return path


def manifest(folder, rows, name="manifest.csv"):
    """Write a manifest with a line for each dictionary."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def table(path):
    """The rows of a CSV as dictionaries of text."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
