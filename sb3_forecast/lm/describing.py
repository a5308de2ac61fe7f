"""Prompts in active evaluation: which words they hold, and examples of the kinds that fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sb3_forecast.checks import whole
from sb3_forecast.descriptors import Descriptors
from sb3_forecast.lm.generation import generate_replies

_WORD = re.compile(r"\w+")


class Kind(Protocol):
    """A kind of prompt that fails."""

    @property
    def rule(self) -> str:
        """What its prompts look like."""

    @property
    def worst(self) -> Sequence[int]:
        """Its worst prompts, worst first."""


class FoundKinds(Protocol):
    """The part of an :class:`~sb3_forecast.measuring.active.report.ActiveReport` that is needed here."""

    @property
    def found(self) -> Sequence[Kind]:
        """Kinds of prompt that fail."""


def describe_prompts(prompts: Sequence[Any], n_words: int = 300) -> Descriptors:
    """For each of the words that occur in most prompts, how often a prompt holds it; and its number of words.

    Words that every prompt holds tell nothing and are left out. Pass the result as ``descriptors=`` to
    :class:`~sb3_forecast.measuring.active.evaluation.ActiveEvaluation`.

    :param prompts: texts, or lists of messages
    :param n_words: number of words
    :return: one row per prompt
    :raises ValueError: if there is no prompt, or ``n_words < 1``
    """
    whole("n_words", n_words, low=1, use="300")
    if not len(prompts):
        raise ValueError("prompts must hold at least one prompt, got none; pass the prompts of the deployment")
    texts = [prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt) for prompt in prompts]
    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    spread = Counter(word for words in counts for word in words)
    # ties are broken by the alphabet, so that the columns do not depend on the order of the prompts
    common = sorted((word for word, n in spread.items() if n < len(texts)), key=lambda word: (-spread[word], word))[:n_words]
    rows = np.array([[*(words[word] for word in common), sum(words.values())] for words in counts], dtype=np.float32)
    return Descriptors(rows, (*(f"{word!r} in the prompt" for word in common), "words"))


def mode_replies(
    model: Any, tokenizer: Any, prompts: Sequence[Any], report: FoundKinds, n: int = 3, max_new_tokens: int = 32, seed: int = 0
) -> dict[str, list[tuple[Any, str]]]:
    """Examples of the kinds of prompt that an active evaluation found: the worst prompts of each, with a sampled reply.

    :param model: the model that was evaluated
    :param tokenizer: its tokenizer
    :param prompts: all prompts of the deployment
    :param report: of the evaluation
    :param n: number of prompts of each kind
    :param max_new_tokens: largest number of tokens in a reply
    :param seed: seed of the replies
    :return: pairs of prompt and reply, by the kind's rule, in the order of the report
    """
    shown = {}
    for mode in report.found:
        worst = [prompts[task] for task in mode.worst[:n]]
        shown[mode.rule] = list(zip(worst, generate_replies(model, tokenizer, worst, max_new_tokens, 1.0, seed), strict=True))
    return shown
