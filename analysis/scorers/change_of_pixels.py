"""When a video first leaves its first frame, and whether it comes back to it; and whether it ever leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..scoring.objects import last_quarter, onset_and_return
from .changed_pixels import changed_shares
from .scorer import Metric, Sample, Scorer
from .video import NotScored, Video


@dataclass(frozen=True)
class ChangeOfPixels(Scorer):
    """level: grey levels, of 255, above which a pixel has changed. share: of pixels, above which a frame has changed."""

    level: int = 20
    share: float = 0.01

    name: ClassVar[str] = "change_of_pixels"
    version: ClassVar[str] = "1"
    metrics: ClassVar[dict] = {
        "still_copy_pixels": Metric(
            "", 0, 1,
            "1 if no frame has changed: if at most `share` of its pixels differ from the first frame by more than `level` grey "
            "levels in a channel, after a 5x5 mean. The mean over videos is the share of still copies. Motion of something "
            "small is not seen; a flicker of the whole picture counts as a change.",
            imitates="still copies by answers to questions (still_copy)", digits=0, proportion=True,
        ),
        "onset_pixels": Metric(
            "frames", 0, None,
            "The first frame from which on two in a row have changed; the number of frames if none. Any change counts, not "
            "the one that is asked for, and the camera's motion too.",
            imitates="onset of the asked change (onset)", digits=0,
        ),
        "onset_seconds_pixels": Metric("s", 0, None, "The time of that frame; undefined if there is none.", digits=4),
        "returned_pixels": Metric(
            "", 0, 1, "1 if it had changed and most frames of the last quarter have not.",
            imitates="return to the first frame (returned)", digits=0, proportion=True,
        ),
        "change_peak": Metric("share", 0, 1, "The largest share, over frames, of pixels that differ so from the first frame.", digits=4),
        "change_end": Metric("share", 0, 1, "The mean of that share over the last quarter.", digits=4),
    }  # fmt: skip

    def __post_init__(self):
        if not (0 <= self.level < 255 and 0 <= self.share < 1):
            raise ValueError(f"level is {self.level} and share {self.share}; 0 to 254 and 0 to below 1 are allowed")

    def score(self, video: Video, sample: Sample) -> dict:
        frames = video.at_least(4)  # a quarter is a frame
        shares = changed_shares(video, self.level)
        shown = shares > self.share
        onset, returned = onset_and_return(shown)
        if onset == len(frames):
            seconds = NotScored("undefined", "no two frames in a row have changed")
        elif video.fps is None:
            seconds = NotScored("no_input", "the frames per second are not known")
        else:
            seconds = float(video.times[onset])
        return {
            "still_copy_pixels": float(not shown.any()), "onset_pixels": float(onset), "onset_seconds_pixels": seconds,
            "returned_pixels": float(returned), "change_peak": float(shares.max()),
            "change_end": float(shares[last_quarter(len(frames))].mean()),
        }  # fmt: skip
