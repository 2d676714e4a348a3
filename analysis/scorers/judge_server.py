"""A vision-language model behind an OpenAI-style server (vLLM, SGLang, llama.cpp, a hosted one) as a judge.

What is sent, by `send`. "images": the frames that the protocol shows, resized here, as PNG images in order; any server
that takes images understands it, but the model sees pictures and not a video. "video": the file, as vLLM takes it, with
the protocol's frame rate and pixels. vLLM thins every video to 32 frames unless it is told otherwise: recent versions
(0.18 to 0.22, by their documentation) read that from the request, others from `--media-io-kwargs '{"video":
{"num_frames": -1}}'` when they are started. A server does not say which weights it runs, so `model` and what you write
down of it are all there is.
"""

from __future__ import annotations

import base64
import json
import math
import mimetypes
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from . import judge_protocol as protocol
from .judge_protocol import Judge, Reply
from .scorer import Requires
from .video import NotScored, Video

KEY = "JUDGE_API_KEY"  # environment variable; never a parameter, which would stand in tables
LISTED = 20  # likeliest first tokens that are asked for


@dataclass(frozen=True)
class ServerJudge(Judge):
    """protocol: "log_odds" or "released". url: of the server, up to and with /v1. model: as the server calls it. send:
    "images" or "video". timeout: seconds that an answer may take. A key, if the server wants one, is in the environment
    variable JUDGE_API_KEY."""

    url: str = ""
    model: str = ""
    send: str = "images"
    timeout: float = 300.0

    name: ClassVar = "server_judge"
    version: ClassVar = "1"
    requires: ClassVar = Requires(
        {}, weights="those of the server", licence="that of the server's model, and the terms of a hosted one"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.send not in ("images", "video"):
            raise ValueError(f"send {self.send!r}; allowed are images, video")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url {self.url!r} does not begin with http:// or https://")

    def spelled(self) -> str:
        """Without the address, which changes with the machine; it stays in the key of what is kept."""
        return super(ServerJudge, replace(self, url="", timeout=300.0)).spelled()

    def available(self) -> str | None:
        """Whether it is set up; the server itself is asked with the first video."""
        if self.url and self.model:
            return None
        return f"it needs {self.name}:url=http://HOST:PORT/v1,model=NAME, of an OpenAI-style server"

    def listener(self, video: Video) -> Callable[[str], Reply]:
        media = self._video(video) if self.send == "video" else self._images(video)
        return lambda question: self._ask(question, media)

    def _images(self, video: Video) -> list[dict]:
        size = protocol.frame_size(*video.frames.shape[1:3])
        shown = video.frames[protocol.sampled_frames(len(video.frames), video.known_fps())]
        return [{"type": "image_url", "image_url": {"url": _png(frame, size)}} for frame in shown]

    def _video(self, video: Video) -> list[dict]:
        if video.path.is_dir():
            raise NotScored("no_input", "a folder of images cannot be sent as a video; use send=images")
        kind = mimetypes.guess_type(video.path.name)[0] or "video/mp4"
        data = base64.b64encode(video.path.read_bytes()).decode()
        return [{"type": "video_url", "video_url": {"url": f"data:{kind};base64,{data}"}}]

    def _ask(self, question: str, media: list[dict]) -> Reply:
        text = protocol.prompt(self.protocol, question)
        body = {
            "model": self.model, "temperature": 0, "seed": 0,
            "messages": [{"role": "user", "content": [*media, {"type": "text", "text": text}]}],
        }  # fmt: skip
        if self.send == "video":
            body["mm_processor_kwargs"] = {"fps": protocol.FPS, "max_pixels": protocol.MAX_PIXELS}
            body["media_io_kwargs"] = {"video": {"num_frames": -1, "fps": protocol.FPS}}
        if self.protocol == "log_odds":
            choice = self._post(body | {"max_tokens": 1, "logprobs": True, "top_logprobs": LISTED})
            return read_logprobs(choice)
        reply = str(self._post(body | {"max_tokens": protocol.NEW_TOKENS})["message"]["content"])
        return Reply(protocol.read_as_released(reply), words=protocol.read_by_words(reply), text=reply)

    def _post(self, body: dict) -> dict:
        """The first choice of the server's reply. Raises RuntimeError that says what the server said."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                reply = json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            raise RuntimeError(f"{url} answered {error.code}: {said}") from None
        except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
            raise RuntimeError(f"{url} gave no answer: {getattr(error, 'reason', error)}") from None
        if not reply.get("choices"):
            raise RuntimeError(f"{url} sent no choices: {str(reply)[:200]}")
        return reply["choices"][0]


def _png(frame: np.ndarray, size: tuple[int, int]) -> str:
    """A data URL of a frame, resized to (height, width)."""
    if frame.shape[:2] != size:
        larger = size[0] > frame.shape[0]
        frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)
    done, png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("the frame could not be written as PNG")
    return f"data:image/png;base64,{base64.b64encode(png.tobytes()).decode()}"


def read_logprobs(choice: dict) -> Reply:
    """The answer from the likeliest first tokens. Where only one of yes and no is among them it is the answer, and the
    log-odds have no value; where none is, the answer is unknown. Raises RuntimeError if the server sent no
    log-probabilities."""
    content = (choice.get("logprobs") or {}).get("content") or []
    if not content or not content[0].get("top_logprobs"):
        raise RuntimeError("the server sent no top_logprobs: it cannot judge by log-odds; use protocol=released")
    total = {"yes": 0.0, "no": 0.0}
    for token in content[0]["top_logprobs"]:
        word = token["token"].strip().lower()
        if word in total:
            total[word] += math.exp(token["logprob"])
    mass, text = min(1.0, total["yes"] + total["no"]), "".join(t["token"] for t in content[0]["top_logprobs"][:5])
    if not total["yes"] or not total["no"]:
        answer = next((word for word, share in total.items() if share), "unknown")
        reason = (
            f"{'yes or no' if answer == 'unknown' else 'the other word'} is not among the {LISTED} likeliest tokens"
        )
        return Reply(answer, NotScored("undefined", reason), mass, text=text)
    odds = math.log(total["yes"] / total["no"])
    return Reply("yes" if odds > 0 else "no" if odds < 0 else "unknown", odds, mass, text=text)
