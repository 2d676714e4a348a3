"""Which text keys belong to which words of the prompt that a pipeline was given."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from ..families import Family
from .interception import replace_attribute


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as a family's tokenizer cuts it.

    spans: token -> (start, end) in characters of the prompt; tokens are counted among the text keys of a sample, from 0.
    """

    prompt: str
    spans: dict[int, tuple[int, int]]

    def tokens_of(self, words: str) -> list[int]:
        """Tokens of one or more words of the prompt, of each place where they stand. Raises KeyError if they do not stand
        in it, or only behind the tokens that the model is given."""
        places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", self.prompt, re.IGNORECASE)]
        found = [i for i, (a, b) in self.spans.items() if any(a < end and b > start for start, end in places)]
        if not words or not places:
            raise KeyError(f"{words!r} is not in the prompt {self.prompt!r}")
        if not found:
            raise KeyError(f"{words!r} stands behind the tokens that the model is given of the prompt {self.prompt!r}")
        return found


def tokenize(family: Family, pipe, prompt: str, arguments: dict) -> PromptTokens:
    """The tokens of a prompt in a pipeline. arguments: of its `encode_prompt`, by name.

    Raises ValueError for a tokenizer that does not say which characters a token stands for.
    """
    text, start, cut = family.prompt_text(pipe, prompt, arguments)
    if not getattr(pipe.tokenizer, "is_fast", False):
        raise ValueError(f"the {type(pipe.tokenizer).__name__} does not say which characters its tokens stand for")
    offsets = pipe.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    shown = text[start : start + len(prompt)]
    spans = {
        i - cut: (a - start, b - start)
        for i, (a, b) in enumerate(offsets)
        if i >= cut and b > a and a >= start - 1 and b <= start + len(prompt)
    }
    return PromptTokens(shown, spans)


def watch_prompt(pipe, note):
    """Call note(prompt, arguments of `encode_prompt`) whenever the pipeline encodes a prompt; returns an undo.

    Raises ValueError for a bare transformer and for more than one prompt.
    """
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        raise ValueError("words are read from the prompt: give record a pipeline, not a transformer")
    signature = inspect.signature(encode)

    def noting(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        prompt = bound.arguments.get("prompt")
        if isinstance(prompt, list):
            if len(prompt) != 1:
                raise ValueError(f"words are recorded for one prompt at a time, not {len(prompt)}")
            prompt = prompt[0]
        if prompt is not None:
            note(prompt, dict(bound.arguments))
        return encode(*args, **kwargs)

    return replace_attribute(pipe, "encode_prompt", noting)
