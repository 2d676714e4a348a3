"""MUSIQ-SPAQ of a video's frames, prepared as VBench does for imaging_quality: `musiq_program.py VIDEO`, JSON to
standard output.

It runs in pyiqa's environment (musiq.txt). Frames whose longer side is above 512 pixels are resized to 512, bilinear,
without antialiasing; the value is the mean over all frames, over 100. pyiqa downloads the weights when it first needs
them.
"""

import json
import sys

import cv2
import pyiqa
import torch


def main(path: str) -> None:
    """Print the score of the video at `path`, in 0..1, as JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metric = pyiqa.create_metric("musiq-spaq", device=device)
    video, scores = cv2.VideoCapture(path), []
    while True:
        there, frame = video.read()
        if not there:
            break
        frame = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None].float()
        height, width = frame.shape[-2:]
        if max(height, width) > 512:
            scale = 512.0 / max(height, width)
            size = (int(scale * height), int(scale * width))
            frame = torch.nn.functional.interpolate(frame, size, mode="bilinear", antialias=False)
        with torch.no_grad():
            scores.append(float(metric((frame / 255).to(device))))
    if not scores:
        sys.exit("no frame could be read")
    print(json.dumps({"imaging_quality_musiq_pyiqa": sum(scores) / len(scores) / 100}))


if __name__ == "__main__":
    main(sys.argv[1])
