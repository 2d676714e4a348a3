"""`with record(pipe) as rec`: exact attention statistics of every step, block and branch, without an L x L tensor.

What is computed for each attention call is in `attention_statistics`; here it is averaged and written out. The output of
the model is never touched.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..families import Block, family_of
from .attention_call import AttentionCall
from .attention_statistics import statistics
from .block_lists import choose_blocks
from .forward_context import ForwardContext
from .prompt_words import PromptTokens, tokenize, watch_prompt
from .steer import attach

COLUMNS = ["step", "steps", "timestep", "block", "branch", "site", "statistic", "query_frame", "key", "value", "samples",
           "queries_per_frame"]  # fmt: skip


@dataclass
class Recording:
    """Means over heads, queries and samples, per (step, block, branch, site); see `record` for the statistics."""

    entropy: bool = True
    groups: bool = True
    frames: bool = False
    received: bool = False
    largest: bool = False
    norm: bool = False
    blocks: str | tuple = "all"
    queries: int | None = None
    with_words: bool = False
    _sums: dict = field(default_factory=dict, repr=False)  # row key -> [sums per frame, samples, timestep, frames]
    _received: dict = field(default_factory=dict, repr=False)  # (step, block, branch, site) -> [sum (Lk,), samples]
    _steps: int | None = field(default=None, repr=False)
    _prompt: tuple[str, dict] | None = field(default=None, repr=False)  # what is being encoded
    _tokens: PromptTokens | None = field(default=None, repr=False)
    _maps: dict = field(default_factory=dict, repr=False)  # token -> [sum (F, H, W), calls] of the last video
    _last_step: int = field(default=-1, repr=False)

    def __post_init__(self):
        if self.queries is not None and (not isinstance(self.queries, int) or self.queries < 1):
            raise ValueError(f"record queries is a number of queries per latent frame, 1 or more, not {self.queries!r}")
        if isinstance(self.blocks, list):
            self.blocks = tuple(self.blocks)

    # The method's side (see method_protocol) -------------------------------------------------------------------------
    def check(self, model) -> None:
        """Raise ValueError for a block that does not exist."""
        choose_blocks(model, self.blocks)

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """At every step of the chosen blocks."""
        return block.index in choose_blocks(model, self.blocks)

    def watch(self, pipe):
        """Note the prompt of each video, if words are asked for. Raises ValueError then without a pipeline."""
        if not self.with_words:
            return lambda: None

        def note(prompt, arguments):
            if self._prompt is None:  # the negative prompt may be encoded after it
                self._prompt = prompt, arguments

        return watch_prompt(pipe, note)

    def _observe_words(self, call: AttentionCall) -> None:
        """Add the weights of the prompt's tokens, mean over heads and conditional samples, for every video query."""
        context, family = call.context, family_of(call.model.transformer)
        if call.site not in ("text", "joint") or context.branch == "uncond":
            return
        if self._prompt is not None:  # the first pass of a new video
            self._tokens, self._maps = tokenize(family, context.pipe, *self._prompt), {}
            self._prompt = None
        elif context.step < self._last_step:  # FramePack's next section
            self._maps = {}
        self._last_step = context.step
        if self._tokens is None:
            raise ValueError("words: the pipeline was given embeddings instead of a prompt")
        text = call.keys.where("text", "text_padding")[-1].nonzero().flatten()
        before = family.text_before(call.inputs)
        known = {token: before + token for token in self._tokens.spans if before + token < len(text)}
        rows = (call.queries.frames >= 0).nonzero().flatten()
        chosen = text[torch.tensor(list(known.values()), device=text.device, dtype=torch.long)]
        found = statistics(call, rows, entropy=False, groups=False, frames=False, tokens=chosen)["rows"]
        for i, token in enumerate(known):
            entry = self._maps.setdefault(token, [0.0, 0])
            mean = found["token", i][call.conditional()].double().mean((0, 1))
            entry[0], entry[1] = entry[0] + mean.reshape(call.layout.grid).cpu(), entry[1] + 1

    @torch.no_grad()
    def observe(self, call: AttentionCall, out: torch.Tensor) -> None:
        """Add the statistics of one attention call, as the methods left it, with its output (B, H, Lq, D)."""
        if self.with_words:
            self._observe_words(call)
        self._steps = call.context.steps
        batch, half = call.query.shape[0], call.query.shape[0] // 2
        branches = [(call.context.extra or call.context.branch, slice(0, batch))]
        if call.context.branch == "both":
            branches = [("uncond", slice(0, half)), ("cond", slice(half, batch))]
        rows, frame_of_row, frames = self._rows(call)
        result = statistics(
            call, rows, entropy=self.entropy, groups=self.groups, frames=self.frames, received=self.received,
            largest=self.largest,
        )  # fmt: skip
        values = result["rows"]
        if self.norm:
            values["norm", ""] = out[:, :, rows].float().square().sum((1, 3)).sqrt()[:, None]
        for branch, chosen in branches:
            count, where = chosen.stop - chosen.start, (call.context.step, call.block.name, branch, call.site)
            for name, value in values.items():  # (B, H or 1, n)
                per_row = value[chosen].double().mean(1).sum(0)
                total = torch.zeros(len(frames), dtype=torch.float64, device=value.device)
                total.index_add_(0, frame_of_row, per_row)
                entry = self._sums.setdefault((*where, *name), [0.0, 0, call.context.timestep, frames])
                entry[0] = entry[0] + total / frame_of_row.bincount(minlength=len(frames))
                entry[1] += count
            if self.received:
                entry = self._received.setdefault(where, [0.0, 0])
                entry[0] = entry[0] + result["received"][chosen].mean(1).sum(0) * len(rows)
                entry[1] += count * len(rows)

    def _rows(self, call):
        """(indices of video queries (n,), position of each one's frame in `frames` (n,), frames): all queries, or
        `queries` evenly spaced ones per frame."""
        frame_of_token, video = call.queries.frames, call.queries.where("reference", "video")[0]
        frames = frame_of_token[video & (frame_of_token >= 0)].unique().tolist()
        chosen = []
        for frame in frames:
            rows = ((frame_of_token == frame) & video).nonzero().flatten()
            if self.queries is not None and self.queries < len(rows):
                rows = rows[torch.linspace(0, len(rows) - 1, self.queries, device=rows.device).round().long()]
            chosen.append(rows)
        position = [torch.full_like(rows, i) for i, rows in enumerate(chosen)]
        return torch.cat(chosen), torch.cat(position), frames

    # The reader's side ---------------------------------------------------------------------------------------------
    def to_frame(self):
        """A tidy pandas frame, one value per row; columns as in COLUMNS. `query_frame` is the latent frame of the
        queries that `value` is a mean over; `key` is a token group, a latent frame of keys, or "" for entropies (nats).
        """
        import pandas as pd

        thinned = "all" if self.queries is None else self.queries
        rows = [
            (step, self._steps, timestep, block, branch, site, name, frame, key, value / count, count, thinned)
            for (step, block, branch, site, name, key), (total, count, timestep, frames) in self._sums.items()
            for frame, value in zip(frames, total.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def attention_received(self, step: int, block: str, branch: str, site: str) -> torch.Tensor:
        """(Lk,) mean attention that each key receives from a video query; sums to 1 over the keys."""
        if (step, block, branch, site) not in self._received:
            raise KeyError(f"nothing recorded for step {step}, block {block!r}, branch {branch!r}, site {site!r}")
        total, count = self._received[step, block, branch, site]
        return (total / count).cpu()

    def words(self, words: str) -> torch.Tensor:
        """(F, H, W) float64: the attention that each video token pays to one or more words of the prompt, mean over heads,
        recorded blocks and steps of the conditional branch, in the last video. F: latent frames, of which the first is the
        reference's; of FramePack those of its last section.

        Raises KeyError for words that are not in the prompt, ValueError if no words were recorded.
        """
        if not self._maps:
            raise ValueError("no words were recorded: record(pipe, words=True), and run the pipeline")
        maps = [self._maps[t] for t in self._tokens.tokens_of(words) if t in self._maps]
        if not maps:
            raise KeyError(f"{words!r} stands behind the tokens that the model was given")
        return sum(total / count for total, count in maps)

    def save(self, path: str | Path) -> None:
        """Write the frame as CSV, under a temporary name first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.to_frame().to_csv(temporary, index=False, lineterminator="\n", compression=None)
        os.replace(temporary, path)


@contextmanager
def record(
    pipe_or_transformer,
    *,
    entropy: bool = True,
    groups: bool = True,
    frames: bool = False,
    received: bool = False,
    largest: bool = False,
    norm: bool = False,
    blocks: str | list = "all",
    queries: int | None = None,
    words: bool = False,
    steps: int | None = None,
    image_tokens: int | None = None,
    branches: tuple[str, ...] | None = None,
):
    """Record attention statistics of video queries inside a `with` block, after all methods of `steer`.

    groups: attention mass per token group. frames: mass per latent frame of keys (frame-to-frame matrix).
    entropy: of each row over all keys and within the text and image keys, nats. largest: largest weight of a row.
    received: mean attention per key. norm: Euclidean length of the attention output over all heads, before the output
    projection; in cross-attention the outputs of the image and the text branch are added, so their norms say how much of
    the sum is text. blocks: as in AlignVid. queries: this many evenly spaced queries per latent frame instead of all of them
    (the table states it): exact for these, an estimate of the frame's mean. words: keep what every video token
    pays to every token of the prompt, for `Recording.words`; needs a pipeline. steps, image_tokens, branches: as in `steer`.
    Statistics are computed in float32.
    Yields a Recording, which averages over all videos made under the context.
    """
    recording = Recording(entropy, groups, frames, received, largest, norm, blocks, queries, words)
    with attach(pipe_or_transformer, [recording], steps=steps, image_tokens=image_tokens, branches=branches):
        yield recording
