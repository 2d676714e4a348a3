"""Judges: what they are shown, how replies are read, and what is kept; a tiny random Qwen2.5-VL, and a server in a
thread."""

import base64
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tiny_scorers import moving, tiny_qwen, video_of
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from analysis.scorers import judge_protocol as protocol
from analysis.scorers.evaluate import Settings, evaluate
from analysis.scorers.judge_server import ServerJudge, read_logprobs
from analysis.scorers.manifest import Row
from analysis.scorers.qwen_judge import QwenJudge, model_inputs, patches, read_logits, word_tokens
from analysis.scorers.registry import make_scorer
from analysis.scorers.scorer import Sample, check_values
from analysis.scorers.video import NotScored, Video

QUESTIONS = [
    {"id": "a", "question": "Does the cat jump?", "expected_answer": "Yes"},
    {"id": "b", "question": "Is the dog still there?", "expected_answer": "no"},
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return tiny_qwen(tmp_path_factory.mktemp("qwen"))


def judge(qwen, **settings):
    return QwenJudge(model=str(qwen), dtype="float32", device="cpu", **settings)


# What is shown and asked -------------------------------------------------------------------------------------------------


def test_frames_are_picked_as_qwen_vl_utils_does():
    # (frames, frames a second) -> how many are shown; values of qwen_vl_utils.vision_process.smart_nframes, 0.0.14
    for (count, fps), shown in {(81, 16): 40, (17, 8): 16, (5, 8): 4, (3, 24): 2, (129, 24): 42, (800, 6): 768}.items():
        picked = protocol.sampled_frames(count, fps)
        assert len(picked) == shown and picked[0] == 0 and picked[-1] == count - 1
        assert picked.tolist() == torch.linspace(0, count - 1, shown).round().long().tolist()
    with pytest.raises(NotScored, match="1 frames"):
        protocol.sampled_frames(1, 8)


def test_sizes_are_those_of_the_released_protocol():
    # values of qwen_vl_utils.vision_process.smart_resize(h, w, 28, 128 * 28 * 28, 360 * 420)
    for size, wanted in {
        (480, 832): (280, 504),
        (64, 64): (336, 336),
        (720, 1280): (280, 504),
        (832, 480): (504, 280),
    }.items():
        assert protocol.frame_size(*size) == wanted
    with pytest.raises(NotScored, match="200"):
        protocol.frame_size(10, 3000)


def test_the_released_prompt_is_word_for_word():
    assert protocol.prompt("released", "Is it red?") == (
        "Question: Is it red?\n\nPlease watch the video carefully and answer the question based solely on what you observe. "
        "Reply with 'yes' or 'no' followed by a brief explanation of your reasoning."
    )
    with pytest.raises(ValueError, match="free"):
        QwenJudge(protocol="free")


@pytest.mark.parametrize(
    ("reply", "released", "words"),
    [("Yes, it does.", "yes", "yes"), ("no", "no", "no"), ("No. Nothing moves.", "no", "no"),
     ("Note that the cat is clearly visible: yes", "no", "yes"), ("Nobody leaves the frame: yes", "no", "yes"),
     ("Now a cat appears, yes", "no", "yes"), ("The answer is yes", "yes", "yes"), ("It cannot be told", "no", "unknown"),
     ("", "unknown", "unknown"), ("Perhaps it is", "unknown", "unknown"), ("Yes, there is no dog", "yes", "yes"),
     ("The answer: no, and not yes", "no", "unknown"), ("**Yes**, as no other does", "yes", "yes")],
)  # fmt: skip
def test_replies_are_read_by_the_released_rule_and_by_words(reply, released, words):
    assert protocol.read_as_released(reply) == released and protocol.read_by_words(reply) == words


# The model ---------------------------------------------------------------------------------------------------------------


def test_patches_equal_those_of_transformers():
    vision = SimpleNamespace(patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    frames = np.random.default_rng(0).integers(0, 256, (2, 280, 504, 3), dtype=np.uint8)
    ours, grid = patches(np.repeat(frames, 2, axis=0), vision)  # an image is a frame shown twice
    theirs = Qwen2VLImageProcessorPil(do_resize=False)(list(frames), return_tensors="pt")
    assert grid == (2, 20, 36) and torch.allclose(ours, theirs["pixel_values"], atol=1e-5)
    odd, grid = patches(frames[[0, 0, 1]], vision)
    assert grid == (2, 20, 36) and torch.equal(odd, ours)


def test_frames_are_resized_with_antialiasing():
    vision = SimpleNamespace(patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    board = np.kron(np.indices((480, 832)).sum(0) % 2, np.ones((1, 1)))[None, ..., None] * np.full(3, 255)
    pixels, grid = patches(np.repeat(board.astype(np.uint8), 2, axis=0), vision)
    assert grid == (1, 20, 36) and float(pixels.std(0).mean()) < 0.1  # grey, not a moire


def test_log_odds_are_the_models_own(qwen, tmp_path):
    scorer, video = judge(qwen), video_of(tmp_path, moving())
    values = scorer.score(video, Sample(questions=QUESTIONS))
    check_values(scorer, values)
    model, tokenizer = scorer.loaded
    pixels, grid = patches(video.frames[protocol.sampled_frames(9, 8)], model.config.vision_config)
    inputs = model_inputs(
        model, tokenizer, protocol.prompt("log_odds", QUESTIONS[0]["question"]), pixels, grid, 2 / (8 * 8 / 9)
    )
    with torch.no_grad():
        p = model(**inputs).logits[0, -1].double().softmax(0)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert values["log_odds/a"] == pytest.approx(math.log(p[yes] / p[no]), abs=1e-4)
    assert values["yes_no_mass/a"] == pytest.approx(float(p[yes] + p[no]), rel=1e-4)
    assert values["answer/a"] == float(values["log_odds/a"] > 0) == values["right/a"]
    assert values["right/b"] == 1 - values["answer/b"]
    assert values["macro"] == (values["right/a"] + values["right/b"]) / 2
    assert values["adherence"] == values["right/a"] * values["right/b"]


def test_the_video_and_its_time_base_reach_the_model(qwen, tmp_path):
    scorer, frames = judge(qwen), moving()
    shown = [
        video_of(tmp_path, frames),
        video_of(tmp_path, frames[::-1].copy(), name="back.mkv"),
        Video(tmp_path / "clip.mkv", 2),
    ]
    odds = [scorer.score(v, Sample(questions=QUESTIONS[:1]))["log_odds/a"] for v in shown]
    assert len(set(odds)) == 3


def test_the_released_protocol_generates_greedily_and_reads_the_reply(qwen, tmp_path):
    scorer, video = judge(qwen, protocol="released"), video_of(tmp_path, moving())
    model, tokenizer = scorer.loaded
    values = scorer.score(video, Sample(questions=QUESTIONS))
    check_values(scorer, values)
    reply = scorer.listener(video)(QUESTIONS[0]["question"]).text
    pixels, grid = patches(video.frames[protocol.sampled_frames(9, 8)], model.config.vision_config)
    inputs = model_inputs(
        model, tokenizer, protocol.prompt("released", QUESTIONS[0]["question"]), pixels, grid, 2 / 2.0
    )
    with torch.no_grad():
        first = model(**inputs).logits[0, -1].argmax()
    assert reply.startswith(tokenizer.decode(first)) and len(tokenizer(reply).input_ids) <= protocol.NEW_TOKENS + 8
    assert {m.partition("/")[0] for m in values} == {"answer", "right", "word_answer", "macro", "adherence"}


def test_an_undecided_reply_is_wrong_and_says_what_was_said(tmp_path):
    class Shrugging(protocol.Judge):
        def listener(self, video):
            return lambda question: protocol.Reply("unknown", words="unknown", text="Perhaps.")

    values = Shrugging().score(None, Sample(questions=QUESTIONS))
    assert values["macro"] == 0 and values["right/a"] == 0
    assert values["answer/a"].status == "undefined" and "Perhaps" in values["answer/a"].reason


def test_even_odds_and_odd_logits():
    logits = torch.zeros(6)
    assert read_logits(logits, [1, 2], [3, 4]).answer == "unknown"
    logits[1] = 2.0
    said = read_logits(logits, [1, 2], [3, 4])
    assert said.answer == "yes" and said.log_odds == pytest.approx(math.log((math.e**2 + 1) / 2))
    assert said.mass == pytest.approx((math.e**2 + 3) / (math.e**2 + 5))
    with pytest.raises(NotScored, match="not finite"):
        read_logits(logits * torch.nan, [1], [3])


def test_all_spellings_that_are_one_token_count(qwen):
    spelled = {"yes": [1], "Yes": [2], " Yes": [7], "no": [3], "NO": [4], " no": [5, 6]}
    fake = SimpleNamespace(encode=lambda text, add_special_tokens: spelled.get(text, [8, 9]))
    assert word_tokens(fake) == ([1, 2, 7], [3, 4])
    with pytest.raises(ValueError, match="no single token"):
        word_tokens(SimpleNamespace(encode=lambda text, add_special_tokens: [8, 9]))


def test_what_is_missing_is_said_before_anything_is_loaded(qwen, tmp_path):
    assert judge(qwen).available() is None
    why = QwenJudge(model="Qwen/Qwen2.5-VL-32B-Instruct").available()
    assert "hf download Qwen/Qwen2.5-VL-32B-Instruct" in why and "qwen_judge:model=FOLDER" in why
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    assert "safetensors" in QwenJudge(model=str(tmp_path)).available()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="qwen2_vl"):
        _ = QwenJudge(model=str(tmp_path)).loaded
    with pytest.raises(ValueError, match="float16"):
        QwenJudge(dtype="float16")


def test_answers_reach_the_table_and_are_kept(qwen, tmp_path, monkeypatch):
    video_of(tmp_path, moving())
    row = Row("clip.mkv", tmp_path / "clip.mkv", Sample(questions=QUESTIONS))
    gone = Row("gone.mkv", tmp_path / "gone.mkv", Sample(questions=QUESTIONS))
    name = f"qwen_judge:model={qwen},dtype=float32,device=cpu"
    lines = evaluate([row, gone], [name], Settings(tmp_path / "cache"))
    values = {line[3]: line[4] for line in lines if line[0] == "clip.mkv"}
    assert set(values) == {f"{m}/{q}" for m in ("answer", "right", "log_odds", "yes_no_mass") for q in "ab"} | {
        "macro",
        "adherence",
    }
    assert {line[5] for line in lines if line[0] == "gone.mkv"} == {
        "missing"
    }  # counted, where the released script drops it
    monkeypatch.setattr(QwenJudge, "listener", None)  # a second run asks nothing
    assert evaluate([row, gone], [name], Settings(tmp_path / "cache")) == lines


def test_weights_are_part_of_the_key(qwen, tmp_path):
    other = tiny_qwen(tmp_path, seed=1)
    assert judge(qwen).fingerprint() != judge(other).fingerprint() and len(judge(qwen).fingerprint()) == 20


@pytest.mark.parametrize(
    "questions",
    [None, [], [{"question": "", "expected_answer": "yes"}], [{"question": "Is it?", "expected_answer": "maybe"}],
     [QUESTIONS[0], QUESTIONS[0]]],
)  # fmt: skip
def test_bad_questions_are_no_input(questions):
    with pytest.raises(NotScored) as raised:
        protocol.checked_questions(questions)
    assert raised.value.status == "no_input"


# A server ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """An OpenAI-style server in a thread; `replies` are sent one after the other, `asked` is what came."""
    asked, replies = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, dict(self.headers), json.loads(body)))
            status, reply = replies.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode() if not isinstance(reply, bytes) else reply)

        def log_message(self, *arguments):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}/v1", asked=asked, replies=replies)
    http.shutdown()
    http.server_close()
    thread.join()


def tops(**shares):
    listed = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    return {"choices": [{"logprobs": {"content": [{"token": listed[0]["token"], "top_logprobs": listed}]}}]}


def test_a_server_is_asked_for_log_probabilities(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    scorer = make_scorer(f"server_judge:url={server.url},model=qwen")
    assert scorer.available() is None and scorer.spelled() == "server_judge:model=qwen"
    assert scorer.parameters()["url"] == server.url
    server.replies += [(200, tops(Yes=0.5, no=0.1, yes=0.2)), (200, tops(yes=0.6, maybe=0.4))]
    frames = moving(frames=5)
    values = scorer.score(video_of(tmp_path, frames), Sample(questions=QUESTIONS))
    check_values(scorer, values)
    assert values["log_odds/a"] == pytest.approx(math.log(0.7 / 0.1)) and values["yes_no_mass/a"] == pytest.approx(0.8)
    assert values["answer/b"] == 1 and values["log_odds/b"].status == "undefined" and values["macro"] == 0.5
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["logprobs"] and body["max_tokens"] == 1 and body["temperature"] == 0 and body["model"] == "qwen"
    *images, text = body["messages"][0]["content"]
    assert text["text"] == protocol.prompt("log_odds", QUESTIONS[0]["question"])
    assert len(images) == 4  # of 5 frames
    sent = [
        cv2.imdecode(np.frombuffer(base64.b64decode(i["image_url"]["url"].split(",")[1]), np.uint8), 1) for i in images
    ]
    assert all(image.shape == (*protocol.frame_size(48, 64), 3) for image in sent)
    small = cv2.resize(sent[-1], (64, 48), interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.abs(small.astype(int) - frames[-1]).mean() < 30 < np.abs(small.astype(int) - frames[0]).mean()


def test_a_server_gets_the_file_and_the_protocol_of_its_frames(server, tmp_path):
    scorer = ServerJudge(url=server.url, model="qwen", send="video", protocol="released")
    server.replies += [(200, {"choices": [{"message": {"content": text}}]}) for text in ("Yes, it jumps.", "Note: yes")]
    video = video_of(tmp_path, moving())
    values = scorer.score(video, Sample(questions=QUESTIONS))
    check_values(scorer, values)
    assert (
        values["adherence"] == 1 and values["answer/b"] == 0 and values["word_answer/b"] == 1
    )  # "Note" begins with "no"
    body = server.asked[0][2]
    assert body["mm_processor_kwargs"] == {"fps": 8.0, "max_pixels": 151200} and body["max_tokens"] == 128
    assert body["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 8.0}}
    url = body["messages"][0]["content"][0]["video_url"]["url"]
    assert base64.b64decode(url.split(",")[1]) == video.path.read_bytes()


@pytest.mark.parametrize(
    ("status", "reply", "said"),
    [(503, {"error": "busy"}, "answered 503.*busy"), (200, b"<html>", "gave no answer"), (200, {"choices": []}, "no choices"),
     (200, {"choices": [{"message": {"content": "yes"}}]}, "no top_logprobs")],
)  # fmt: skip
def test_what_a_server_does_wrong_is_said(server, tmp_path, status, reply, said):
    server.replies.append((status, reply))
    scorer = ServerJudge(url=server.url, model="qwen")
    with pytest.raises(RuntimeError, match=said):
        scorer.score(video_of(tmp_path, moving()), Sample(questions=QUESTIONS))


def test_a_server_that_is_not_there_or_not_set_up(tmp_path):
    assert "server_judge:url=" in ServerJudge().available()
    scorer = ServerJudge(url="http://127.0.0.1:9/v1", model="qwen", timeout=2.0)
    with pytest.raises(RuntimeError, match="gave no answer"):
        scorer.score(video_of(tmp_path, moving()), Sample(questions=QUESTIONS))
    for wrong in ({"url": "host:8000"}, {"send": "frames"}):
        with pytest.raises(ValueError):
            ServerJudge(**wrong)


def test_a_server_that_lists_neither_word_is_undecided():
    said = read_logprobs(tops(perhaps=0.9)["choices"][0])
    assert said.answer == "unknown" and said.mass == 0 and said.log_odds.status == "undefined"
